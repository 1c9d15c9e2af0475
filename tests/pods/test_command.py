"""`kn-bench extract-logs`: the API of a fake server, sessions by the stand-in; once as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.kube.fake_api import FakeApi, in_thread
from tests.pods.standin import Standin
from workload_generator.commands import kn_bench
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


Extract = Callable[..., tuple[int, str]]


@pytest.fixture
def extract_logs(api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Extract:
    """The command in this process: its exit code, and what it said."""
    config = api.write_kubeconfig(tmp_path / "kubeconfig")

    def run(*flags: str) -> tuple[int, str]:
        code = kn_bench.main(["extract-logs", f"--kubeconfig={config}", f"--out={tmp_path / 'out'}", *flags])
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


def test_logs_of_all_pods_and_receipts(api: FakeApi, standin: Standin, extract_logs: Extract, tmp_path: Path) -> None:
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
    code, out = extract_logs("--delete")
    assert code == 0 and "generator-1: 1 files, 0 of them here already; 1 bytes fetched, all checked" in out
    files = ["events.csv", "instances.csv", "p.log", "p_s0.log", "p_s1.log"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    assert not list((standin.folder / "pods").glob("*/*/logs/*")), "all are checked, and deleted there"
    assert (data / "events.csv").exists(), "their writer has them"
    code, out = extract_logs()
    assert code == 0 and "2 files, 2 of them here already; 0 bytes fetched" in out


def test_a_failure_in_one_pod_does_not_stop_the_others(
    api: FakeApi, standin: Standin, extract_logs: Extract, tmp_path: Path
) -> None:
    put(api, "workload-generator", "generator-1", "workload-generator", GENERATOR)
    put(api, "eventing", "event-logger-1", "event-logger", {"app": "event-logger"})
    (standin.pod("event-logger-1", "eventing") / "data" / "events.csv").write_text("e")
    standin.fault('"archive"', refuse='Error from server (Forbidden): pods "generator-1" is forbidden')
    code, out = extract_logs()
    assert code == 1 and "failed workload-generator/generator-1" in out and "Forbidden" in out
    assert (tmp_path / "out" / "events.csv").exists()


def test_without_pods_it_is_an_error(
    api: FakeApi, standin: Standin, extract_logs: Extract, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = api.write_kubeconfig(tmp_path / "config")
    command = [*COMMAND, "extract-logs", f"--kubeconfig={config}", f"--out={tmp_path / 'out'}"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert ran.returncode == 2 and "no pod to fetch from" in ran.stderr and "Traceback" not in ran.stderr
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out = extract_logs()
    assert code == 2 and "kubectl is not on PATH" in out
