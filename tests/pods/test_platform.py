"""A cluster as a scenario's platform, on a fake API server: changes, their records and restoration, and conditions."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.subscriptions import dead_subscriber
from tests.kube.fake_api import ALL, FakeApi, in_thread
from tests.kube.hasty import hasty
from tests.pods.standin import Standin
from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.interrupts import run_to_end
from workload_generator.cluster.kubectl import Kubectl
from workload_generator.cluster.pods.pod_run import RunSpec
from workload_generator.experiment.bundled import find_manifests
from workload_generator.kube.errors import WaitTimeout
from workload_generator.kube.names import CHANGED_ANNOTATION
from workload_generator.kube.resources import BROKERS, CONFIG_MAPS, DEPLOYMENTS, POD_AUTOSCALERS, PODS, SERVICES, Object
from workload_generator.scenarios import changes as settings_changes
from workload_generator.scenarios.cluster import ClusterPlatform
from workload_generator.scenarios.model import WaitCondition, load_scenario
from workload_generator.scenarios.runner import CellSetup

SERVICE = "empty-go-http-0"
SCENARIO = """
scenario: serving-scenario-2
experiment: serving-scenario-1-go
services: empty-{language}-http-0
languages: [go]
patch:
  autoscaler: {stable-window: 10s, scale-to-zero-grace-period: 10s}
  containerConcurrency: 1
  annotations: {max-scale: "400"}
