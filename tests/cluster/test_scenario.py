"""`kn-bench scenario --platform cluster` on a real control plane. Its pods have no containers, so exec is a stand-in.

`tests/pods/kubectl.py` runs the commands of exec on this machine: the real generator, with a function on loopback.
"""

from __future__ import annotations

import contextlib
import csv
import http.server
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.cluster.api import Api, Doc, wait_for
from tests.cluster.conditions import is_true
from tests.cluster.knative import Knative
from tests.cluster.plane import Plane
from tests.pods.standin import Standin

KN_BENCH = [sys.executable, "-c", "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"]
ROOT = Path(__file__).parents[2]
FOUND = "knative-bench/found"
GENERATOR, FUNCTIONS, EVENTING, SHARDS = "workload-generator", "functions", "eventing", "workload-generator-shards"
SERVICES = ("empty-go-http-0", "empty-rust-http-0")
CONFIG = {"stable-window": "60s", "_example": "kept"}
SERVING = """
scenario: serving-scenario-2
experiment: small
services: empty-{{language}}-http-0
languages: [go, rust]
repeats: 1
duration: {duration}
pods: {pods}
patch:
  autoscaler: {{stable-window: 10s, scale-to-zero-grace-period: 10s}}
  containerConcurrency: 1
  annotations: {{max-scale: "400"}}
waitAtMost: 60s
wait: [ready, drained, zero]
"""
SMALL = """
targets: [{url: http://replaced}]
rate: {requestsPerSecond: 20, duration: 1s, rampUp: 0s}
limits: {lag: 1h}
"""
EVENTS = """
scenario: eventing-scenario-3
mode: event
experiment: events
triggers: [1, 3]
parallelism: [5]
rates: [20]
repeats: 1
waitAtMost: 60s
"""


class _Function(http.server.BaseHTTPRequestHandler):
    """Answers as a warm function. A POST is an event, which each existing trigger delivers at once."""

    protocol_version = "HTTP/1.1"
    receipts: Path
    triggers: Callable[[], int]
    lock = threading.Lock()

    def do_GET(self) -> None:
        self.answer(200, b"false")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        event, sequence = self.headers["ce-id"], self.headers["ce-sequence"]
        with self.lock, self.receipts.open("a", newline="") as file:
            for number in range(self.triggers()):
                stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime())}.{time.time_ns() % 10**9:09}Z"
                csv.writer(file, lineterminator="\n").writerow([event, stamp, f"receiver-{number}", "r", 1, sequence])
        self.answer(202, b"")

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def knative(_plane: Plane | None, kube: Api, kubeconfig: Path, has_knative: None) -> Iterator[Knative]:
    """The deployed benchmark, with the stand-in for Knative's controllers."""
    if _plane is None:
        pytest.skip(needs.OWN_PLANE.reason)
    made = [GENERATOR, FUNCTIONS, EVENTING, SHARDS, "metrics", "knative-serving"]
    before = {each["metadata"]["name"] for each in kube.list("v1", "Namespace")}
    kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "knative-serving"}})
    meta = {"name": "config-autoscaler", "namespace": "knative-serving"}
    kube.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": CONFIG})
    with Knative(kube, [GENERATOR, FUNCTIONS, EVENTING]) as knative:
        names = [each.removesuffix("-0") for each in SERVICES]
        flags = [f"--kubeconfig={kubeconfig}", f"--manifests={ROOT / 'k8s'}"]
        subprocess.run([*KN_BENCH, "deploy", "generator", *names, *flags], check=True, timeout=120)
        for name in SERVICES:
            knative.scale(FUNCTIONS, name, 0)
        yield knative
        for name in set(made) - before:
            kube.delete("v1", "Namespace", None, name)
        wait_for(
            "the deletion of the benchmark's namespaces",
            lambda: not any(kube.find("v1", "Namespace", None, name) for name in set(made) - before),
            within_s=120,
        )


