"""Cold starts with known delays on a real control plane; the generator uses the service account of the manifests.

The scheduler, the controllers and the API are real; kwok simulates the kubelet with the delays in the Service's
annotations. The test acts as Knative's activator: it holds a request until the pod is ready, and answers for the pod.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.api import Api, Doc, wait_for
from tests.cluster.conditions import is_true
from tests.cluster.knative import Knative
from tests.cluster.namespaces import Namespaces
from tests.cluster.plane import Plane
from tests.results.logs import rows_of
from tests.support import Generator, Ran
from tests.test_manifests import combined
from workload_generator.results.ingest.extract import extract

pytestmark = pytest.mark.usefixtures("plane", "has_knative")
SERVING = "serving.knative.dev/v1"
DELAYS = {"f": (0.9, 0.5), "g": (0.4, 1.3)}  # of starting the containers, and of readiness after that
ROUNDS = {"requestsPerSecond": 0.2, "duration": "10s"}
COLD = {"settle": "200ms", "maxWait": "40s"}
SLACK_MS = 250
"""The smallest delay that kwok adds; a shared machine may add more."""


@pytest.fixture(scope="module", params=["cold-start-watcher", "cold-start-events"])
def account(
    request: pytest.FixtureRequest, kube: Api, namespaces: Namespaces, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path, bool]]:
    """The functions' namespace, a kubeconfig of the generator's account, and whether it may read events."""
    parts = ["cold-start-watcher"] + (["cold-start-events"] if request.param == "cold-start-events" else [])
    docs = combined(tmp_path_factory.mktemp("combined"), "base", *parts)
    before = [doc for doc in docs if doc["kind"] != "Namespace"]
    moved = namespaces.move(docs)
    names = {old["metadata"]["namespace"]: new["metadata"]["namespace"] for old, new in zip(before, moved, strict=True)}
    namespaces.apply([doc for doc in moved if doc["kind"] in ("ServiceAccount", "Role", "RoleBinding")])
    yield names["functions"], token_of(kube, names["workload-generator"], tmp_path_factory.mktemp("k")), len(parts) > 1
    namespaces.delete(*names.values())


def token_of(kube: Api, namespace: str, folder: Path) -> Path:
    """A kubeconfig with only a token of the generator's account, as in its pod."""
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/workload-generator/token"
    asked = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = kube.call("POST", path, asked)["status"]["token"]
    config = yaml.safe_load(kube.kubeconfig.read_text())
    for each in config["clusters"]:
        authority = each["cluster"].get("certificate-authority")
        if authority:
            each["cluster"]["certificate-authority"] = str(kube.kubeconfig.parent / authority)
    config["users"] = [{"name": each["name"], "user": {"token": token}} for each in config["users"]]
    made = folder / "kubeconfig"
    made.write_text(yaml.safe_dump(config))
    return made


@pytest.fixture
def generator(tmp_path: Path, account: tuple[str, Path, bool], monkeypatch: pytest.MonkeyPatch) -> Generator:
    monkeypatch.setenv("KUBECONFIG", str(account[1]))
    return Generator(tmp_path)


def service(namespace: str, name: str) -> Doc:
    start, ready = DELAYS[name]
    annotations = {f"knative-bench.test/{key}": f"{s}s" for key, s in (("start-after", start), ("ready-after", ready))}
    security = {
        "allowPrivilegeEscalation": False, "runAsNonRoot": True, "capabilities": {"drop": ["ALL"]},
        "seccompProfile": {"type": "RuntimeDefault"},
    }  # fmt: skip
    container = {
        "name": "function", "image": "dev.local/f:1", "securityContext": security,
        "resources": {"requests": {"cpu": "10m"}},
    }  # fmt: skip
    template = {"metadata": {"annotations": annotations}, "spec": {"containers": [container]}}
    meta = {"name": name, "namespace": namespace}
    return {"apiVersion": SERVING, "kind": "Service", "metadata": meta, "spec": {"template": template}}


class Activator:
    """Scales a service up for a request, answers for the ready pod, and scales the service down again."""

    def __init__(self, kube: Api, knative: Knative, namespace: str) -> None:
        self._kube, self._knative, self._namespace = kube, knative, namespace
        self.pods: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await read_head(reader, writer)).decode()
        if not head:
            return
        host = next(line for line in head.splitlines() if line.lower().startswith("host:")).partition(":")[2].strip()
        if f".{self._namespace}." not in host:  # the generator detects the platform
            await say(writer, "")
            return
        pod = await asyncio.to_thread(self._pod, host.partition(".")[0])
        await say(writer, f"x-instance: {pod}\r\n")

    def _pod(self, name: str) -> str:
        time.sleep(0.06)  # until the autoscaler's decision, as seen on Serving 1.22.1 (November 2026, one node)
        self._knative.scale(self._namespace, name, 1)

        def ready() -> str | None:
            pods = self._kube.list("v1", "Pod", self._namespace, f"serving.knative.dev/service={name}")
            return next((each["metadata"]["name"] for each in pods if is_true(each, "Ready")), None)

        pod = wait_for(f"a pod of {name}", ready)
        self.pods.append(pod)
        self._knative.scale(self._namespace, name, 0)
        return pod

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def cold_starts(
    generator: Generator, kube: Api, namespace: str, services: list[str]
) -> tuple[Ran, list[dict[str, Any]], list[str]]:
    with Knative(kube, [namespace]) as knative:
        for name in services:
            await asyncio.to_thread(kube.apply, service(namespace, name))
        for name in services:

            def is_up(name: str = name) -> bool:
                return is_true(kube.get(SERVING, "Service", namespace, name), "Ready")

            await asyncio.to_thread(wait_for, name, is_up)
            knative.scale(namespace, name, 0)
        activator = Activator(kube, knative, namespace)
        async with activator.listening() as url:
            urls = [f"http://{name}.{namespace}.svc.cluster.local" for name in services]
            path = generator.experiment(urls, rate=ROUNDS, coldStart=COLD)
            ran = await generator.run(f"--config={path}", "--cold-start", f"--dev-url={url}")
    return ran, [doc for doc in ran.lines if doc["event"] == "cold_start"], activator.pods


