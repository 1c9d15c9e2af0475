"""`kn-bench extract-logs`, as a user runs it: the API of a fake server, sessions by the stand-in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kube.fake_api import FakeApi, in_thread
from tests.pods.standin import Standin
from workload_generator.kube.resources import PODS

COMMAND = [sys.executable, "-c", "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"]


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with in_thread(FakeApi()) as api:
        yield api


def put(api: FakeApi, namespace: str, name: str, container: str, labels: dict[str, str], running: bool = True) -> None:
    state = {"running": {}} if running else {"waiting": {"reason": "ImagePullBackOff"}}
    api.put(
        PODS,
        {
            "metadata": {"namespace": namespace, "name": name, "labels": labels},
            "spec": {"containers": [{"name": container}]},
            "status": {"containerStatuses": [{"name": container, "state": state}]},
        },
    )


GENERATOR = {"app.kubernetes.io/name": "workload-generator"}


def extract_logs(api: FakeApi, folder: Path, *flags: str) -> tuple[int, str]:
    config = api.write_kubeconfig(folder / "kubeconfig")
    command = [*COMMAND, "extract-logs", f"--kubeconfig={config}", f"--out={folder / 'out'}", *flags]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran.returncode, ran.stdout + ran.stderr


def test_logs_of_all_pods_and_receipts(api: FakeApi, standin: Standin, tmp_path: Path) -> None:
    put(api, "workload-generator", "generator-0", "workload-generator", GENERATOR, running=False)
    put(api, "workload-generator", "generator-1", "workload-generator", GENERATOR)
    for index in "01":
        put(api, "workload-generator-shards", f"shard-{index}", "workload-generator", GENERATOR)
        (standin.pod(f"shard-{index}", "workload-generator-shards") / "logs" / f"p_s{index}.log").write_text(index)
    put(api, "eventing", "event-logger-1", "event-logger", {"app": "event-logger"})
    (standin.pod() / "logs" / "p.log").write_text("p")
    data = standin.pod("event-logger-1", "eventing") / "data"
    for name in ("events.csv", "instances.csv", "other"):
        (data / name).write_text(name)
    code, out = extract_logs(api, tmp_path, "--delete")
    assert code == 0 and "generator-1: 1 files, 0 of them here already; 1 bytes came, all checked" in out
    files = ["events.csv", "instances.csv", "p.log", "p_s0.log", "p_s1.log"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    assert not list((standin.folder / "pods").glob("*/*/logs/*")), "all are checked, and deleted there"
    assert (data / "events.csv").exists(), "their writer has them"
    code, out = extract_logs(api, tmp_path)
    assert code == 0 and "2 files, 2 of them here already; 0 bytes came" in out


def test_what_fails_in_one_pod_keeps_nobody_from_the_others(api: FakeApi, standin: Standin, tmp_path: Path) -> None:
    put(api, "workload-generator", "generator-1", "workload-generator", GENERATOR)
    put(api, "eventing", "event-logger-1", "event-logger", {"app": "event-logger"})
    (standin.pod("event-logger-1", "eventing") / "data" / "events.csv").write_text("e")
    standin.fault('"archive"', refuse='Error from server (Forbidden): pods "generator-1" is forbidden')
    code, out = extract_logs(api, tmp_path)
    assert code == 1 and "failed workload-generator/generator-1" in out and "Forbidden" in out
    assert (tmp_path / "out" / "events.csv").exists()


def test_where_nothing_runs_it_is_said(
    api: FakeApi, standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out = extract_logs(api, tmp_path)
    assert code == 2 and "nothing to fetch from" in out
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out = extract_logs(api, tmp_path)
    assert code == 2 and "kubectl is not on PATH" in out
