"""`kn-bench doctor` against the fake API server: every check with a cluster that fails it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.kube.fake_api import ALL, FakeApi, in_thread
from workload_generator import bench
from workload_generator.cluster.checks import cores
from workload_generator.kube import resources as kinds


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with in_thread(FakeApi()) as api:
        yield api


def good(api: FakeApi) -> None:
    labels = {"app.kubernetes.io/version": "1.23.0"}
    api.put(
        kinds.CONFIG_MAPS, {"metadata": {"name": "config-autoscaler", "namespace": "knative-serving", "labels": labels}}
    )
    node(api)


def node(api: FakeApi, cpu: str = "4", taint: bool = True) -> None:
    taints = [{"key": "dedicated", "value": "workload-generator", "effect": "NoSchedule"}] if taint else []
    api.put(
        kinds.NODES,
        {
            "metadata": {"name": "n", "labels": {"dedicated": "workload-generator"}},
            "spec": {"taints": taints},
            "status": {"allocatable": {"cpu": cpu}},
        },
    )


def source(api: FakeApi, *, bound: bool) -> None:
    """A ContainerSource whose pod runs, with K_SINK or without."""
    env = [{"name": "K_SINK", "value": "http://sink"}] if bound else []
    template = {"spec": {"containers": [{"name": "g", "env": env}]}}
    made: dict[str, Any] = {}
    for kind, name, spec in (
        (kinds.CONTAINER_SOURCES, "g", {}),
        (kinds.DEPLOYMENTS, "g", {"template": template}),
        (kinds.REPLICA_SETS, "g-1", {"replicas": 1, "template": template}),
        (kinds.PODS, "g-1-1", template["spec"]),
    ):
        owners = [{"uid": made["metadata"]["uid"]}] if made else []
        about = {"name": name, "namespace": "ours", "ownerReferences": owners}
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        made = api.put(kind, {"metadata": about, "spec": spec, "status": ready})


def doctor(
    api: FakeApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], *flags: str
) -> tuple[int, list[tuple[str, str, str]]]:
    config = api.write_kubeconfig(tmp_path / "config")
    code = bench.main(["doctor", f"--kubeconfig={config}", "--output=json", *flags])
    findings = json.loads(capsysbinary.readouterr().out)
    return code, [(each["check"], each["verdict"], each["text"]) for each in findings]


def test_a_cluster_that_is_fit(api: FakeApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    good(api)
    source(api, bound=True)
    code, findings = doctor(api, tmp_path, capsysbinary)
    assert code == 0
    assert {verdict for _, verdict, _ in findings} == {"ok"}
    assert [check for check, _, _ in findings] == ["versions", "APIs", "APIs", "APIs", "nodes", "container sources"]


@pytest.mark.parametrize(
    ("release", "kubernetes", "verdict"),
    [
        ("1.23.0", "v1.33.9", "failed"),
        ("1.21.0", "v1.33.9", "ok"),
        ("1.18.2", "v1.30.4", "failed"),
        ("", "v1.36.3", "unknown"),
    ],
)
def test_versions_that_do_not_fit(
    api: FakeApi,
    tmp_path: Path,
    capsysbinary: pytest.CaptureFixture[bytes],
    release: str,
    kubernetes: str,
    verdict: str,
) -> None:
    good(api)
    labels = {"app.kubernetes.io/version": release}
    api.put(
        kinds.CONFIG_MAPS, {"metadata": {"name": "config-autoscaler", "namespace": "knative-serving", "labels": labels}}
    )
    api.git_version = kubernetes
    code, findings = doctor(api, tmp_path, capsysbinary)
    assert findings[0][:2] == ("versions", verdict)
    assert code == (verdict == "failed")


def test_what_is_not_installed_is_named(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with in_thread(
        FakeApi([kind for kind in ALL if "knative" not in kind.group and kind.group != "metrics.k8s.io"])
    ) as api:
        good(api)
        code, findings = doctor(api, tmp_path, capsysbinary)
    assert code == 1
    assert [verdict for check, verdict, _ in findings if check == "APIs"] == ["failed", "warning", "warning"]
    assert "Knative Serving is not installed (services.serving.knative.dev)" in findings[1][2]


def test_nodes_that_do_not_fit(api: FakeApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    _, findings = doctor(api, tmp_path, capsysbinary)
    assert ("nodes", "failed", "no node is labelled dedicated=workload-generator") in findings
    node(api, cpu="2500m", taint=False)
    used = {"nodeName": "n", "containers": [{"name": "x", "resources": {"requests": {"cpu": "600m"}}}]}
    api.put(kinds.PODS, {"metadata": {"name": "x", "namespace": "other"}, "spec": used, "status": {"phase": "Running"}})
    api.put(kinds.PODS, {"metadata": {"name": "y", "namespace": "other"}, "spec": used, "status": {"phase": "Failed"}})
    code, findings = doctor(api, tmp_path, capsysbinary)
    assert code == 1
    found = [(verdict, text) for check, verdict, text in findings if check == "nodes"]
    assert found[0] == ("warning", "n is not tainted: others may run beside us")
    assert found[1][0] == "failed" and "n: 1.9" in found[1][1]


def test_what_may_not_be_looked_at_is_unknown(
    api: FakeApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    good(api)
    api.forbidden |= {("list", "nodes"), ("list", "containersources"), ("get", "configmaps")}
    code, findings = doctor(api, tmp_path, capsysbinary)
    assert code == 0
    unknown = [check for check, verdict, _ in findings if verdict == "unknown"]
    assert unknown == ["versions", "APIs", "nodes", "container sources"]  # the metrics of nodes are `nodes` too


def test_a_source_that_cannot_be_examined_keeps_nobody_from_the_rest(
    api: FakeApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    good(api)
    source(api, bound=True)
    api.fail("/deployments", status=403, reason="Forbidden")
    code, findings = doctor(api, tmp_path, capsysbinary)
    (found,) = [finding for finding in findings if finding[0] == "container sources"]
    assert code == 0 and found[1] == "unknown" and found[2].startswith("ours/g: ")


def test_a_source_without_its_sink_is_touched_and_its_pod_waited_for(
    api: FakeApi, tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    good(api)
    source(api, bound=False)
    code, findings = doctor(api, tmp_path, capsysbinary)
    assert code == 1 and "its pods get no K_SINK" in findings[-1][2]
    code, findings = doctor(api, tmp_path, capsysbinary, "--fix", "--timeout=500ms")
    assert code == 1 and "the source touched, but after 0.5 s" in findings[-1][2]

    def controller(kind: str, obj: dict[str, Any]) -> None:
        if kind == "MODIFIED" and obj["kind"] == "ContainerSource":
            source(api, bound=True)

    api.on_change = controller
    code, findings = doctor(api, tmp_path, capsysbinary, "--fix")
    assert code == 0 and findings[-1][2].startswith("mended: ours/g: its pods get no K_SINK"), findings


def test_no_cluster_is_an_error_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench.main(["doctor", f"--kubeconfig={tmp_path / 'none'}"]) == 2
    assert "no such kubeconfig file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2), ("2500m", Decimal("2.5")), ("183632734n", Decimal("0.183632734"))]
)
def test_amounts_of_cpus(text: str, value: Decimal) -> None:
    assert cores(text) == value
