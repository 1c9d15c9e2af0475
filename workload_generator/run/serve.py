"""`--serve`: a pod that stays up for runs that `kubectl exec` triggers, and can be PID 1.

- `/healthz`: the process answers
- `/readyz`: a run could start here; otherwise 503 with the reasons
- `/metrics`: the run in progress, or the last one, from its status files (Prometheus text format)

Rules:
- runs are not our children: the lock says which process one is
- SIGTERM goes on to a run in progress, whose trailer and exit are waited for; a second one goes on too. From then on we
  hold the lock ourselves, so that no run begins in a pod that is about to end
- as PID 1 we inherit orphans (the recorder of a killed run, for one) and reap them
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from workload_generator.base.errors import UsageError
from workload_generator.log.status_file import read_statuses, status_folder
from workload_generator.run import metrics
from workload_generator.run.lock import RunLock, lock_holder

PORT = 8080
_POLL_S = 0.05
_UNSEEN_S = 10.0  # longer than the workers of a killed run take for what is in flight
_ORPHANS_S = 5.0  # how long the recorder of a killed run may take for what it still has


def serve(log_dir: Path, event: bool) -> int:
    """Serve `$BIND` (every interface) and `$PORT` (8080) until SIGTERM or SIGINT; the exit code. Raises UsageError."""
    text = os.environ.get("PORT") or str(PORT)
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise UsageError(f"PORT: {text!r} is no port")
    folder = status_folder()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.iterdir():  # left by a container before this one
            path.unlink()
    except OSError as error:
        raise UsageError(f"cannot make {folder}: {error.strerror}") from None
    server = Server(log_dir, event, folder)
    asyncio.run(server.run(os.environ.get("BIND") or None, int(text)))  # uvloop keeps SIGCHLD to itself
    return 0


class Server:
    """The state of the process; `run` may be called once."""

    def __init__(self, log_dir: Path, event: bool, statuses: Path) -> None:
        self._log_dir = log_dir
        self._event = event
        self._statuses = statuses
        self._registry = CollectorRegistry()
        self._registry.register(_StatusCollector(statuses))
        self._stopping = asyncio.Event()
        self._told: set[int] = set()

    async def run(self, host: str | None, port: int) -> None:
        """Serve until a signal, and until the run in progress has ended. Raises UsageError when the port is taken."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, self._on_signal, name)
        loop.add_signal_handler(signal.SIGCHLD, _reap)
        app = web.Application()
        app.add_routes(
            [web.get("/healthz", self._healthz), web.get("/readyz", self._readyz), web.get("/metrics", self._metrics)]
        )
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        try:
            site = web.TCPSite(runner, host, port)
            try:
                await site.start()
            except OSError as error:
                raise UsageError(f"cannot listen on port {port}: {error.strerror or error}") from None
            _tell(f"ready for runs; /healthz, /readyz and /metrics on port {runner.addresses[0][1]}")
            await self._stopping.wait()
            await asyncio.to_thread(self._see_out)
        finally:
            await runner.cleanup()

    # What is asked of us

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        why = list(self._obstacles())
        return web.Response(text="".join(f"{each}\n" for each in why) or "ready\n", status=503 if why else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _obstacles(self) -> Iterator[str]:
        """Why no run could start here."""
        if self._stopping.is_set():
            yield "this pod is about to end"
        if self._event and not os.environ.get("K_SINK"):
            yield (
                "K_SINK is not set: the ContainerSource has no sink yet, or had none when it was created. "
                "This pod will never have it: Knative starts another one when the sink is ready; "
                "see `kubectl describe containersource`, and whether that pod is Pending behind this one"
            )
        if not os.access(self._log_dir, os.W_OK | os.X_OK):
            yield f"{self._log_dir} is not a folder that this process can write to: runs have no place for their logs"

    # The end

    def _on_signal(self, name: signal.Signals) -> None:
        self._stopping.set()
        holder = lock_holder()
        if holder is not None and holder != os.getpid():
            self._pass_on(holder, name)

    def _pass_on(self, holder: int, name: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, name)
            self._told.add(holder)
            _tell(f"{name.name} passed on to the run of process {holder}; waiting for its end")

    def _see_out(self) -> None:
        """Wait until no run is in progress and none can begin, and what we told to end has ended."""
        lock = RunLock("the pod is about to end")
        seen = time.monotonic()
        while True:
            try:
                lock.__enter__()  # kept to the end of the process
                break
            except UsageError as error:
                holder = lock_holder()
                if holder is not None:
                    seen = time.monotonic()
                    if holder not in self._told:  # it began just now
                        self._pass_on(holder, signal.SIGTERM)
                elif time.monotonic() - seen > _UNSEEN_S:  # another user's, or one in another container
                    _tell(f"not waiting any longer for a run that cannot be seen from here: {error}")
                    break
                time.sleep(_POLL_S)
        while any(map(_is_alive, self._told)):  # a run prints its summary after it has let go of the lock
            time.sleep(_POLL_S)
        deadline = time.monotonic() + _ORPHANS_S
        while _reap() and time.monotonic() < deadline:
            time.sleep(_POLL_S)


class _StatusCollector(Collector):
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def collect(self) -> Iterator[Metric]:
        return metrics.families(read_statuses(self._folder), in_progress=lock_holder() is not None)


def _reap() -> bool:
    """Take leave of every child that has ended. Whether there are others."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _tell(line: str) -> None:
    with contextlib.suppress(OSError):
        sys.stderr.write(f"workload-generator: {line}\n")
        sys.stderr.flush()
