"""Time and memory of a tick of `kn-bench top` with 100 nodes and 10,000 pods: `just bench-top`.

    uv run python bench/top.py [--nodes N] [--pods N] [--ticks N]

A test server answers as the API server, with new samples at each poll, so that no sample is skipped. The recording runs
in a separate process on the other core. For comparison, `kubectl get --raw` fetches the same responses.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import yaml
from aiohttp import web

from workload_generator.cluster.top.polling import SourcePoller
from workload_generator.cluster.top.recording import RecordingPlan, Top
from workload_generator.cluster.top.storage import open_storage
from workload_generator.kube.client import Kube

PORT = 18722
PERIOD_S = 5.0
FIRST = "2026-01-01T00:00:00Z"
METRICS = "/apis/metrics.k8s.io/v1beta1"


class Answers:
    """The lists of a cluster, as bytes."""

    def __init__(self, nodes: int, pods: int) -> None:
        self.polls = 0
        allocatable = {"cpu": "16", "memory": "64Gi", "pods": "110"}
        self.nodes = _list("Node", [
            {"metadata": _about(f"node-{n}"), "status": {"allocatable": allocatable}} for n in range(nodes)
        ])  # fmt: skip
        self.pods = [_pod(number, nodes) for number in range(pods)]
        self.node_usage = _list("NodeMetrics", [_usage(f"node-{n}", None, n) for n in range(nodes)])
        self.pod_usage = _list("PodMetrics", [_usage(_name(n), f"functions-{n % 20}", n) for n in range(pods)])

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await asyncio.sleep(3600)
            return response
        if request.path == "/version":
            return web.json_response({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
        if request.path == METRICS:
            return web.json_response({"kind": "APIResourceList"})
        if request.path.startswith(METRICS):
            self.polls += 1
            at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(1_770_000_000 + self.polls)).encode()
            body = self.node_usage if request.path.endswith("nodes") else self.pod_usage
            return web.Response(body=body.replace(FIRST.encode(), at), content_type="application/json")
        if request.path == "/api/v1/nodes":
            return web.Response(body=self.nodes, content_type="application/json")
        if request.path == "/api/v1/pods":
            start = int(request.query.get("continue", 0))
            end = start + int(request.query["limit"])
            about = {"resourceVersion": "1", **({"continue": str(end)} if end < len(self.pods) else {})}
            return web.json_response({"kind": "PodList", "metadata": about, "items": self.pods[start:end]})
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": []})


def main() -> None:
    """Measure and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--pods", type=int, default=10_000)
    parser.add_argument("--ticks", type=int, default=24)
    parser.add_argument("--record", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--print", action="store_true", help="only print the table")
    options = parser.parse_args()
    if options.record:
        print(json.dumps(asyncio.run(record(options.record, options.ticks))))
        return
    harness.need("kubectl")
    server = multiprocessing.get_context("fork").Process(target=serve, args=(options.nodes, options.pods), daemon=True)
    server.start()
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            config = folder / "kubeconfig"
            config.write_text(yaml.safe_dump(KUBECONFIG))
            fetched = peer(config, 5)
            command = [sys.executable, __file__, f"--record={folder}", f"--ticks={options.ticks}"]
            found: dict[str, Any] = json.loads(harness.run(command, core=0).text)
            rows = sqlite3.connect(folder / "metrics.db").execute("SELECT count(*) FROM pod_metrics").fetchone()[0]
    finally:
        server.terminate()
        server.join()
    assert rows == 2 * options.pods * len(found["pods"]) and not found["gaps"], (rows, found["gaps"])
    ticks = [max(both) for both in zip(found["nodes"], found["pods"], strict=False)]  # fetched concurrently
    memory = found["memory_mib"]
    table = [
        ["a tick, until everything is stored, s", harness.spread(ticks, 2), "below the period of 5"],
        ["÷ kubectl get --raw of the same", f"{statistics.median(ticks) / statistics.median(fetched):.2f}", ""],
        ["CPU of a tick, s", harness.spread(found["cpu"], 2), ""],
        ["longest stall of the loop, ms", harness.spread([1000 * each for each in found["stalls"]]), ""],
        ["peak memory, MiB", f"{found['peak_mib']:.0f}", "512"],
        [
            f"memory after tick {len(memory) // 4}, {len(memory)}, MiB",
            f"{memory[len(memory) // 4 - 1]:.0f}, {memory[-1]:.0f}",
            "flat",
        ],
        ["rows of a tick", f"{rows // len(found['pods']) + options.nodes:,}", ""],
    ]
    title = f"A tick of kn-bench top: {options.nodes:,} nodes, {options.pods:,} pods of two containers"
    text = (
        f"{len(ticks)} ticks, each with new samples, into SQLite; median (min to max). The server is on "
        "the other core. `just bench-top`."
    )
    if options.print:
        for row in table:
            print(" | ".join(row))
    else:
        harness.publish("top", title, text, ("figure", "measured", "target"), table)


def serve(nodes: int, pods: int) -> None:
    harness.pinned(1)()
    app = web.Application()
    app.router.add_get("/{path:.*}", Answers(nodes, pods).answer)
    web.run_app(app, host="127.0.0.1", port=PORT, print=None, handle_signals=False)


def peer(config: Path, rounds: int) -> list[float]:
    """Seconds that kubectl needs to fetch the responses of a tick."""
    kubectl = shutil.which("kubectl")
    assert kubectl is not None
    taken = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        for path in (f"{METRICS}/nodes", f"{METRICS}/pods"):
            command = [kubectl, f"--kubeconfig={config}", "get", "--raw", path]
            for _ in range(100):  # the server may still be generating its lists
                if not subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
                    break
                time.sleep(0.2)
            else:
                raise SystemExit("the server did not start")
        taken.append(time.perf_counter() - began)
    return taken[1:]


async def record(folder: Path, ticks: int) -> dict[str, Any]:
    """The recording, with the measured times of each tick."""
    found: dict[str, Any] = {"nodes": [], "pods": [], "cpu": [], "memory_mib": [], "stalls": []}
    stop = asyncio.Event()
    stalls = [0.0]
    async with await Kube.connect(folder / "kubeconfig") as kube:
        with open_storage("sqlite", folder) as storage:

            def timed(poll: Callable[[], Awaitable[None]], subject: str) -> Callable[[], Awaitable[None]]:
                async def run() -> None:
                    began, cpu = time.perf_counter(), time.process_time()
                    await poll()
                    found[subject].append(time.perf_counter() - began)
                    if subject == "pods":
                        found["cpu"].append(time.process_time() - cpu)
                        found["memory_mib"].append(_resident_mib())
                        found["stalls"].append(stalls[0])
                        stalls[0] = 0.0
                        if len(found["pods"]) == ticks:
                            stop.set()

                return run

            class Timed(Top):
                def _make_pollers(self) -> Iterator[SourcePoller]:
                    for poller in Top._make_pollers(self):
                        poller.poll = timed(poller.poll, poller.subject)
                        yield poller

            async def watch_loop() -> None:
                while True:
                    began = time.perf_counter()
                    await asyncio.sleep(0.005)
                    stalls[0] = max(stalls[0], time.perf_counter() - began - 0.005)

            top = Timed(kube, RecordingPlan(PERIOD_S), storage, lambda text: sys.exit(text))
            watcher = asyncio.create_task(watch_loop())
            await top.run(stop)
            watcher.cancel()
            found["gaps"] = top.recorder.counts.last_gap
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return found


KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "bench",
    "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}],
    "clusters": [{"name": "bench", "cluster": {"server": f"http://127.0.0.1:{PORT}"}}],
    "users": [{"name": "bench", "user": {"token": "none"}}],
}