waitAtMost: 1m
wait: [ready, drained, zero]
"""


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with in_thread(FakeApi()) as api:
        config = {"stable-window": "60s", "other": "kept"}
        about = {"name": "workload-generator", "namespace": "workload-generator"}
        api.put(DEPLOYMENTS, {"metadata": about, "spec": {"replicas": 1}})
        api.put(
            CONFIG_MAPS,
            {"metadata": {"name": "config-autoscaler", "namespace": "knative-serving"}, "data": config},
        )
        template = {"metadata": {"annotations": {"autoscaling.knative.dev/max-scale": "7"}}, "spec": {"containers": []}}
        api.put(
            SERVICES,
            {
                "metadata": {"name": SERVICE, "namespace": "functions"},
                "spec": {"template": template},
                "status": {"conditions": [{"type": "Ready", "status": "True"}]},
            },
        )
        yield api


class Cluster:
    """The platform, and what it said."""

    def __init__(self, api: FakeApi, folder: Path, text: str = SCENARIO) -> None:
        self.said: list[str] = []
        path = folder / "scenario.yaml"
        path.write_text(text)
        self.scenario = load_scenario(path, {})
        config = api.write_kubeconfig(folder / "kubeconfig")
        self.platform = ClusterPlatform(
            self.scenario, folder / "logs", find_manifests(), self.said.append, Kubectl(config)
        )


@pytest.fixture
def cluster(api: FakeApi, standin: Standin, tmp_path: Path) -> Cluster:
    return Cluster(api, tmp_path)


@pytest.fixture
def impatient(api: FakeApi, standin: Standin, tmp_path: Path) -> Cluster:
    """For conditions that do not come."""
    return Cluster(api, tmp_path, SCENARIO.replace("waitAtMost: 1m", "waitAtMost: 60s"))


def values(api: FakeApi) -> dict[str, Any]:
    """All that the scenario may change, annotations of ours included."""
    config = api.find(CONFIG_MAPS, "config-autoscaler", "knative-serving")
    service = api.find(SERVICES, SERVICE, "functions")
    assert config is not None and service is not None
    return {
        "config": config["data"],
        "concurrency": service["spec"]["template"]["spec"].get("containerConcurrency"),
        "annotations": service["spec"]["template"]["metadata"]["annotations"],
        "told": [each["metadata"].get("annotations") or {} for each in (config, service)],
    }


def edit(api: FakeApi, change: Callable[[dict[str, Any]], None]) -> None:
    """Change what the annotations say."""
    for resource, name, namespace in (
        (CONFIG_MAPS, "config-autoscaler", "knative-serving"),
        (SERVICES, SERVICE, "functions"),
    ):
        obj = api.find(resource, name, namespace)
        assert obj is not None
        document = json.loads(obj["metadata"]["annotations"][CHANGED_ANNOTATION])
        change(document)
        obj["metadata"]["annotations"][CHANGED_ANNOTATION] = json.dumps(document)
        api.put(resource, obj)


def test_changes_are_recorded_in_the_same_patch_and_restored(api: FakeApi, cluster: Cluster) -> None:
    before = values(api)
    read = cluster.platform.read(cluster.scenario)
    api.requests.clear()
    cluster.platform.patch(cluster.scenario)
    assert sum(line.startswith("PATCH") for line in api.requests) == 2, "one for each object"
    patched = values(api)
    assert patched["config"] == {"stable-window": "10s", "scale-to-zero-grace-period": "10s", "other": "kept"}
    assert patched["concurrency"] == 1 and patched["annotations"] == {"autoscaling.knative.dev/max-scale": "400"}
    assert all(CHANGED_ANNOTATION in each for each in patched["told"])
    cluster.platform.restore(json.loads(json.dumps(read)))
    assert values(api) == before


def test_restore_from_another_machine(api: FakeApi, cluster: Cluster, tmp_path: Path) -> None:
    before = values(api)
    cluster.platform.read(cluster.scenario)
    cluster.platform.patch(cluster.scenario)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    edit(api, lambda document: document["owner"].update(host="another"))
    other = Cluster(api, elsewhere)
    with pytest.raises(UsageError, match=r"another scenario has changed this cluster(.*\n)+.*on another, since(.*\n)+"):
        other.platform.read(other.scenario)
    left = other.platform.left_behind()
    other.platform.restore(left)
    assert values(api) == before and other.platform.left_behind() == {}
    assert any("ConfigMap knative-serving/config-autoscaler, changed by serving-scenario-2" in s for s in other.said)


def test_the_changes_of_a_killed_scenario_are_restored_before_the_next_begins(
    api: FakeApi, cluster: Cluster, tmp_path: Path
) -> None:
    before = values(api)
    cluster.platform.read(cluster.scenario)
    cluster.platform.patch(cluster.scenario)
    edit(api, lambda document: document["owner"].update(start="1"))
    read = cluster.platform.read(cluster.scenario)
    assert values(api) == before and any("a killed scenario has changed" in line for line in cluster.said)
    changes = {change.key: change.old for change in settings_changes.changes_of(read)}
    assert changes == {
        "stable-window": "60s", "scale-to-zero-grace-period": None, "containerConcurrency": None, "max-scale": "7",
    }  # fmt: skip


def test_a_resumed_scenario_keeps_the_first_values_and_owns_them(api: FakeApi, cluster: Cluster) -> None:
    read = cluster.platform.read(cluster.scenario)
    cluster.platform.patch(cluster.scenario)
    told = values(api)["told"]
    edit(api, lambda document: document["owner"].update(start="1"))
    cluster.platform.patch(cluster.scenario)
    now = values(api)["told"]
    assert [json.loads(each[CHANGED_ANNOTATION])["found"] for each in now] == [
        json.loads(each[CHANGED_ANNOTATION])["found"] for each in told
    ]
    assert json.loads(now[0][CHANGED_ANNOTATION])["owner"]["pid"] == os.getpid()
    assert json.loads(now[0][CHANGED_ANNOTATION])["owner"]["start"] != "1"
    cluster.platform.restore(read)


def test_a_failure_does_not_keep_the_rest_from_being_restored(api: FakeApi, cluster: Cluster) -> None:
    before = values(api)
    read = cluster.platform.read(cluster.scenario)
    cluster.platform.patch(cluster.scenario)
    api.fail("PATCH .*services", status=403, reason="Forbidden")
    with pytest.raises(BenchError, match="403"):
        cluster.platform.restore(read)
    assert values(api)["config"] == before["config"] and values(api)["concurrency"] == 1
    cluster.platform.restore(read)
    assert values(api) == before
    api.remove(SERVICES, SERVICE, "functions")
    cluster.platform.restore(read)
    assert any("no longer exists" in line for line in cluster.said)


def test_a_service_that_is_not_deployed_is_named(api: FakeApi, cluster: Cluster) -> None:
    api.remove(SERVICES, SERVICE, "functions")
    with pytest.raises(UsageError, match=rf"not deployed in functions: {SERVICE}; run `kn-bench deploy functions`"):
        cluster.platform.read(cluster.scenario)


def test_a_generator_without_a_pod_of_its_own_is_refused_at_once(api: FakeApi, cluster: Cluster) -> None:
    about = {"name": "workload-generator", "namespace": "workload-generator"}
    api.put(DEPLOYMENTS, {"metadata": about, "spec": {"replicas": 0}})
    with pytest.raises(UsageError, match="the generator runs as a ContainerSource"):
        cluster.platform.read(cluster.scenario)
    api.remove(DEPLOYMENTS, "workload-generator", "workload-generator")
    with pytest.raises(UsageError, match="kn-bench deploy generator"):
        cluster.platform.read(cluster.scenario)


def test_an_annotation_that_does_not_parse_is_named(api: FakeApi, cluster: Cluster) -> None:
    config = api.find(CONFIG_MAPS, "config-autoscaler", "knative-serving")
    assert config is not None
    api.put(CONFIG_MAPS, {**config, "metadata": {**config["metadata"], "annotations": {CHANGED_ANNOTATION: "x"}}})
    with pytest.raises(BenchError, match="config-autoscaler: the annotation knative-bench/found does not parse"):
        cluster.platform.read(cluster.scenario)


# Conditions

DEPLOYMENT = CellSetup((SERVICE,))


def pod(api: FakeApi, name: str, ending: bool = False, service: str = SERVICE) -> None:
    about: Object = {"name": name, "namespace": "functions", "labels": {"serving.knative.dev/service": service}}
    if ending:
        about |= {"deletionTimestamp": "2026-11-25T08:00:00Z", "finalizers": ["x"]}
    api.put(PODS, {"metadata": about, "spec": {"containers": []}, "status": {"phase": "Running"}})


def scaler(api: FakeApi, wanted: int, **annotations: str) -> None:
    told = {f"autoscaling.knative.dev/{key.replace('_', '-')}": value for key, value in annotations.items()}
    labels = {"serving.knative.dev/service": SERVICE}
    about = {"name": "r", "namespace": "functions", "labels": labels, "annotations": told}
    api.put(POD_AUTOSCALERS, {"metadata": about, "status": {"desiredScale": wanted}})


def later(*steps: Callable[[], None]) -> threading.Thread:
    """One after the other, while somebody waits."""

    def run() -> None:
        for step in steps:
            time.sleep(0.05)
            step()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_zero_includes_terminating_pods(api: FakeApi, cluster: Cluster, impatient: Cluster) -> None:
    pod(api, "p1")
    pod(api, "p2", ending=True)
    pod(api, "other", service="not-ours")
    lacking = r"not scaled to zero after 60 s: 2 pods exist \(p1 is Running.*p2 is termi"
    with hasty(api, 60), pytest.raises(WaitTimeout, match=lacking):
        impatient.platform.wait(WaitCondition.ZERO, DEPLOYMENT)
    gone = threading.Event()
    thread = later(
        lambda: api.remove(PODS, "p1", "functions"), lambda: (gone.set(), api.remove(PODS, "p2", "functions"))[0]
    )
    cluster.platform.wait(WaitCondition.ZERO, DEPLOYMENT)
    assert gone.is_set()
    thread.join()


def test_drained_when_the_autoscaler_wants_no_more_than_without_load(
    api: FakeApi, cluster: Cluster, impatient: Cluster
) -> None:
    for name in ("p1", "p2", "p3"):
        pod(api, name)
    scaler(api, 3)
    lacking = f"not drained after 60 s: the autoscaler wants 3 instances of {SERVICE}"
    with hasty(api, 60), pytest.raises(WaitTimeout, match=lacking):
        impatient.platform.wait(WaitCondition.DRAINED, DEPLOYMENT)
    scaler(api, 1)
    with hasty(api, 60), pytest.raises(WaitTimeout, match=f"{SERVICE} has 3 instances, 1 without load"):
        impatient.platform.wait(WaitCondition.DRAINED, DEPLOYMENT)
    scaler(api, 3)
    last = threading.Event()
    thread = later(
        lambda: scaler(api, 1),
        lambda: pod(api, "p2", ending=True),
        lambda: api.remove(PODS, "p2", "functions"),
        lambda: (last.set(), api.remove(PODS, "p3", "functions"))[0],
    )
    cluster.platform.wait(WaitCondition.DRAINED, DEPLOYMENT)
    assert last.is_set()
    thread.join()
    scaler(api, 2, min_scale="2")
    pod(api, "p2")
    cluster.platform.wait(WaitCondition.DRAINED, DEPLOYMENT)


def test_ready_is_that_of_the_present_generation(api: FakeApi, cluster: Cluster, impatient: Cluster) -> None:
    cluster.platform.wait(WaitCondition.READY, DEPLOYMENT)
    service = api.find(SERVICES, SERVICE, "functions")
    assert service is not None
    service["status"]["conditions"][0] |= {"status": "False", "reason": "RevisionFailed", "message": "no image"}
    api.put(SERVICES, service)
    with hasty(api, 60), pytest.raises(WaitTimeout, match="RevisionFailed: no image"):
        impatient.platform.wait(WaitCondition.READY, DEPLOYMENT)


# Signals

_CHILD = """
import asyncio, signal, sys
signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(99))
from workload_generator.cluster.interrupts import run_to_end
async def work():
    print("working", flush=True)
    try:
        await {work}
        print("worked", flush=True)
    finally:
        await asyncio.sleep(0.05)
        print("cleaned up", flush=True)