class Bench:
    """`kn-bench scenario` in a folder, with the stand-in for exec."""

    def __init__(self, folder: Path, standin: Standin, kube: Api, kubeconfig: Path) -> None:
        self.folder, self.standin, self.kube = folder, standin, kube
        self.out = folder / "out"
        (folder / "experiments").mkdir()
        (folder / "experiments" / "small.yaml").write_text(SMALL)
        text = SMALL.replace("targets", "event: {type: t, data: x}\ntargets")
        (folder / "experiments" / "events.yaml").write_text(text)
        for namespace in (GENERATOR, EVENTING):
            (standin.folder / "volumes" / namespace).mkdir(parents=True)
        self.logs = standin.folder / "volumes" / GENERATOR
        self.environment = {
            **os.environ,
            "KUBECONFIG": str(kubeconfig),
            "EXPERIMENTS_DIR": str(folder / "experiments"),
            "PYTHONPATH": str(ROOT),
        }

    def scenario(self, text: str = SERVING, duration: str = "1s", pods: int = 1) -> Path:
        path = self.folder / "scenario.yaml"
        path.write_text(text.format(duration=duration, pods=pods) if text is SERVING else text)
        return path

    def start(self, path: Path, *flags: str) -> subprocess.Popen[str]:
        command = [*KN_BENCH, "scenario", str(path), "--platform=cluster", f"--out={self.out}", "--seed=1"]
        command += [f"--manifests={ROOT / 'k8s'}", *flags]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=self.environment, start_new_session=True
        )

    def run(self, path: Path, *flags: str) -> tuple[int, str]:
        process = self.start(path, *flags)
        out, _ = process.communicate(timeout=200)
        assert "Traceback" not in out, out
        return process.returncode, out

    def until_it_measures(self, process: subprocess.Popen[str], runs: int = 1) -> None:
        def measuring() -> bool:
            assert process.poll() is None, process.communicate()[0]
            found = [path for path in self.logs.glob("*.log") if b'"phase":"measure"' in path.read_bytes()]
            return len(found) >= runs

        wait_for("the generator to reach the measure phase", measuring)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.out / "benchmark.db")) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture
def bench(
    tmp_path: Path, knative: Knative, kube: Api, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bench]:
    standin = Standin(tmp_path / "cluster", monkeypatch)
    made = Bench(tmp_path, standin, kube, kubeconfig)
    _Function.receipts = standin.folder / "volumes" / EVENTING / "events.csv"
    _Function.triggers = staticmethod(
        lambda: sum(is_true(each, "Ready") for each in kube.list("eventing.knative.dev/v1", "Trigger", EVENTING))
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Function)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    standin.configure(f"--dev-url={url}", K_SINK=url)
    try:
        yield made
    finally:
        standin.end()
        server.shutdown()
        server.server_close()


def settings(kube: Api) -> dict[str, Any]:
    """The settings that a scenario may change."""
    config = kube.get("v1", "ConfigMap", "knative-serving", "config-autoscaler")
    found: dict[str, Any] = {"config": config["data"], "annotated": FOUND in config["metadata"].get("annotations", {})}
    for name in SERVICES:
        service = kube.get("serving.knative.dev/v1", "Service", FUNCTIONS, name)
        template = service["spec"]["template"]
        found[name] = (
            template["spec"].get("containerConcurrency"),
            template["metadata"].get("annotations") or {},
            FOUND in service["metadata"].get("annotations", {}),
        )
    return found


UNTOUCHED = {"config": CONFIG, "annotated": False, **dict.fromkeys(SERVICES, (None, {}, False))}
PATCHED = {
    "config": {**CONFIG, "stable-window": "10s", "scale-to-zero-grace-period": "10s"},
    "annotated": True,
    **dict.fromkeys(SERVICES, (1, {"autoscaling.knative.dev/max-scale": "400"}, True)),
}
RUNS = "SELECT language, sum(complete), count(*) FROM experiments GROUP BY language ORDER BY language"


def test_a_scenario_from_its_file_to_the_report(bench: Bench, kube: Api) -> None:
    assert settings(kube) == UNTOUCHED
    seen: list[dict[str, Any]] = []
    process = bench.start(bench.scenario())
    bench.until_it_measures(process)
    seen.append(settings(kube))
    out, _ = process.communicate(timeout=200)
    assert process.returncode in (0, 3) and "Traceback" not in out, out
    assert seen == [PATCHED] and settings(kube) == UNTOUCHED
    assert bench.rows(RUNS) == [("go", 1, 1), ("rust", 1, 1)] and (bench.out / "report.html").exists()
    assert bench.rows("SELECT count(*), count(DISTINCT target) FROM requests") == [(40, 2)]
    assert len(bench.standin.runs()) == 2
    here = bench.out / "logs"
    assert sorted(path.name for path in bench.logs.iterdir()) == sorted(path.name for path in here.glob("*.log"))
    (environment,) = here.glob("*_environment.jsonl")
    observed = [json.loads(line) for line in environment.read_text().splitlines()]
    assert {(run_id,) for run_id in {each["run_id"] for each in observed}} == set(
        bench.rows("SELECT run_id FROM experiments")
    ), observed


