"""`kn-bench local`: the platform behind one listening socket, until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import gc
import resource
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from workload_generator.base.errors import UsageError
from workload_generator.base.exit_codes import of_signal
from workload_generator.emulator.downstream import Client
from workload_generator.emulator.fanout import FanOut
from workload_generator.emulator.journal import Event
from workload_generator.emulator.platform import OWN, Platform
from workload_generator.emulator.settings import load_config
from workload_generator.functions.catalog import load_catalog

DEFAULT_PORT = 8080
DEFAULT_MAX_INSTANCES = 50

_GRACE_S = 5.0
_BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says; `flags` are settings of every service, by field."""

    bind: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    config: Path | None = None
    seed: int | None = None
    max_instances: int = DEFAULT_MAX_INSTANCES
    fan_out: FanOut | None = None
    flags: Mapping[str, object] = field(default_factory=dict)


def run_platform(options: Options, write: Callable[[str], None]) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. `write` gets lines for people. Raises UsageError."""
    functions = load_catalog()
    config = load_config(options.config, functions, options.flags)
    if options.fan_out is not None:
        config = options.fan_out.added_to(config)
    listener = _listen(options.bind, options.port)
    _raise_descriptor_limit()
    seed = options.seed if options.seed is not None else config.seed
    seed = secrets.randbits(32) if seed is None else seed

    def show(event: Event) -> None:
        message = f": {event.message}" if event.message else ""
        write(f"{event.time[11:23]} {event.kind:<10} {event.instance or event.service}{message}")

    async def run() -> int:
        platform = Platform(config, functions, seed, options.max_instances, show)
        built = [name for name, function in functions.items() if function.built]
        others = [name for name in functions if name not in built]
        host, port = listener.getsockname()[:2]
        write(f"the embedded platform, an emulator: http://{f'[{host}]' if ':' in host else host}:{port} (seed {seed})")
        write(f"functions: {', '.join(built)}{'; not built: ' + ', '.join(others) if others else ''}")
        for name, broker in config.brokers.items():
            write(f"broker {name}: /broker/{name}, triggers {', '.join(broker.triggers) or 'none'}")
        write(f"state: {OWN.decode()}; Ctrl-C ends it, and every function that it started")
        return await _serve(platform, listener)

    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def _serve(platform: Platform, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    ended, hurry = asyncio.Event(), asyncio.Event()
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        (hurry if ended.is_set() else ended).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    server = await loop.create_server(lambda: Client(platform), sock=listener, backlog=_BACKLOG)
    platform.begin()
    gc.collect()
    gc.freeze()  # what is here now stays: no collection has to look at it again
    try:
        await ended.wait()
    finally:
        server.close()
        await platform.stop(_GRACE_S, hurry)
    return of_signal(received[0])


def _listen(bind: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in bind else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((bind, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise UsageError(f"port {port} on {bind} is in use; choose another with --port") from None
        raise UsageError(f"cannot listen on {bind} port {port}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def _raise_descriptor_limit() -> None:
    """A thousand clients are two thousand connections: more than the usual soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Lines:
    """Lines on standard output, for as long as somebody reads them."""

    def __init__(self) -> None:
        self._lost = False

    def write(self, line: str) -> None:
        """One line, at once."""
        if self._lost:
            return
        try:
            sys.stdout.write(f"{line}\n")
            sys.stdout.flush()
        except OSError:  # the terminal is gone; the platform is not
            self._lost = True
