"""`kn-bench deploy|delete|patch` against a fake API server: what is asked for, in which order, and what is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import needs
from tests.deploy.controller import Controller
from tests.kube.fake_api import ALL, FakeApi, in_thread
from tests.kube.hasty import hasty
from workload_generator.commands import kn_bench
from workload_generator.kube import resources as kinds

pytestmark = needs.mark(needs.KUSTOMIZE)
PREFIX = "autoscaling.knative.dev/"
Run = Callable[..., int]


def annotations(api: FakeApi, name: str) -> dict[str, str]:
    found = api.find(kinds.SERVICES, name, "functions")
    assert found is not None
    about = found["spec"]["template"].get("metadata", {}).get("annotations", {})
    return {key.removeprefix(PREFIX): value for key, value in about.items()}


def services(api: FakeApi) -> list[str]:
    return sorted(obj["metadata"]["name"] for obj in api.objects(kinds.SERVICES))


def writes(api: FakeApi) -> list[str]:
    """Names of what was written, in order; without what the server only checked."""
    wrote = [each for each in api.requests if each.split()[0] in ("PATCH", "POST", "DELETE")]
    lines = [each.partition("?")[0].split() for each in wrote if "dryRun=All" not in each]
    return [f"{method} {path.rpartition('/')[2]}" for method, path in lines]


def test_functions_and_generator_are_the_default(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    assert kn_bench("deploy") == 0
    assert "empty-go-http-0" in services(api) and len(services(api)) == 10
    assert api.find(kinds.DEPLOYMENTS, "workload-generator", "workload-generator") is not None
    assert api.objects(kinds.BROKERS) == []
    for kind in (kinds.SERVICES, kinds.DEPLOYMENTS, kinds.NAMESPACES):
        for obj in api.objects(kind):
            assert obj["metadata"]["labels"]["app.kubernetes.io/part-of"] == "knative-bench"
    first = capsys.readouterr().out
    assert (
        "created    Service functions/empty-go-http-0" in first
        and "ready      Service functions/empty-go-http-0" in first
    )
    assert kn_bench("deploy") == 0
    again = capsys.readouterr().out
    assert "created" not in again.replace("created or changed", "") and "0 of them were created or changed" in again


def test_copies_images_concurrency_and_autoscaling_are_as_asked_for(controller: Controller, kn_bench: Run) -> None:
    flags = "--count=2 --registry=reg.example/bench --tag=9 --container-concurrency=1 --metric=rps --target=0.5 "
    flags += "--class=kpa --min-scale=1 --max-scale=40 --window=1m30s --annotation=initial-scale=2"
    assert kn_bench("deploy", "empty-go-http", "echo-go-http", *flags.split()) == 0
    api = controller.api
    assert services(api) == ["echo-go-http-0", "echo-go-http-1", "empty-go-http-0", "empty-go-http-1"]
    found = api.find(kinds.SERVICES, "empty-go-http-1", "functions")
    assert found is not None
    spec = found["spec"]["template"]["spec"]
    assert spec["containers"][0]["image"] == "reg.example/bench/empty-go-http:9"
    assert spec["containerConcurrency"] == 1
    assert annotations(api, "empty-go-http-1") == {
        "metric": "rps",
        "target": "0.5",
        "class": "kpa.autoscaling.knative.dev",
        "min-scale": "1",
        "max-scale": "40",
        "window": "1m30s",
        "initial-scale": "2",
    }


def test_fewer_copies_are_fewer_and_what_is_not_said_any_more_goes(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kn_bench("deploy", "empty-go-http", "--count=3", "--max-scale=4") == 0
    assert kn_bench("deploy", "echo-go-http", "--count=2") == 0
    assert kn_bench("deploy", "empty-go-http") == 0
    api = controller.api
    assert services(api) == ["echo-go-http-0", "echo-go-http-1", "empty-go-http-0"]
    assert annotations(api, "empty-go-http-0") == {}
    assert "gone       Service functions/empty-go-http-2" in capsys.readouterr().out


def test_eventing_comes_in_order_and_its_source_last(controller: Controller, kn_bench: Run) -> None:
    api = controller.api
    assert kn_bench("deploy", "eventing", "--triggers=3", "--parallelism=7") == 0
    triggers = {obj["metadata"]["name"]: obj for obj in api.objects(kinds.TRIGGERS)}
    assert sorted(triggers) == ["receiver-0", "receiver-1", "receiver-2"]
    assert triggers["receiver-2"]["spec"]["subscriber"]["uri"] == "/t/receiver-2"
    assert triggers["receiver-2"]["metadata"]["annotations"] == {"rabbitmq.eventing.knative.dev/parallelism": "7"}
    done = writes(api)
    order = ["PATCH eventing", "PATCH rabbitmq", "PATCH default", "PATCH receiver-0", "PATCH receiver-2"]
    assert [done.index(name) for name in order] == sorted(done.index(name) for name in order)
    assert done[-1] == "PATCH workload-generator"  # the ContainerSource
    assert api.requests[-1] != done[-1]
    deployment = api.find(kinds.DEPLOYMENTS, "workload-generator", "workload-generator")
    assert deployment is not None and deployment["spec"]["replicas"] == 0


def test_the_sink_is_ready_before_its_source_is_made(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    controller.stuck["default"] = "no exchange"
    with hasty(controller.api, 60):
        assert kn_bench("deploy", "eventing", "--timeout=60s") == 1
    assert controller.api.objects(kinds.CONTAINER_SOURCES) == []
    told = capsys.readouterr().err
    assert "brokers.eventing.knative.dev eventing/default: RevisionFailed: no exchange" in told
    assert "\ndone: created Namespace eventing\n" in told and "\ndone: created Broker eventing/default\n" in told
    assert "not done: ContainerSource workload-generator/workload-generator" in told
    assert "the same kn-bench deploy resumes from here" in told
    controller.stuck.clear()
    broker = controller.api.find(kinds.BROKERS, "default", "eventing")
    assert broker is not None
    controller.see("MODIFIED", {**broker, "status": {}})
    assert kn_bench("deploy", "eventing") == 0
    assert len(controller.api.objects(kinds.CONTAINER_SOURCES)) == 1


def test_what_does_not_get_ready_is_named_with_its_reason(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    controller.stuck["empty-go-http-0"] = 'Unable to fetch image "dev.local/empty-go-http:0.1.0"'
    with hasty(controller.api, 60):
        assert kn_bench("deploy", "empty-go-http", "echo-go-http", "--timeout=60s") == 1
    told = capsys.readouterr().err
    assert 'functions/empty-go-http-0: RevisionFailed: Unable to fetch image "dev.local' in told
    assert "echo-go-http-0:" not in told
    assert told.startswith("kn-bench: not ready in time:\n  services.serving.knative.dev functions/empty-go-http-0")


def test_the_pods_reason_is_told_where_the_object_has_none(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    controller.stuck["workload-generator"] = ""
    waiting = {"state": {"waiting": {"reason": "ErrImageNeverPull", "message": "it is not on the node"}}}
    about = {
        "name": "workload-generator-1",
        "namespace": "workload-generator",
        "labels": {"app.kubernetes.io/name": "workload-generator"},
    }
    controller.api.put(
        kinds.PODS, {"metadata": about, "spec": {"containers": []}, "status": {"containerStatuses": [waiting]}}
    )
    with hasty(controller.api, 60):
        assert kn_bench("deploy", "generator", "--timeout=60s") == 1
    told = capsys.readouterr().err
    assert "0 of 1 pods are available; pod workload-generator-1: ErrImageNeverPull: it is not on the node" in told


def test_an_existing_claim_stays_as_it_is(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    api.put(kinds.NAMESPACES, {"metadata": {"name": "workload-generator"}})
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "5Gi"}}, "volumeName": "pv-1"}
    api.put(kinds.VOLUME_CLAIMS, {"metadata": {"name": "logs", "namespace": "workload-generator"}, "spec": spec})

    def admit(obj: dict[str, Any]) -> None:
        if obj["kind"] == "PersistentVolumeClaim" and obj["spec"] != spec:
            raise ValueError("only dynamically provisioned pvc can be resized")

    api.admit = admit
    for flags in (("--dry-run",), ()):
        assert kn_bench("deploy", "generator", *flags) == 0
        kept = "PersistentVolumeClaim workload-generator/logs: its storage stays 5Gi, and the manifests ask for 20Gi"
        out = capsys.readouterr().out
        assert f"kept       {kept}\n" in out
    assert "0 of them" not in out and "; 1 kept what they had\n" in out
    claim = api.find(kinds.VOLUME_CLAIMS, "logs", "workload-generator")
    assert claim is not None and claim["spec"] == spec
    assert claim["metadata"]["labels"]["knative-bench/part"] == "generator", "delete finds it"
    spec["resources"] = {"requests": {"storage": "20480Mi"}}
    api.put(kinds.VOLUME_CLAIMS, {**claim, "spec": spec})
    assert kn_bench("deploy", "generator") == 0
    assert "unchanged  PersistentVolumeClaim workload-generator/logs\n" in capsys.readouterr().out


def test_what_the_server_refuses_is_refused_before_anything_changes(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    assert kn_bench("deploy", "empty-go-http", "--count=2") == 0
    before = writes(api)

    def admit(obj: dict[str, Any]) -> None:
        if obj["kind"] == "Service" and obj["metadata"]["name"] == "echo-go-http-0":
            raise ValueError("the quota is used up")

    api.admit = admit
    assert kn_bench("deploy", "empty-go-http", "echo-go-http") == 1
    told = capsys.readouterr().err
    assert "the quota is used up" in told and "done" not in told
    assert writes(api) == before
    api.admit = lambda obj: admit({**obj, "metadata": {"name": "echo-go-http-0"}}) if "max" in str(obj) else None
    assert kn_bench("patch", "--max-scale=7") == 1
    assert "the quota is used up" in capsys.readouterr().err and writes(api) == before


def test_what_fails_half_way_says_what_was_done(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    assert kn_bench("deploy", "empty-go-http", "echo-go-http") == 0
    seen: list[str] = []

    def admit(obj: dict[str, Any]) -> None:
        seen.append(obj["metadata"]["name"])
        if seen.count("empty-go-http-0") > 1:  # the first time it is only checked
            raise ValueError("the quota is used up")

    api.admit = admit
    assert kn_bench("patch", "--max-scale=7") == 1
    told = capsys.readouterr().err
    assert "\ndone: changed Service functions/echo-go-http-0: max-scale none → 7\n" in told
    assert "\nnot done: Service functions/empty-go-http-0: max-scale none → 7\n" in told
    api.fail(r"DELETE .*/services/empty-go-http-0", status=500, times=99)
    assert kn_bench("delete", "functions") == 1
    told = capsys.readouterr().err
    assert "not done: Service functions/empty-go-http-0\n" in told


def test_two_generators_are_refused(controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert kn_bench("deploy", "eventing") == 0
    before = len(writes(controller.api))
    assert kn_bench("deploy", "generator") == 2
    assert "the generator runs as ContainerSource workload-generator/workload-generator" in capsys.readouterr().err
    assert kn_bench("delete", "generator") == 2
    assert len(writes(controller.api)) == before


def test_what_the_server_refuses_is_said_with_what_was_not_done(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    def admit(obj: dict[str, Any]) -> None:
        if obj["kind"] == "Service" and "max-scale" in str(obj):
            raise ValueError('admission webhook "validation.webhook.serving.knative.dev" denied the request: too many')

    controller.api.admit = admit
    assert kn_bench("deploy", "empty-go-http", "--max-scale=7") == 1
    told = capsys.readouterr().err
    assert "denied the request: too many" in told and "not done: Service functions/empty-go-http-0" in told


def test_a_dry_run_and_a_print_change_nothing(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    assert kn_bench("deploy", "--dry-run") == 0
    told = capsys.readouterr().out
    assert "unchecked  Service functions/empty-go-http-0: its namespace does not exist yet" in told
    api.put(kinds.NAMESPACES, {"metadata": {"name": "functions"}})
    assert kn_bench("deploy", "empty-go-http", "--dry-run") == 0
    assert "created    Service functions/empty-go-http-0" in capsys.readouterr().out
    assert api.objects(kinds.SERVICES) == []
    asked = len(api.requests)
    assert kn_bench("deploy", "eventing", "empty-go-http", "--triggers=2", "--print") == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert len([each for each in documents if each["kind"] == "Trigger"]) == 2
    assert documents[-1]["kind"] == "ContainerSource"
    assert len(api.requests) == asked


def test_delete_takes_what_was_deployed_and_nothing_else(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    api.put(kinds.SERVICES, {"metadata": {"name": "theirs", "namespace": "functions"}, "spec": {"template": {}}})
    assert kn_bench("deploy", "eventing", "empty-go-http", "--count=2") == 0
    assert kn_bench("delete", "--dry-run") == 0
    assert "deleted    Service functions/empty-go-http-1" in capsys.readouterr().out
    assert len(services(api)) == 3
    assert kn_bench("delete", "eventing") == 0
    assert api.objects(kinds.TRIGGERS) == [] and api.objects(kinds.CONTAINER_SOURCES) == []
    generator = api.find(kinds.DEPLOYMENTS, "workload-generator", "workload-generator")
    assert generator is not None and generator["spec"]["replicas"] == 1
    assert len(services(api)) == 3
    assert kn_bench("delete") == 0
    assert services(api) == ["theirs"] and api.objects(kinds.DEPLOYMENTS) == []
    assert {obj["metadata"]["name"] for obj in api.objects(kinds.VOLUME_CLAIMS)} == {"logs", "event-logger"}
    assert kn_bench("delete", "--volumes") == 0
    assert api.objects(kinds.VOLUME_CLAIMS) == [] and len(api.objects(kinds.NAMESPACES)) == 4
    assert kn_bench("delete", "--namespaces") == 0
    assert api.objects(kinds.NAMESPACES) == []
    capsys.readouterr()
    assert kn_bench("delete") == 0
    assert "nothing to delete" in capsys.readouterr().out


def test_delete_of_a_function_leaves_the_others(controller: Controller, kn_bench: Run) -> None:
    assert kn_bench("deploy", "empty-go-http", "echo-go-http", "--count=2") == 0
    assert kn_bench("delete", "empty-go-http") == 0
    assert services(controller.api) == ["echo-go-http-0", "echo-go-http-1"]


def test_what_does_not_go_is_named(controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert kn_bench("deploy", "empty-go-http") == 0
    api = controller.api
    (there,) = api.objects(kinds.SERVICES)
    there["metadata"]["finalizers"] = ["somebody/else"]
    api.put(kinds.SERVICES, there)
    with hasty(controller.api, 60):
        assert kn_bench("delete", "--timeout=60s") == 1
    assert "services.serving.knative.dev functions/empty-go-http-0: it is being deleted" in capsys.readouterr().err


def test_pods_that_end_are_waited_for(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kn_bench("deploy", "empty-go-http") == 0
    about = {"name": "p", "namespace": "functions", "labels": {"serving.knative.dev/service": "empty-go-http-0"}}
    controller.api.put(kinds.PODS, {"metadata": about, "spec": {"containers": []}})
    with hasty(controller.api, 60):
        assert kn_bench("delete", "--timeout=60s") == 1
    assert "functions/empty-go-http-0: its pods are terminating" in capsys.readouterr().err


def test_where_eventing_is_not_installed_the_rest_works(tmp_path: Path) -> None:
    served = [kind for kind in ALL if "eventing" not in kind.group and kind.group not in
              ("sources.knative.dev", "flows.knative.dev", "rabbitmq.com")]  # fmt: skip
    with in_thread(FakeApi(served)) as api:
        Controller(api)
        config = api.write_kubeconfig(tmp_path / "config")
        assert kn_bench.main(["deploy", f"--kubeconfig={config}", "empty-go-http", "generator"]) == 0
        assert kn_bench.main(["delete", f"--kubeconfig={config}"]) == 0
        assert api.objects(kinds.SERVICES) == []
        assert kn_bench.main(["deploy", f"--kubeconfig={config}", "eventing"]) == 1


# patch


def test_patch_shows_old_and_new_and_waits_for_the_revision(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    assert kn_bench("deploy", "empty-go-http", "echo-go-http", "--count=2", "--max-scale=4") == 0
    capsys.readouterr()
    assert kn_bench("patch", "empty-go-http", "--container-concurrency=1", "--max-scale=none", "--metric=rps") == 0
    told = capsys.readouterr().out
    assert "Service functions/empty-go-http-0: containerConcurrency none → 1" in told
    assert "Service functions/empty-go-http-1: max-scale 4 → none" in told
    assert "ready      Service functions/empty-go-http-1" in told
    assert annotations(api, "empty-go-http-0") == {"metric": "rps"}
    assert annotations(api, "echo-go-http-0") == {"max-scale": "4"}
    one = api.find(kinds.SERVICES, "empty-go-http-0", "functions")
    assert one is not None and one["metadata"]["generation"] == 2  # one revision for all of it
    assert kn_bench("patch", "empty-go-http", "--container-concurrency=1") == 0
    assert "nothing to change: all values are set already" in capsys.readouterr().out
    assert kn_bench("patch", "echo-go-http-1", "--max-scale=9", "--dry-run") == 0
    assert "max-scale 4 → 9" in capsys.readouterr().out and annotations(api, "echo-go-http-1") == {"max-scale": "4"}
    assert kn_bench("patch", "echo-go-http-1", "--max-scale=9") == 0
    assert annotations(api, "echo-go-http-1") == {"max-scale": "9"}
    assert annotations(api, "echo-go-http-0") == {"max-scale": "4"}


def test_patch_of_a_revision_that_fails_says_why(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kn_bench("deploy", "empty-go-http") == 0
    controller.stuck["empty-go-http-0"] = "it crashes"
    with hasty(controller.api, 60):
        assert kn_bench("patch", "--max-scale=9", "--timeout=60s") == 1
    assert "functions/empty-go-http-0: RevisionFailed: it crashes" in capsys.readouterr().err


def test_patch_of_parallelism_waits_for_the_dispatcher(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    assert kn_bench("patch", "--parallelism=5") == 2
    assert "--parallelism: no trigger is deployed" in capsys.readouterr().err
    assert kn_bench("deploy", "eventing", "--triggers=2") == 0
    capsys.readouterr()
    assert kn_bench("patch", "--parallelism=20") == 0
    assert "Trigger eventing/receiver-1: parallelism 10 → 20" in capsys.readouterr().out
    controller.dispatchers = False
    with hasty(controller.api, 60):
        assert kn_bench("patch", "--parallelism=5", "--timeout=60s") == 1
    assert "receiver-0-dispatcher has PARALLELISM 20, not 5" in capsys.readouterr().err
    controller.dispatchers = True
    assert kn_bench("deploy", "eventing", "--broker=in-memory") == 0
    assert kn_bench("patch", "--parallelism=5") == 2
    assert "only RabbitMQ's triggers have one" in capsys.readouterr().err
    assert len(api.objects(kinds.TRIGGERS)) == 1


def test_patch_of_the_autoscalers_config(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    api = controller.api
    about = {"name": "config-autoscaler", "namespace": "knative-serving"}
    api.put(kinds.CONFIG_MAPS, {"metadata": about, "data": {"stable-window": "60s", "_example": "…"}})
    assert kn_bench("patch", "--autoscaler=stable-window=10s", "--autoscaler=scale-to-zero-grace-period=10s") == 0
    told = capsys.readouterr().out
    assert "ConfigMap knative-serving/config-autoscaler: stable-window 60s → 10s" in told
    assert "scale-to-zero-grace-period none → 10s" in told
    assert kn_bench("patch", "--autoscaler=scale-to-zero-grace-period=none") == 0
    config = api.find(kinds.CONFIG_MAPS, "config-autoscaler", "knative-serving")
    assert config is not None and config["data"] == {"stable-window": "10s", "_example": "…"}


# What is wrong


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("deploy --target=0", "argument --target: 0 is less than 0.01"),
        ("deploy --target=many", "argument --target: 'many' is not a number"),
        ("deploy --window=5s", "argument --window: 5s is not a valid window: whole seconds, from 6s to 1h"),
        ("deploy --window=10", "argument --window"),
        ("deploy --metric=requests", "argument --metric: invalid choice"),
        ("deploy --metric=cpu", "--metric: cpu needs --class hpa"),
        ("deploy --metric=rps --class=hpa", "--metric: rps needs --class kpa"),
        ("deploy --min-scale=-1", "argument --min-scale"),
        ("deploy --min-scale=5 --max-scale=4", "--min-scale 5 is more than --max-scale 4"),
        ("deploy --max-scale=none", "argument --max-scale"),
        ("deploy --count=0", "argument --count: must be at least 1"),
        ("deploy --container-concurrency=1.5", "argument --container-concurrency"),
        ("deploy --parallelism=1001 eventing", "argument --parallelism: 1001 is not from 1 to 1000"),
        (
            "deploy --parallelism=4 eventing --broker=in-memory",
            "--parallelism: only RabbitMQ triggers have a parallelism",
        ),
        ("deploy --triggers=4", "--triggers needs eventing"),
        ("deploy generator --count=4", "--count needs functions"),
        ("deploy generator --annotation=a=b", "--annotation needs functions"),
        ("deploy --annotation=max-scale=4", "--annotation max-scale=4: use --max-scale"),
        ("deploy --annotation=max-scale", "argument --annotation: 'max-scale' is not KEY=VALUE"),
        ("deploy --registry=https://reg.example", "argument --registry"),
        ("deploy --tag=a/b", "argument --tag"),
        ("deploy --overlay=moon", "--overlay: moon is not one of "),
        ("deploy --component=wings", "--component: wings is not one of cold-start-"),
        ("deploy empty-go-htp", "empty-go-htp is not a function of the manifests; did you mean empty-go-http?"),
        ("deploy functions empty-go-http", "functions means all functions"),
        ("deploy --manifests=/nowhere", "--manifests: /nowhere has no kustomization.yaml"),
        ("deploy --timeout=0s", "argument --timeout"),
        ("deploy --broker=kafka", "argument --broker: invalid choice"),
        ("delete functions empty-go-http", "delete either parts or functions"),
        ("delete empty-go-http --volumes", "--volumes works with whole parts"),
        ("delete empty-go-htp", "did you mean empty-go-http?"),
        ("patch", "nothing to change: give"),
        ("patch empty-go-http --parallelism=3", "empty-go-http: nothing to change: give"),
        ("patch --max-scale=3", "no function is deployed in functions: run kn-bench deploy functions"),
        ("patch nothing-http --max-scale=3", "nothing-http is not deployed in functions"),
        ("patch --autoscaler=stable-window", "argument --autoscaler: 'stable-window' is not KEY=VALUE"),
    ],
)
def test_bad_input_names_the_flag_and_changes_nothing(
    controller: Controller, kn_bench: Run, capsys: pytest.CaptureFixture[str], command: str, said: str
) -> None:
    name, *flags = command.split()
    try:
        code = kn_bench(name, *flags)
    except SystemExit as stopped:
        code = int(str(stopped.code))
    assert code == 2
    assert said in capsys.readouterr().err
    assert writes(controller.api) == []


def test_without_kubectl_it_says_so(
    kn_bench: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "")
    assert kn_bench("deploy") == 2
    assert "kubectl (or kustomize), which renders the manifests, is not on PATH" in capsys.readouterr().err


def test_an_overlay_that_kustomize_refuses_is_told_in_its_words(
    kn_bench: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text("resources: [nothing.yaml]")
    assert kn_bench("deploy", f"--overlay={mine}") == 2
    told = capsys.readouterr().err
    assert f"{mine}: kustomize failed" in told and "nothing.yaml" in told


def test_an_overlay_of_ones_own_with_eventing(
    controller: Controller, kn_bench: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = Path(__file__).parents[2] / "k8s"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "kustomization.yaml").write_text(
        json.dumps({"resources": [os.path.relpath(root / "overlays/kind", mine.resolve())], "namePrefix": ""})
    )
    assert kn_bench("deploy", f"--overlay={mine}", "eventing", "--print") == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    (source,) = [each for each in documents if each["kind"] == "ContainerSource"]
    assert "nodeSelector" not in source["spec"]["template"]["spec"]


def test_ctrl_c_says_what_is_there_and_what_is_not(controller: Controller, tmp_path: Path) -> None:
    controller.stuck["empty-go-http-0"] = "it takes its time"
    config = controller.api.write_kubeconfig(tmp_path / "config")
    command = [
        sys.executable,
        "-c",
        "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())",
    ]
    command += ["deploy", "empty-go-http", f"--kubeconfig={config}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not controller.api.objects(kinds.SERVICES) or not controller.api.watching:
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, told = process.communicate(timeout=20)
    assert process.returncode == 130
    assert "created    Service functions/empty-go-http-0" in out
    assert "kn-bench: interrupted" in told and "Traceback" not in told
    assert "waiting for Service functions/empty-go-http-0" in told
    assert "kn-bench delete removes what was deployed" in told
    assert services(controller.api) == ["empty-go-http-0"]