heard = asyncio.Event()
def told(name):
    print("told", name, flush=True)
    heard.set()
try:
    run_to_end(work(), told if {patient} else None)
finally:
    run_to_end(asyncio.sleep(0.05))
    print("after", flush=True)
"""


@pytest.mark.parametrize(
    ("patient", "work", "signals", "code", "lines"),
    [
        (False, "asyncio.sleep(60)", 1, 143, ["cleaned up", "after"]),
        (False, "asyncio.sleep(60)", 2, 143, ["cleaned up", "after"]),
        (True, "heard.wait()", 1, 0, ["told SIGTERM", "worked", "cleaned up", "after"]),
        (True, "asyncio.sleep(60)", 2, 143, ["told SIGTERM", "cleaned up", "after"]),
    ],
)
def test_a_signal_cancels_the_work_and_awaits_its_clean_up(
    patient: bool, work: str, signals: int, code: int, lines: list[str]
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", _CHILD.format(patient=patient, work=work)], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None and child.stdout.readline() == "working\n"
    child.send_signal(signal.SIGTERM)
    said = []
    if signals == 2:
        if patient:
            said.append(child.stdout.readline().strip())
        child.send_signal(signal.SIGTERM)
    out, _ = child.communicate(timeout=30)
    assert (child.returncode, said + out.split("\n")[:-1]) == (code, lines)


def test_the_work_returns_its_result_and_raises_its_errors() -> None:
    async def work(error: Exception | None) -> int:
        await asyncio.sleep(0)
        if error:
            raise error
        return 3

    before = signal.getsignal(signal.SIGTERM)
    assert run_to_end(work(None)) == 3
    with pytest.raises(BenchError, match="x"):
        run_to_end(work(BenchError("x")))
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("broker", [True, False])
def test_parallelism_without_rabbitmq_is_refused_before_any_change(
    standin: Standin, tmp_path: Path, broker: bool
) -> None:
    text = yaml.safe_dump({"scenario": "e", "experiment": "cloudevent-250", "mode": "event", "parallelism": [5]})
    served = [kind for kind in ALL if kind.group != "rabbitmq.com"]
    with in_thread(FakeApi(served)) as api:
        about = {"name": "workload-generator", "namespace": "workload-generator"}
        api.put(DEPLOYMENTS, {"metadata": about, "spec": {"replicas": 1}})
        if broker:
            api.put(BROKERS, {"metadata": {"name": "default", "namespace": "eventing"}, "spec": {}})
        cluster = Cluster(api, tmp_path, text)
        with pytest.raises(UsageError, match="is not one" if broker else "its operators are not installed"):
            cluster.platform.read(cluster.scenario)
        assert {each.split()[0] for each in api.requests} == {"GET"}


def test_an_event_run_into_dead_subscribers_is_refused(api: FakeApi, standin: Standin, tmp_path: Path) -> None:
    text = yaml.safe_dump({"scenario": "e", "experiment": "eventing-scenario-1-100rps", "mode": "event"})
    dead_subscriber(api)
    with pytest.raises(BenchError, match="has dead subscribers in its channel: receiver-7"):
        Cluster(api, tmp_path, text).platform.run(RunSpec("id", "e", "p", "", ("--event",)), False)
    assert not standin.calls


def test_several_pods_of_a_source_are_refused_before_any_request(
    api: FakeApi, standin: Standin, tmp_path: Path
) -> None:
    text = yaml.safe_dump({"scenario": "e", "experiment": "eventing-scenario-1-100rps", "mode": "event", "pods": 2})
    with pytest.raises(UsageError, match="a ContainerSource is one pod"):
        Cluster(api, tmp_path, text)
    assert not api.requests