@pytest.mark.parametrize("lost", [False, True])
def test_restore_after_a_kill_works_without_the_folder(bench: Bench, kube: Api, lost: bool) -> None:
    path = bench.scenario(duration="60s")
    process = bench.start(path)
    bench.until_it_measures(process)
    process.kill()
    process.communicate()
    assert settings(kube) == PATCHED
    if lost:
        (bench.out / "scenario.json").unlink()
    code, out = bench.run(path, "--restore")
    assert code == 0 and "restored" in out and settings(kube) == UNTOUCHED
    code, out = bench.run(path, "--restore")
    assert code == 0 and "there is nothing to restore" in out


def test_a_killed_scenario_resumes_with_the_run_in_progress(bench: Bench, kube: Api) -> None:
    path = bench.scenario(duration="4s")
    process = bench.start(path)
    bench.until_it_measures(process)
    process.kill()
    process.communicate()
    began = bench.standin.runs()
    code, out = bench.run(path)
    assert code in (0, 3), out
    assert settings(kube) == UNTOUCHED and bench.rows(RUNS) == [("go", 1, 1), ("rust", 1, 1)]
    assert len(began) == 1 and len(bench.standin.runs()) == 2, "the run in progress was not started again"


def test_the_next_scenario_restores_the_settings_of_a_killed_one_first(bench: Bench, kube: Api) -> None:
    path = bench.scenario(duration="60s")
    process = bench.start(path)
    bench.until_it_measures(process)
    process.kill()
    process.communicate()
    bench.standin.end()
    (bench.out / "scenario.json").unlink()
    for each in bench.logs.iterdir():
        each.unlink()
    code, out = bench.run(bench.scenario())
    assert code in (0, 3) and "restoring what a killed scenario has changed" in out, out
    assert settings(kube) == UNTOUCHED


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_scenario_ends_its_run_restores_and_resumes(
    bench: Bench, kube: Api, number: signal.Signals, code: int
) -> None:
    path = bench.scenario(duration="60s")
    process = bench.start(path)
    bench.until_it_measures(process)
    process.send_signal(number)
    out, _ = process.communicate(timeout=100)
    assert process.returncode == code and "Traceback" not in out, out
    assert settings(kube) == UNTOUCHED
    (log,) = bench.logs.glob("*.log")
    assert "stopped by SIGTERM" in log.read_text(), "no run in the pod"
    bench.standin.configure(*json.loads((bench.standin.folder / "flags.json").read_text()), "--duration=1s")
    again, out = bench.run(path)
    assert again in (0, 3) and "was interrupted; it is run again" in out, out
    assert bench.rows(RUNS) == [("go", 1, 1), ("rust", 1, 1)] and settings(kube) == UNTOUCHED


def test_interrupted_sessions_a_damaged_stream_and_a_new_pod_lose_nothing(bench: Bench, kube: Api) -> None:
    bench.standin.fault("^workload-generator", cut=0, cut_when=str(bench.folder))
    bench.standin.fault('"archive"', damage=2000)
    bench.standin.fault('"archive"', cut=300)
    bench.standin.fault('"look"', refuse="Unable to connect to the server: dial tcp: connection refused")
    process = bench.start(bench.scenario(duration="2s"), "--delete")
    bench.until_it_measures(process)
    wait_for("the first run's end", lambda: list((bench.out / "logs").glob("*.log")))
    (old,) = [each["metadata"]["name"] for each in kube.list("v1", "Pod", GENERATOR)]
    kube.delete("v1", "Pod", GENERATOR, old)
    out, _ = process.communicate(timeout=200)
    assert process.returncode in (0, 3) and "Traceback" not in out, out
    assert not list(bench.logs.glob("*.log")), "deleted in the pod after the check"
    assert not bench.standin.faults_left and settings(kube) == UNTOUCHED
    assert bench.rows(RUNS) == [("go", 1, 1), ("rust", 1, 1)] and len(bench.standin.runs()) == 2
    assert bench.rows("SELECT count(*) FROM requests") == [(80,)]


