"""Finds a cluster's Prometheus, and copies a snapshot of its data to this machine.

Rules:
- only a forwarded port reaches the admin API; the server's configuration is not changed
- the copy gets its final name after each file has matched its checksum in the pod; a stream that breaks is retried
- the snapshot in the pod is deleted once the copy is complete, since it keeps disk space from being freed
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workload_generator.base.errors import BenchError, UsageError
from workload_generator.cluster.prometheus import tsdb
from workload_generator.cluster.prometheus.streams import Streams
from workload_generator.cluster.prometheus.tsdb import SnapshotContents
from workload_generator.kube.client import Kube
from workload_generator.kube.names import NAME_LABEL
from workload_generator.kube.resources import PODS, Object, is_ready, name_of

LABELS = f"{NAME_LABEL}=prometheus"
ADMIN_FIX = (
    "start it with --web.enable-admin-api (kube-prometheus-stack: prometheus.prometheusSpec.enableAdminAPI: true)"
)
_NAME = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]+")
_SUM = re.compile(r"([0-9a-f]{64}) [ *]\./(.+)")
_TRIES = 3
_SNAPSHOT_S = 600.0  # the server writes the newest hours of data first


@dataclass(frozen=True, slots=True)
class PrometheusPod:
    """A pod with a Prometheus server."""

    pod: str
    container: str
    port: int
    prefix: str
    storage: str
    has_admin_api: bool


async def find_server(kube: Kube, namespace: str, pod: str | None) -> PrometheusPod:
    """The first ready Prometheus pod, or the pod of that name. Raises BenchError, UsageError."""
    if pod is not None:
        pods = [await kube.get(PODS, pod, namespace)]
    else:
        pods = (await kube.list(PODS, namespace, labels=LABELS)).items
        if not pods:
            raise UsageError(f"namespace {namespace} has no pod with the label {LABELS}: use --namespace or --pod")
    ready = sorted((each for each in pods if is_ready(each)), key=name_of)
    if not ready:
        raise BenchError(f"no Prometheus is ready in namespace {namespace}: {', '.join(map(name_of, pods))}")
    return server_of(ready[0])


def server_of(pod: Object) -> PrometheusPod:
    """The server in a pod, by its container's flags. Raises BenchError."""
    containers = pod["spec"]["containers"]
    named = [each for each in containers if each["name"] in ("prometheus", "prometheus-server")]
    if not named and len(containers) > 1:
        raise BenchError(f"pod {name_of(pod)} has no container prometheus")
    container = (named or containers)[0]
    flags: dict[str, str] = {}
    for word in [*(container.get("command") or ()), *(container.get("args") or ())]:
        name, _, value = word.lstrip("-").partition("=")
        flags[name] = value
    address = flags.get("web.listen-address", "")
    listens = address.rpartition(":")[2]
    ports = {each.get("name"): each["containerPort"] for each in container.get("ports") or ()}
    default = ports.get("http-web") or ports.get("web") or ports.get("http") or 9090
    return PrometheusPod(
        pod=name_of(pod),
        container=container["name"],
        port=int(listens) if listens.isdecimal() else default,
        prefix="/" + flags.get("web.route-prefix", "").strip("/"),
        storage=flags.get("storage.tsdb.path", "/prometheus").rstrip("/"),
        has_admin_api="web.enable-admin-api" in flags and flags["web.enable-admin-api"] != "false",
    )


def take_snapshot(
    streams: Streams, server: PrometheusPod, folder: Path, say: Callable[[str], None], *, keep: bool = False
) -> tuple[Path, SnapshotContents]:
    """Take a snapshot and copy it into `folder`; returns its path and contents. Raises BenchError.

    With `keep` the snapshot also stays in the pod.
    """
    if not server.has_admin_api:
        raise BenchError(f"the admin API of Prometheus in pod {server.pod} is off: {ADMIN_FIX}")
    folder.mkdir(parents=True, exist_ok=True)
    with streams.forwarded(server.pod, server.port) as port:
        name = _ask(port, f"{server.prefix.rstrip('/')}/api/v1/admin/tsdb/snapshot")
    source = f"{server.storage}/snapshots/{name}"
    say(f"snapshot {name} is in pod {server.pod}, {source}")
    target = folder / name
    if target.exists():
        raise BenchError(f"{target} exists already")
    expected = _checksums(streams, server, source)
    part = folder / f"{name}.part"
    for attempt in range(1, _TRIES + 1):
        problem = _copy(streams, server, source, part, expected)
        if problem is None:
            break
        if attempt == _TRIES:
            raise BenchError(
                f"the copy was incomplete in {_TRIES} attempts: {problem}; the snapshot is still in the pod"
            )
        say(f"{problem}: retrying")
    contents = tsdb.read_contents(part)
    part.rename(target)
    if not keep:
        streams.run(server.pod, server.container, "rm", "-rf", source)
    return target, contents


def _ask(port: int, path: str) -> str:
    """Request a snapshot; returns its name."""
    try:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=_SNAPSHOT_S)) as connection:
            connection.request("POST", path)
            response = connection.getresponse()
            status, text = response.status, response.read().decode(errors="replace")
        answer: Any = json.loads(text) if text.startswith("{") else {}
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise BenchError(f"Prometheus does not answer at the forwarded port: {error or 'no answer'}") from None
    if answer.get("status") != "success":
        reason = answer.get("error") or text.strip()[:200] or "no reason"
        fix = f": {ADMIN_FIX}" if "admin" in reason.lower() else ""
        raise BenchError(f"Prometheus refused the snapshot: {reason} ({status}){fix}")
    name = str((answer.get("data") or {}).get("name"))
    if not _NAME.fullmatch(name):  # it becomes part of a path that is deleted
        raise BenchError(f"Prometheus returned an invalid snapshot name: {name[:100]!r}")
    return name


def _checksums(streams: Streams, server: PrometheusPod, source: str) -> dict[str, str]:
    try:
        output = streams.run(
            server.pod, server.container, "sh", "-c", f"cd '{source}' && find . -type f -exec sha256sum {{}} +"
        )
    except BenchError as error:
        raise BenchError(
            f"{error}; the snapshot is still in the pod (its image needs sh, find, sha256sum and tar)"
        ) from None
    sums: dict[str, str] = {}
    for line in output.decode(errors="replace").splitlines():
        match = _SUM.fullmatch(line)
        if match is None:
            raise BenchError(f"pod {server.pod}: {line[:100]!r} is not a checksum")
        sums[match[2]] = match[1]
    if not sums:
        raise BenchError(f"pod {server.pod}: the snapshot {source} is empty: Prometheus may have no data yet")
    return sums


def _copy(streams: Streams, server: PrometheusPod, source: str, part: Path, expected: dict[str, str]) -> str | None:
    """Copy and compare; returns the problem, if there is one."""
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        with streams.streamed(server.pod, server.container, "tar", "-cf", "-", "-C", source, ".") as stream:
            with tarfile.open(fileobj=stream, mode="r|") as tar:
                tar.extractall(part, filter="data")
        copied = tsdb.checksums(part)
    except (tarfile.TarError, EOFError, BenchError) as error:
        return f"the stream broke: {error}"
    except OSError as error:
        raise BenchError(f"cannot write to {part}: {error.strerror or error}") from error
    wrong = sorted(name for name in expected.keys() | copied.keys() if expected.get(name) != copied.get(name))
    return f"{len(wrong)} of {len(expected)} files differ from the pod's, the first: {wrong[0]}" if wrong else None