def _resident_mib() -> float:
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")) / 1024


def _list(kind: str, items: list[dict[str, Any]]) -> bytes:
    return json.dumps({"kind": f"{kind}List", "metadata": {"resourceVersion": "1"}, "items": items}).encode()


def _about(name: str, namespace: str | None = None) -> dict[str, Any]:
    return {"name": name, "resourceVersion": "1", **({"namespace": namespace} if namespace else {})}


def _name(number: int) -> str:
    return f"function-{number % 500}-00001-deployment-7d9f6c5b8-x{number:05}"


def _usage(name: str, namespace: str | None, seed: int) -> dict[str, Any]:
    usage = {"cpu": f"{1_000_000 + seed * 7919}n", "memory": f"{20_480 + seed}Ki"}
    item: dict[str, Any] = {"metadata": _about(name, namespace), "timestamp": FIRST, "window": "15.02s"}
    if namespace is None:
        return {**item, "usage": usage}
    return {**item, "containers": [{"name": part, "usage": usage} for part in ("user-container", "queue-proxy")]}


def _pod(number: int, nodes: int) -> dict[str, Any]:
    """About the size of a function's pod: five kilobytes."""
    labels = {
        "serving.knative.dev/revision": f"function-{number % 500}-00001",
        "serving.knative.dev/service": f"function-{number % 500}",
    }
    container = {
        "name": "user-container",
        "image": "dev.local/function:1",
        "env": [{"name": f"V{n}", "value": "x" * 60} for n in range(20)],
    }
    return {
        "metadata": {**_about(_name(number), f"functions-{number % 20}"), "labels": labels},
        "spec": {"nodeName": f"node-{number % nodes}", "containers": [container, {**container, "name": "queue-proxy"}]},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }  # fmt: skip


if __name__ == "__main__":
    main()
