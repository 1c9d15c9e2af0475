"""`--serve`: keeps a pod up for runs that `kubectl exec` starts; can be PID 1.

- `/healthz`: the process responds
- `/readyz`: a run can start here; otherwise 503 with the reasons
- `/metrics`: the run in progress, or the last one, in the Prometheus text format

Rules:
- runs are not children of this process: the lock has the process id of the run in progress
- SIGTERM is passed on to the run in progress, and so is a second one; the server waits for the run's trailer and exit,
  then takes the lock itself, so that no run starts in a pod that is terminating
- as PID 1 the server inherits orphans (such as the recorder of a killed run) and reaps them
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from workload_generator.base.errors import UsageError
from workload_generator.base.private_folder import make_private_folder
from workload_generator.base.standard_streams import complain
from workload_generator.log.status_file import read_statuses, status_folder
from workload_generator.run import metrics
from workload_generator.run.lock import lock_holder, take_lock

PORT = 8080
LOG_DIR = "/logs"
_COMMAND = "workload-generator"
_POLL_S = 0.05
_UNSEEN_S = 10.0  # longer than the workers of a killed run need to end
_ORPHANS_S = 5.0  # for the recorder of a killed run to write its results


def serve(options: argparse.Namespace) -> int:
    """Serve on `$BIND` (default: all interfaces) and `$PORT` (8080) until SIGTERM or SIGINT; returns the exit code.

    Raises UsageError.
    """
    text = os.environ.get("PORT") or str(PORT)
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise UsageError(f"PORT: {text!r} is not a port from 0 to 65535")
    make_private_folder()
    folder = status_folder()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        for path in folder.iterdir():  # of an earlier container
            path.unlink()
    except OSError as error:
        raise UsageError(f"cannot create the folder {folder}: {error.strerror}") from None
    server = RunServer(Path(options.log_dir or LOG_DIR), options.event, folder)
    asyncio.run(server.run(os.environ.get("BIND") or None, int(text)))  # uvloop handles SIGCHLD itself
    return 0


class RunServer:
    """The state of the server; `run` may be called once."""

    def __init__(self, log_dir: Path, event: bool, statuses: Path) -> None:
        self._log_dir = log_dir
        self._event = event
        self._statuses = _StatusCollector(statuses)
        self._stopping = asyncio.Event()
        self._signalled: set[int] = set()

    async def run(self, host: str | None, port: int) -> None:
        """Serve until a signal, then wait for the run in progress. Raises UsageError when the port is in use."""
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
            complain(_COMMAND, f"ready for runs; /healthz, /readyz and /metrics on port {runner.addresses[0][1]}")
            await self._stopping.wait()
            await asyncio.to_thread(self._see_out)
        finally:
            await runner.cleanup()

    # HTTP

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _request: web.Request) -> web.Response:
        why = list(self._obstacles())
        return web.Response(text="".join(f"{each}\n" for each in why) or "ready\n", status=503 if why else 200)

    async def _metrics(self, _request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(self._statuses), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def _obstacles(self) -> Iterator[str]:
        """The reasons why no run can start here."""
        if self._stopping.is_set():
            yield "this pod is terminating"
        if self._event and not os.environ.get("K_SINK"):
            yield (
                "K_SINK is not set: the ContainerSource has no sink, or had none when this pod was created. "
                "Knative starts another pod when the sink is ready: see `kubectl describe containersource`, and "
                "check that the new pod is not Pending"
            )
        if not os.access(self._log_dir, os.W_OK | os.X_OK):
            yield f"the log folder {self._log_dir} is not writable"

    # The end

    def _on_signal(self, name: signal.Signals) -> None:
        self._stopping.set()
        holder = lock_holder()
        if holder is not None and holder != os.getpid():
            self._pass_on(holder, name)

    def _pass_on(self, holder: int, name: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(holder, name)
            os.kill(holder, signal.SIGCONT)  # a stopped run has to end, too
            self._signalled.add(holder)
            complain(_COMMAND, f"{name.name} passed on to the run of process {holder}; waiting for it to end")

    def _see_out(self) -> None:
        """Wait until no run is in progress or can start, and until the signalled processes have ended."""
        seen = time.monotonic()
        while True:
            try:
                take_lock("the pod is terminating")  # held to the end of the process
                break
            except UsageError as error:
                holder = lock_holder()
                if holder is not None:
                    seen = time.monotonic()
                    if holder not in self._signalled:  # a run that started just now
                        self._pass_on(holder, signal.SIGTERM)
                elif time.monotonic() - seen > _UNSEEN_S:  # of another user, or in another container
                    complain(_COMMAND, f"not waiting for a run that is not visible from here: {error}")
                    break
                time.sleep(_POLL_S)
        while any(map(_is_alive, self._signalled)):  # a run prints its summary after it has released the lock
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
    """Reap the children that have ended; returns whether there are others."""
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