async def test_the_table_has_the_delays_of_kwok(
    generator: Generator, kube: Api, account: tuple[str, Path, bool], plane: Plane, tmp_path: Path
) -> None:
    namespace, _, _ = account
    ran, lines, pods = await cold_starts(generator, kube, namespace, ["f", "g"])
    assert ran.code in (0, 3), ran.stderr
    assert ran.lines[0]["cold_starts"] == {"source": "kubernetes", "wait": "zero", "unknown": None}, "zero by default"
    assert len(lines) >= 4 and [each["instance"] for each in lines] == pods
    assert [each["proven"] for each in lines] == [True] * len(lines), lines
    db = tmp_path / "benchmark.db"
    assert not extract(generator.logs, db).skipped
    rows = rows_of(db, "SELECT * FROM cold_starts ORDER BY seq")
    assert len(rows) == len(lines)
    over: dict[tuple[str, str], list[float]] = {}  # excess of a phase over kwok's delay, beyond the error
    for row in rows:
        start_s, ready_s = DELAYS["f" if "//f." in row["target"] else "g"]
        assert json.loads(row["grid"]) == [], "no point has whole seconds as its only source"
        assert 0 < row["error"] < 1000 and row["zero_for"] >= 200, row  # the rest is due to the machine
        assert row["clock_error"] < 500 and abs(row["clock_offset"]) <= row["clock_error"] + 1, (
            "the delay of this machine"
        )
        order = [row[name] for name in ("scale", "created", "scheduled", "started", "queue_ready", "ready")]
        assert all(first <= then + row["error"] for first, then in pairwise(order)) and 0 < order[0], row
        assert order[-1] - row["error"] < row["first_byte"], "a point is known between bounds, the first byte exactly"
        for began, ended, delay_s in (("scheduled", "started", start_s), ("started", "ready", ready_s)):
            lasted = row[ended] - row[began]
            assert 1000 * delay_s - row["error"] <= lasted, (ended, row)
            over.setdefault((row["target"], ended), []).append(lasted - 1000 * delay_s - row["error"])
    assert all(min(each) < SLACK_MS for each in over.values()), over
    sums = rows_of(db, "SELECT seq, sum(ms) AS ms FROM cold_start_phases GROUP BY seq ORDER BY seq")
    for row, phases in zip(rows, sums, strict=True):
        assert abs(phases["ms"] - row["first_byte"]) < 0.01
    (proof,) = rows_of(db, "SELECT sum(requests) AS n, sum(proven) AS p FROM cold_start_proofs")
    assert proof["n"] == proof["p"] == len(lines)


async def test_a_run_without_the_role_reports_once_that_cold_starts_are_unknown(
    generator: Generator, kube: Api, account: tuple[str, Path, bool], namespaces: Namespaces, plane: Plane
) -> None:
    _, config, may_see_events = account
    if may_see_events:
        pytest.skip("one attempt without the permission")
    elsewhere = namespaces.make("others")
    generator_config = {"wait": "zero", **COLD}
    server = await asyncio.start_server(_answer, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        path = generator.experiment(
            f"http://f.{elsewhere}.svc.cluster.local", rate={**ROUNDS, "duration": "1s"}, coldStart=generator_config
        )
        ran = await generator.run(f"--config={path}", "--cold-start", f"--dev-url={url}")
    assert config.is_file() and [row["status"] for row in ran.requests()] == [200]
    logged = ran.lines[0]["cold_starts"]
    assert logged["wait"] == "interval" and "forbidden" in logged["unknown"]
    assert ran.stderr.count("cold starts cannot be observed") == 1
    assert not [doc for doc in ran.lines if doc["event"] == "cold_start"]
    namespaces.delete(elsewhere)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if await read_head(reader, writer):
        await say(writer, "")


async def read_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
    """The head of a request; empty if the connection was closed."""
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
        return b""


async def say(writer: asyncio.StreamWriter, header: str) -> None:
    writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n{header}\r\ntrue".encode())
    writer.close()
    await writer.wait_closed()
