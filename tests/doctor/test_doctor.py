"""`kn-bench doctor` against the fake API server: a cluster that is fit, and what the command itself does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.subscriptions import NAMESPACE, Subscriptions, broker, trigger
from tests.doctor.fit import Doctor, config, make_fit, source
from tests.kube.fake_api import ALL, FakeApi, in_thread
from tests.top.process import wait_for
from workload_generator.cluster.doctor.checks import CHECKS
from workload_generator.cluster.doctor.reporter import CheckResult, Cluster, Reporter
from workload_generator.commands import doctor as doctor_command
from workload_generator.commands import kn_bench
from workload_generator.kube import resources as kinds


@pytest.mark.usefixtures("all_rights", "tools")
def test_a_cluster_that_is_fit(api: FakeApi, doctor: Doctor) -> None:
    source(api, bound=True)
    findings = doctor()
    assert not [each for each in findings if each["verdict"] != "ok"]
    assert doctor.code == 0
    silent = {"RabbitMQ", "subscribers"}  # there is no broker
    assert {each["check"] for each in findings} == {*CHECKS} - silent


@pytest.mark.usefixtures("all_rights")
def test_nothing_in_a_cluster_is_changed(api: FakeApi, doctor: Doctor) -> None:
    doctor()
    writing = [each for each in api.requests if not each.startswith("GET ")]
    assert writing
    assert all("selfsubjectaccessreviews" in each or "dryRun=All" in each for each in writing)


def test_the_text_output_has_consequence_and_fix(api: FakeApi, doctor: Doctor) -> None:
    config(api, "knative-serving", "config-autoscaler", {"enable-scale-to-zero": "false"})
    text = doctor.text()
    assert doctor.code == 1
    lines = text.splitlines()
    (at,) = [number for number, line in enumerate(lines) if "enable-scale-to-zero is false" in line]
    assert lines[at].startswith("failed")
    assert "why nothing scales to zero" in lines[at + 1]
    assert "do  kubectl edit configmap config-autoscaler -n knative-serving" in lines[at + 2]
    assert lines[-1].endswith(", 1 failed")


def test_tools_alone_need_no_cluster(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert kn_bench.main(["doctor", "--tools", f"--kubeconfig={tmp_path / 'none'}"]) == 0
    assert b"kubectl 1.36.3" in capsysbinary.readouterr().out


def test_a_refused_check_does_not_end_the_others(api: FakeApi, doctor: Doctor) -> None:
    """What may not be looked at is unknown, one kind after the other, and everything else is still said."""
    whole = {(each["check"], each["text"]) for each in doctor() if each["verdict"] == "ok"}
    listed = {
        "nodes": {"versions", "APIs", "admission", "nodes", "capacity"},
        "namespaces": {"admission", "configuration", "storage"},
        "deployments": {"nodes", "capacity", "conditions"},
        "customresourcedefinitions": {"APIs"},
        "persistentvolumeclaims": {"storage"},
        "resourcequotas": {"quotas"},
        "containersources": {"container sources", "capacity", "generator"},
    }
    for plural, touched in listed.items():
        api.forbidden = {("list", plural)}
        findings = doctor()
        unknown = {each["check"] for each in findings if each["verdict"] == "unknown"}
        assert unknown <= touched and unknown, plural
        ok = {(each["check"], each["text"]) for each in findings if each["verdict"] == "ok"}
        assert {each for each in whole if each[0] not in touched} <= ok | {
            each for each in whole if each[0] == "access"
        }


def test_a_check_is_one_function_and_one_entry(api: FakeApi, doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check_example(cluster: Cluster, reporter: Reporter) -> None:
        reporter.warning(f"Kubernetes 1.{cluster.minor}", "an example", "nothing")
        await cluster.all(kinds.NODES)

    monkeypatch.setitem(CHECKS, "example", check_example)  # type: ignore[arg-type]
    result = {
        "check": "example",
        "verdict": "warning",
        "text": "Kubernetes 1.36",
        "why": "an example",
        "fix": "nothing",
    }
    assert [each for each in doctor() if each["check"] == "example"] == [result]
    api.forbidden = {("list", "nodes")}
    assert [each["verdict"] for each in doctor() if each["check"] == "example"] == ["warning", "unknown"]


def test_the_document_has_a_row_for_each_check() -> None:
    text = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text("utf-8")
    table = text[text.index("## The checks") : text.index("## Configuration")]
    assert re.findall(r"^\| `(.*?)` \|", table, re.MULTILINE) == [*CHECKS]


def test_what_is_not_installed_is_named(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    there = [kind for kind in ALL if "knative" not in kind.group and kind.group != "metrics.k8s.io"]
    with in_thread(FakeApi([*there, kinds.NODE_METRICS, kinds.SERVICES])) as api:
        make_fit(api)
        del api.served[kinds.SERVICES.api_version, kinds.SERVICES.plural]
        del api.served[kinds.NODE_METRICS.api_version, kinds.NODE_METRICS.plural]
        doctor = Doctor(api, tmp_path, capsysbinary)
        findings = [each for each in doctor() if each["check"] == "APIs"]
    assert doctor.code == 1
    assert [each["verdict"] for each in findings] == ["failed", "warning", "warning"]
    assert "Knative Serving is not installed (services.serving.knative.dev)" in findings[0]["text"]


def test_a_source_that_cannot_be_examined_is_unknown(api: FakeApi, doctor: Doctor) -> None:
    source(api, bound=True)
    api.fail("/namespaces/ours/deployments", status=403, reason="Forbidden")
    (found,) = [each for each in doctor() if each["check"] == "container sources"]
    assert doctor.code == 0 and found["verdict"] == "unknown" and found["text"].startswith("ours/g: ")


def test_fix_repairs_a_source_without_its_sink_and_waits_for_the_pod(api: FakeApi, doctor: Doctor) -> None:
    source(api, bound=False)
    found = doctor()[-1]["text"]
    assert "its pods get no K_SINK: SinkBindingReady is False: NotFound: no sink" in found and doctor.code == 1
    text = doctor("--fix", "--timeout=500ms")[-1]["text"]
    assert "SinkBinding g-sinkbinding touched, but ContainerSource ours/g has no ready pod with K_SINK" in text
    assert doctor.code == 1

    def controller(kind: str, obj: dict[str, Any]) -> None:
        """The real ones (Eventing 1.22.2): the source's compares specs only, the binding's reconciles at any change."""
        if kind == "MODIFIED" and obj["kind"] == "SinkBinding":
            source(api, bound=True)

    api.on_change = controller
    found = doctor("--fix")[-1]["text"]
    assert doctor.code == 0 and found.startswith("repaired: ours/g: its pods get no K_SINK"), found


@pytest.mark.parametrize("ours", [True, False])
def test_dead_subscribers_are_named_and_only_a_broker_of_ours_is_replaced(
    api: FakeApi, doctor: Doctor, ours: bool
) -> None:
    played = Subscriptions(api)
    for number in range(4):
        trigger(api, number)
    uid = broker(api, ours=ours)["metadata"]["uid"]
    wait_for("four subscribers", lambda: len(played.subscribers()) == 4)
    assert "Broker eventing/default has no dead subscribers" in doctor.of("subscribers", "ok")
    api.run(lambda: [api.remove(kinds.TRIGGERS, f"receiver-{number}", NAMESPACE) for number in range(3)])
    wait_for("the end of the Subscriptions", lambda: len(api.objects(kinds.SUBSCRIPTIONS)) == 1)
    (found,) = [each for each in doctor() if each["check"] == "subscribers"]
    dead = [name for name in played.subscribers() if name != "receiver-3"]
    assert found["verdict"] == "failed" and found["text"].endswith(f"in its channel: {', '.join(dead)}") and dead
    assert "answered with 500" in found["why"]
    assert ("kn-bench doctor --fix" == found["fix"]) is ours and ("kubectl replace --force" in found["fix"]) is not ours
    (after,) = [each for each in doctor("--fix", "--timeout=20s") if each["check"] == "subscribers"]
    (now,) = api.objects(kinds.BROKERS)
    assert (after["verdict"] == "ok", now["metadata"]["uid"] != uid) == (ours, ours), after
    assert (doctor.code == 0) is ours


def test_nothing_of_a_cluster_steers_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\x07[bold]x[/][/nothing]:bomb:"

    async def check() -> list[CheckResult]:
        return [CheckResult("tools", "failed", evil, evil, evil)]

    monkeypatch.setattr(doctor_command, "check_machine", check)
    assert kn_bench.main(["doctor", "--tools"]) == 1
    out = capsys.readouterr().out
    assert out.count(r"\x1b[2J\x07[bold]x[/][/nothing]:bomb:") == 3, out


def test_a_missing_kubeconfig_exits_with_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kn_bench.main(["doctor", f"--kubeconfig={tmp_path / 'none'}"]) == 2
    assert "no such kubeconfig file" in capsys.readouterr().err
