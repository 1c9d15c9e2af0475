"""`kn-bench top` against a server with faults; ended by signals, and killed.

It runs in this process, and a script in another thread does what happens meanwhile. Killed, and on a terminal, it is a
process of its own.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.kube.fake_api import ALL, TOKEN, FakeApi, in_thread
from tests.top.clusters import autoscaler, fill, node_usage, pod, pod_usage, summary
from tests.top.process import COMMAND, WAIT_S, Recording, Running, rows, wait_for
from workload_generator.commands import kn_bench
from workload_generator.kube import resources as kinds
from workload_generator.results.database import open_store
from workload_generator.results.ingest.combine import combine


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with in_thread(FakeApi()) as api:
        fill(api)
        yield api


def recorded(
    api: FakeApi, folder: Path, script: Callable[[Recording], None], *flags: str, by: int = signal.SIGTERM
) -> Recording:
    """What `top` recorded until `script` had ended."""
    config = api.write_kubeconfig(folder / "kubeconfig")
    return Recording(config, folder / "out", "--frequency=0.1", *flags, script=script, by=by)


def recorded_until(api: FakeApi, folder: Path, sql: str, count: int, *flags: str) -> None:
    """What `top` recorded until there were so many rows."""
    assert recorded(api, folder, lambda top: top.has(sql, count), *flags).code == 143


def top(api: FakeApi, folder: Path, *flags: str) -> int:
    """In this process, for a moment."""
    config = api.write_kubeconfig(folder / "kubeconfig")
    return kn_bench.main(["top", f"--kubeconfig={config}", f"--output-dir={folder / 'out'}", "--frequency=0.1", *flags])


def test_a_recording_of_everything(api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def script(top: Recording) -> None:
        top.has("SELECT * FROM node_metrics", 4)
        top.has("SELECT * FROM scales")
        api.put(kinds.NODE_METRICS, node_usage("node-1", "2026-11-25T10:00:15Z"))
        api.put(kinds.PODS, pod("f-2", "Pending"))
        api.put(kinds.POD_AUTOSCALERS, autoscaler(2, 1))
        top.has("SELECT * FROM pod_states WHERE pod_name = 'f-2'")
        api.put(kinds.PODS, pod("f-2", ready=True))
        api.remove(kinds.PODS, "f-1", "functions")
        top.has("SELECT * FROM pod_states WHERE state = 'gone'")
        top.has("SELECT * FROM scales", 2)
        top.has("SELECT * FROM node_metrics WHERE sample_timestamp = '2026-11-25T10:00:15.000Z'")

    top = recorded(api, tmp_path, script, "--source=both")
    assert top.code == 128 + signal.SIGTERM and "5 samples of nodes" in capsys.readouterr().err
    assert [path.name for path in top.out.iterdir()] == ["metrics.db"]
    assert rows(top.out, "SELECT source, node_name, count(*) FROM node_metrics GROUP BY 1, 2 ORDER BY 1, 2") == [
        ("kubelet", "node-1", 1), ("kubelet", "node-2", 1), ("metrics", "node-1", 2), ("metrics", "node-2", 1),
    ]  # fmt: skip
    shares = rows(top.out, "SELECT DISTINCT cpu_percentage FROM node_metrics WHERE source = 'metrics'")
    assert shares == [(183.632734 / 4000,)]
    assert rows(
        top.out, "SELECT source, namespace, node_name, count(*) FROM pod_metrics GROUP BY 1, 3 ORDER BY 1, 3"
    ) == [
        ("kubelet", "functions", "node-1", 1),
        ("kubelet", "functions", "node-2", 1),
        ("metrics", "functions", "node-1", 2),
    ]
    assert rows(top.out, "SELECT pod_name, state, listed FROM pod_states ORDER BY id") == [
        ("f-1", "ready", 1), ("f-2", "pending", 0), ("f-2", "ready", 0), ("f-1", "gone", 0),
    ]  # fmt: skip
    assert rows(top.out, "SELECT pending, running, ready, terminating FROM replicas ORDER BY id") == [
        (0, 0, 1, 0), (1, 0, 1, 0), (0, 0, 2, 0), (0, 0, 1, 0),
    ]  # fmt: skip
    assert rows(top.out, "SELECT service, desired, actual FROM scales ORDER BY id") == [("f", 1, 1), ("f", 2, 1)]
    assert set(rows(top.out, "SELECT kind, type, status FROM conditions")) == {
        ("PodAutoscaler", "Active", "True"), ("Revision", "Ready", "True"),
    }  # fmt: skip
    late = "reason LIKE 'the tick before took%'"  # on a slow machine
    gaps = rows(top.out, f"SELECT reason FROM metric_gaps WHERE NOT {late}")
    assert [reason for (reason,) in gaps] == ["began", "ended"]


def test_one_request_for_each_resource_and_tick(api: FakeApi, tmp_path: Path) -> None:
    for number in range(50):
        api.put(kinds.PODS, pod(f"f-{number}", ready=True))
        api.put(kinds.POD_METRICS, pod_usage(f"f-{number}", "2026-11-25T10:00:00Z"))

    def polls(resource: str) -> int:
        missed = sum(row[0] for row in rows(out, f"SELECT ticks FROM metric_gaps WHERE subject = '{resource}'"))
        return asked().count(f"GET /apis/metrics.k8s.io/v1beta1/{resource}") + missed

    def asked() -> list[str]:
        return [line.partition("?")[0] for line in api.requests]

    out, began = tmp_path / "out", time.monotonic()
    recorded(api, tmp_path, lambda top: top.wait_for("ten ticks", lambda: polls("pods") >= 10 <= polls("nodes")))
    due = (time.monotonic() - began) / 0.1 + 1
    assert polls("pods") <= due and polls("nodes") <= due
    assert asked().count("GET /api/v1/pods") == 2  # a list and a watch
    assert not [line for line in asked() if "namespaces" in line or "proxy" in line]


def test_everything_is_stored_at_the_end_of_duration_or_after_ctrl_c(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert top(api, tmp_path, "--storage=csv", "--progress=none", "--duration=1s") == 0
    assert len((tmp_path / "out" / "pod_metrics.csv").read_text().splitlines()) == 3
    ended = recorded(
        api, tmp_path, lambda top: top.has("SELECT * FROM pod_metrics"), "--progress=plain", by=signal.SIGINT
    )
    text = capsys.readouterr().err
    assert ended.code == 130 and "1 of pods" not in text and "2 of pods" in text


def test_a_signal_before_the_first_response_ends_it(api: FakeApi, tmp_path: Path) -> None:
    api.fail("GET /version", delay_s=20, times=9)
    began = time.monotonic()
    ended = recorded(api, tmp_path, lambda top: top.wait_for("a request", lambda: api.requests), by=signal.SIGINT)
    assert ended.code == 130 and time.monotonic() - began < 15


def test_a_kill_loses_at_most_the_last_tick(api: FakeApi, tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = Running(api.write_kubeconfig(tmp_path / "kubeconfig"), out, "--frequency=0.1")
    try:
        for number in range(5):
            at = f"2026-11-25T10:00:{number:02}Z"
            api.put(kinds.POD_METRICS, pod_usage("f-1", at))
            process.has(f"SELECT * FROM pod_metrics WHERE sample_timestamp = '{at[:-1]}.000Z'", 2)
    finally:
        code, _ = process.end(signal.SIGKILL)
    assert code == -signal.SIGKILL
    db = tmp_path / "benchmark.db"
    open_store(db).close()
    merged = {each.table: each.new for each in combine(db, out / "metrics.db")}
    assert merged["pod_metrics"] == 10 and merged["replicas"] == 1
    # It goes on, and does not store again what is there.
    api.put(kinds.NODE_METRICS, node_usage("node-1", "2026-11-25T11:00:00Z"))
    recorded_until(api, tmp_path, "SELECT * FROM node_metrics WHERE sample_timestamp > '2026-11-25T10:30'", 1)
    assert {each.table: each.new for each in combine(db, out / "metrics.db")}["node_metrics"] == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 429, "reason": "TooManyRequests", "retry_after": 1}, "429 TooManyRequests"),
        ({"status": 500, "reason": "InternalError"}, "500 InternalError"),
        ({"status": 503, "reason": "ServiceUnavailable"}, "503 ServiceUnavailable"),
        ({"disconnect": True}, "cannot be reached"),
    ],
)
def test_refusals_are_gaps_and_polling_continues(
    api: FakeApi, tmp_path: Path, fault: dict[str, Any], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def script(top: Recording) -> None:
        top.has("SELECT * FROM pod_metrics", 2)
        api.fail("GET /apis/metrics.k8s.io/v1beta1/pods$", times=8, **fault)
        top.has("SELECT * FROM metric_gaps WHERE subject = 'pods' AND reason LIKE 'not asked%'")
        api.faults.clear()
        api.put(kinds.POD_METRICS, pod_usage("f-1", "2026-11-25T10:00:30Z"))
        top.has("SELECT * FROM pod_metrics WHERE sample_timestamp > '2026-11-25T10:00:20'", 2)

    top = recorded(api, tmp_path, script)
    text = capsys.readouterr().err
    assert top.code == 143
    reasons = [row[0] for row in rows(top.out, "SELECT reason FROM metric_gaps WHERE subject = 'pods'")]
    assert all(reason in each or each.startswith("the tick before took") for each in reasons)
    assert any(each.startswith("not asked, after:") for each in reasons)
    assert text.count("usage of pods is missing") == 1, "said once"
    others = rows(top.out, "SELECT reason FROM metric_gaps WHERE subject = 'nodes'")
    assert all(each.startswith("the tick before took") for (each,) in others)


def test_a_refusal_is_followed_by_fewer_requests(api: FakeApi, tmp_path: Path) -> None:
    api.fail("GET /apis/metrics.k8s.io/v1beta1/pods$", status=429, reason="TooManyRequests", retry_after=60, times=99)
    recorded_until(api, tmp_path, "SELECT * FROM metric_gaps WHERE subject = 'pods'", 3)
    assert len([line for line in api.requests if "metrics.k8s.io/v1beta1/pods" in line]) == 1


def test_a_slow_response_gives_a_gap_with_the_number_of_missed_ticks(api: FakeApi, tmp_path: Path) -> None:
    api.fail("GET /apis/metrics.k8s.io/v1beta1/nodes$", delay_s=0.4)
    gaps = "SELECT ticks, reason FROM metric_gaps WHERE subject = 'nodes'"
    recorded_until(api, tmp_path, gaps, 1)
    ticks, reason = rows(tmp_path / "out", gaps)[0]
    took = re.fullmatch(r"the tick before took (\d+\.\d) s", reason)
    assert ticks >= 3 and took is not None and float(took[1]) >= 0.4
    assert len(rows(tmp_path / "out", "SELECT * FROM node_metrics")) == 2


def test_an_expired_watch_lists_again_and_is_a_gap(api: FakeApi, tmp_path: Path) -> None:
    def script(process: Recording) -> None:
        process.has("SELECT * FROM replicas")
        wait_for("watches", lambda: api.watching == 4)
        api.fail("GET /api/v1/pods$", status=500, times=99)
        api.end_watches()
        wait_for("a refused watch", lambda: api.faults[0].times < 99)
        api.put(kinds.PODS, pod("f-2", ready=True))  # nobody hears of it
        api.compact()
        api.faults.clear()
        process.has("SELECT * FROM pod_states WHERE pod_name = 'f-2' AND listed = 1")
        process.has(
            "SELECT * FROM metric_gaps WHERE source = 'watch' AND subject = 'pods' AND reason LIKE 'interrupted%'"
        )

    assert recorded(api, tmp_path, script).code == 143


def test_a_kubelet_without_a_response_is_a_gap_of_its_own(api: FakeApi, tmp_path: Path) -> None:
    api.fail("GET /api/v1/nodes/node-2/proxy/stats/summary", status=502, times=99)

    def script(process: Recording) -> None:
        process.has("SELECT * FROM metric_gaps WHERE subject = 'node node-2'", 3)
        api.raw["/api/v1/nodes/node-1/proxy/stats/summary"] = summary("node-1", "2026-11-25T10:00:10Z", pod="f-node-1")
        process.has("SELECT * FROM node_metrics WHERE node_name = 'node-1'", 2)
        api.remove(kinds.NODES, "node-1")  # a node that vanishes is normal
        api.faults.clear()
        process.has("SELECT * FROM node_metrics WHERE node_name = 'node-2'")

    process = recorded(api, tmp_path, script, "--source=kubelet")
    assert process.code == 143
    assert rows(process.out, "SELECT DISTINCT source FROM node_metrics") == [("kubelet",)]
    assert not rows(process.out, "SELECT * FROM metric_gaps WHERE subject = 'node node-1'")
    assert not [line for line in api.requests if "metrics.k8s.io" in line]


def test_without_the_metrics_api_the_error_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with in_thread(FakeApi([each for each in ALL if each.group != "metrics.k8s.io"])) as api:
        fill(api)
        assert top(api, tmp_path) == 1
        said = capsys.readouterr().err
        assert "the cluster has no metrics API (metrics.k8s.io)" in said
        assert "metrics-server/releases/latest/download/components.yaml" in said and "--source kubelet" in said
        assert top(api, tmp_path, "--source=kubelet", "--duration=300ms") == 0


def test_without_knative_usage_is_recorded_and_a_message_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gaps = "SELECT * FROM metric_gaps WHERE source = 'watch' AND ticks = 0"

    def script(top: Recording) -> None:
        top.has("SELECT * FROM pod_metrics", 2)
        top.has(gaps, 3)  # the fourth is its end

    with in_thread(FakeApi([each for each in ALL if "knative" not in each.group])) as api:
        fill(api)
        recorded(api, tmp_path, script)
    said = capsys.readouterr().err
    assert "Knative's scale is not recorded" in said and "conditions of Revisions are not recorded" in said
    assert len(rows(tmp_path / "out", "SELECT * FROM pod_metrics")) == 2
    assert len(rows(tmp_path / "out", gaps)) == 4


def test_without_the_right_to_list_nodes_shares_are_null(
    api: FakeApi, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    api.forbidden |= {("list", "nodes")}
    recorded_until(api, tmp_path, "SELECT * FROM pod_metrics", 2, "--pods")
    assert "shares of nodes are not known" in capsys.readouterr().err
    assert rows(tmp_path / "out", "SELECT DISTINCT cpu_percentage, node_name FROM pod_metrics") == [(None, "node-1")]
    assert not rows(tmp_path / "out", "SELECT * FROM node_metrics")


def test_credentials_that_expire_are_read_again(api: FakeApi, tmp_path: Path) -> None:
    def script(process: Recording) -> None:
        process.has("SELECT * FROM pod_metrics", 2)
        api.write_kubeconfig(process.config, token="another")
        api.tokens = {"another"}
        api.put(kinds.POD_METRICS, pod_usage("f-1", "2026-11-25T10:00:30Z"))
        process.has("SELECT * FROM pod_metrics", 4)
        api.tokens = {"third"}  # and for a while there are none that work
        process.has("SELECT * FROM metric_gaps WHERE reason LIKE '%401%'")
        api.write_kubeconfig(process.config, token="third")
        api.put(kinds.POD_METRICS, pod_usage("f-1", "2026-11-25T10:00:50Z"))
        process.has("SELECT * FROM pod_metrics", 6)

    process = recorded(api, tmp_path, script)
    assert process.code == 143
    assert TOKEN not in process.config.read_text()


def test_namespaces(api: FakeApi, tmp_path: Path) -> None:
    api.put(kinds.POD_METRICS, pod_usage("dns", "2026-11-25T10:00:00Z", "kube-system"))
    api.put(kinds.POD_METRICS, pod_usage("other", "2026-11-25T10:00:00Z", "other"))

    def found(name: str, *flags: str, table: str = "pod_metrics") -> set[str]:
        (tmp_path / name).mkdir()
        recorded_until(api, tmp_path / name, f"SELECT * FROM {table}", 1, *flags)
        return {row[0] for row in rows(tmp_path / name / "out", "SELECT DISTINCT pod_name FROM pod_metrics")}

    assert found("a") == {"f-1", "dns", "other"}
    assert found("b", "--all-namespaces", "--ignore-namespace=kube-system,other") == {"f-1"}
    assert found("c", "--namespace", "kube-system", "--namespace=other") == {"dns", "other"}
    assert found("d", "--nodes", table="node_metrics") == set()


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--nodes=false", "--pods=false"], "nothing to record"),
        (["--all-namespaces", "--namespace=a"], "exclude each other"),
        (["--namespace=a", "--ignore-namespace=a,b"], "both name a"),
    ],
)
def test_flags_that_contradict(
    flags: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kn_bench.main(["top", f"--output-dir={tmp_path}", *flags]) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    "flag",
    ["--duration=0s", "--frequency=0", "--frequency=often", "--frequency=nan", "--namespace=a,,b", "--pods=perhaps"],
)
def test_invalid_flags(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        kn_bench.main(["top", flag])
    assert stopped.value.code == 2 and flag.partition("=")[0] in capsys.readouterr().err


def test_the_live_tables(api: FakeApi, tmp_path: Path) -> None:
    for number in range(30):
        name = f"busy-{number}"
        api.put(kinds.POD_METRICS, pod_usage(name, "2026-11-25T10:00:00Z", cpu=f"{number}m"))
    master, slave = os.openpty()
    config = api.write_kubeconfig(tmp_path / "kubeconfig")
    command = [sys.executable, "-c", COMMAND, "top", f"--kubeconfig={config}", f"--output-dir={tmp_path / 'out'}"]
    environment = {**os.environ, "COLUMNS": "120", "LINES": "30", "TERM": "xterm"}
    process = subprocess.Popen([*command, "--frequency=0.5"], stderr=slave, env=environment)
    os.close(slave)
    shown: list[str] = []

    def read() -> None:
        while True:
            try:
                shown.append(os.read(master, 65536).decode(errors="replace"))
            except OSError:  # the other end is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    try:
        wait_for("the tables", lambda: "busy-29" in "".join(shown))
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(WAIT_S) == 130
        reader.join(WAIT_S)
        os.close(master)
    text = "".join(shown)
    first = text[text.index("functions/busy-29") :]
    assert first.index("busy-28") < first.index("busy-27") < first.index("busy-20")
    assert "node (2 of 2)" in text and "of 31)" in text and "samples of nodes" in text and "5%" in text