def test_a_condition_that_times_out_is_reported_and_settings_are_restored(
    bench: Bench, kube: Api, knative: Knative
) -> None:
    text = SERVING.replace("60s", "3s").format(duration="1s", pods=1)
    knative.scale(FUNCTIONS, SERVICES[0], 2)
    try:
        code, out = bench.run(bench.scenario(text))
    finally:
        knative.scale(FUNCTIONS, SERVICES[0], 0)
    assert code == 1 and "after 3 s" in out and SERVICES[0] in out, out
    assert settings(kube) == UNTOUCHED and not bench.standin.runs()


# Events


def eventing(kube: Api) -> dict[str, Any]:
    deployment = kube.get("apps/v1", "Deployment", GENERATOR, GENERATOR)
    return {
        "replicas": deployment["spec"]["replicas"],
        "annotated": FOUND in deployment["metadata"].get("annotations", {}),
        "source": kube.find("sources.knative.dev/v1", "ContainerSource", GENERATOR, GENERATOR) is not None,
        "triggers": sorted(
            each["metadata"]["name"] for each in kube.list("eventing.knative.dev/v1", "Trigger", EVENTING)
        ),
    }


def test_events_are_accounted_for_by_trigger(bench: Bench, kube: Api) -> None:
    before = eventing(kube)
    assert before == {"replicas": 1, "annotated": False, "source": False, "triggers": []}
    process = bench.start(bench.scenario(EVENTS))
    bench.until_it_measures(process)
    during = eventing(kube)
    out, _ = process.communicate(timeout=300)
    assert process.returncode in (0, 3) and "Traceback" not in out, out
    assert (during["replicas"], during["annotated"], during["source"]) == (0, True, True)
    assert eventing(kube) == before
    accounts = bench.rows(
        "SELECT e.triggers, e.workers, a.trigger, a.once, a.lost FROM event_accounts a "
        "JOIN experiments e ON a.experiment_id = e.id ORDER BY 1, 3"
    )
    assert accounts == [(1, 5, "receiver-0", 20, 0)] + [(3, 5, f"receiver-{n}", 20, 0) for n in range(3)]
    pods = [call[call.index("exec") + 2] for call in bench.standin.calls if "workload-generator" in call[-8:]]
    assert not any(name.startswith("workload-generator-") and "deployment" not in name for name in pods), pods
    dispatchers = kube.list("apps/v1", "Deployment", EVENTING)
    assert {"event-logger", "receiver"} <= {each["metadata"]["name"] for each in dispatchers}


def test_eventing_is_restored_from_the_cluster_after_a_kill(bench: Bench, kube: Api) -> None:
    before = eventing(kube)
    path = bench.scenario(EVENTS + "duration: 60s\n")
    process = bench.start(path)
    bench.until_it_measures(process)
    process.kill()
    process.communicate()
    (bench.out / "scenario.json").unlink()
    code, out = bench.run(path, "--restore")
    assert code == 0 and "the generator is restored" in out, out
    assert eventing(kube) == before
    pods = kube.list("v1", "Pod", GENERATOR)
    assert [is_true(each, "Ready") for each in pods] == [True]


# Several pods


class Kubelets:
    """Runs the Job's script on this machine with the real generator."""

    def __init__(self, bench: Bench, url: str) -> None:
        self._bench = bench
        self._ended = threading.Event()
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._thread = threading.Thread(target=self._run, daemon=True)
        program = bench.folder / "program" / "workload-generator"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} -m workload_generator "$@" --dev-url={url} --log-dir="$LOGS"\n'
        )
        program.chmod(0o755)
        self._path = f"{program.parent}:{os.environ['PATH']}"

    def __enter__(self) -> Kubelets:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        for process in self._running.values():
            process.kill()
            process.wait()

    @property
    def started(self) -> int:
        return len(self._running)

    def _run(self) -> None:
        kube = Api(self._bench.kube.kubeconfig)
        while not self._ended.wait(0.1):
            for pod in kube.list("v1", "Pod", SHARDS):
                name = pod["metadata"]["name"]
                if name not in self._running and "deletionTimestamp" not in pod["metadata"]:
                    self._running[name] = self._start(kube, pod)

    def _start(self, kube: Api, pod: Doc) -> subprocess.Popen[bytes]:
        folder = self._bench.standin.pod(pod["metadata"]["name"], SHARDS)
        experiment = kube.get("v1", "ConfigMap", SHARDS, "experiment")["data"]
        (folder / "experiment").mkdir()
        for name, text in experiment.items():
            (folder / "experiment" / name).write_text(text)
        run = kube.get("v1", "ConfigMap", SHARDS, "run")["data"]
        (container,) = pod["spec"]["containers"]
        own = {each["name"]: each["value"] for each in container["env"] if "value" in each}
        index = pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"]
        run["CONFIG"] = str(folder) + run["CONFIG"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **run, **own, "JOB_COMPLETION_INDEX": index}
        environment |= {"PATH": self._path, "TMPDIR": str(folder / "tmp"), "LOGS": str(folder / "logs")}
        return subprocess.Popen(container["command"], env=environment, stderr=subprocess.DEVNULL)


@pytest.fixture
def small(kube: Api, knative: Knative) -> Iterator[None]:
    """A generator, and shards, of half a CPU, so that three fit on the plane's node."""
    deployment = kube.get("apps/v1", "Deployment", GENERATOR, GENERATOR)
    containers = deployment["spec"]["template"]["spec"]["containers"]
    resources = containers[0]["resources"]
    half = {kind: {**values, "cpu": "500m"} for kind, values in resources.items()}
    for wanted in (half, resources):
        changed = [{**containers[0], "resources": wanted}]
        kube.patch(deployment, {"spec": {"template": {"spec": {"containers": changed}}}})
        wait_for("the generator's pod", lambda wanted=wanted: [  # type: ignore[misc]
            each for each in kube.list("v1", "Pod", GENERATOR)
            if is_true(each, "Ready") and each["spec"]["containers"][0]["resources"]["requests"] == wanted["requests"]
        ])  # fmt: skip
        if wanted is half:
            yield


def test_unschedulable_pods_are_reported_and_the_job_is_deleted(bench: Bench, kube: Api) -> None:
    text = SERVING.replace("60s", "5s").format(duration="1s", pods=2)
    code, out = bench.run(bench.scenario(text))
    assert code == 1 and "after 5 s: " in out and " of 2; " in out and "Insufficient cpu" in out, out
    wait_for("the deletion of the Job", lambda: kube.find("batch/v1", "Job", SHARDS, GENERATOR) is None)
    assert settings(kube) == UNTOUCHED


def test_two_pods_start_together_and_are_one_run(bench: Bench, kube: Api, small: None) -> None:
    (url,) = json.loads((bench.standin.folder / "flags.json").read_text())
    with Kubelets(bench, url.partition("=")[2]) as kubelets:
        code, out = bench.run(bench.scenario(pods=2, duration="3s"))
        assert code in (0, 3), out
        assert kubelets.started == 4
    assert bench.rows(RUNS) == [("go", 1, 1), ("rust", 1, 1)]
    assert bench.rows("SELECT count(*) FROM shards") == [(4,)]
    assert bench.rows("SELECT count(*) FROM requests") == [(120,)]
    assert kube.find("batch/v1", "Job", SHARDS, GENERATOR) is None
    assert len(list((bench.out / "logs").glob("*_s1.log"))) == 2 and "2 pods start at" in out
    assert settings(kube) == UNTOUCHED


def test_trigger_with_two_pods(bench: Bench, kube: Api, small: None) -> None:
    (url,) = json.loads((bench.standin.folder / "flags.json").read_text())
    command = [
        *KN_BENCH,
        "trigger",
        "--config=small",
        "--pods=2",
        "--prefix=two",
        "--timeout=60s",
        f"--out={bench.out}",
    ]
    with Kubelets(bench, url.partition("=")[2]):
        ran = subprocess.run(
            [*command, f"--manifests={ROOT / 'k8s'}"],
            capture_output=True,
            text=True,
            timeout=200,
            env=bench.environment,
        )
    assert ran.returncode in (0, 3), ran.stdout + ran.stderr
    logs = sorted(path.read_text().splitlines() for path in bench.out.glob("two_*_s[01].log"))
    assert len(logs) == 2 and all(json.loads(log[-1])["event"] == "run_finished" for log in logs)
    assert len({json.loads(log[0])["run_id"] for log in logs}) == 1
    requests = [json.loads(line) for log in logs for line in log[1:-1]]
    assert sorted(line["seq"] for line in requests if line["event"] == "request") == list(range(20))
    assert kube.find("batch/v1", "Job", SHARDS, GENERATOR) is None
