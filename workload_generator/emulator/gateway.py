"""`kn-bench local`: serves the platform on one port until a signal."""

from __future__ import annotations

import asyncio
import gc
import resource
import secrets
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from workload_generator.base.exit_codes import of_signal
from workload_generator.base.listening import listen
from workload_generator.base.standard_streams import print_lines
from workload_generator.emulator.client_connection import ClientConnection
from workload_generator.emulator.platform import STATE_PATH, EmbeddedPlatform
from workload_generator.emulator.platform_events import PlatformEvent
from workload_generator.emulator.receiver_triggers import with_triggers
from workload_generator.emulator.settings import TriggerSettings, load_config
from workload_generator.functions.catalog import load_catalog

DEFAULT_PORT = 8080
DEFAULT_MAX_INSTANCES = 50

_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class PlatformOptions:
    """The command line. `flags` are settings of every service, by field."""

    bind: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    config: Path | None = None
    seed: int | None = None
    max_instances: int = DEFAULT_MAX_INSTANCES
    triggers: Mapping[str, TriggerSettings] = field(default_factory=dict)
    flags: Mapping[str, object] = field(default_factory=dict)


def run_platform(options: PlatformOptions) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code. Prints its state and events. Raises UsageError."""
    functions = load_catalog()
    config = load_config(options.config, functions, options.flags)
    if options.triggers:
        config = with_triggers(config, options.triggers)
    listener = listen(options.bind, options.port)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # two connections for each client
    seed = options.seed if options.seed is not None else config.seed
    seed = secrets.randbits(32) if seed is None else seed

    def show(event: PlatformEvent) -> None:
        message = f": {event.message}" if event.message else ""
        _write(f"{event.time[11:23]} {event.kind:<10} {event.instance or event.service}{message}")

    async def run() -> int:
        built = [name for name, function in functions.items() if function.built]
        missing = [name for name in functions if name not in built]
        host, port = listener.getsockname()[:2]
        _write(f"embedded platform (an emulator): http://{f'[{host}]' if ':' in host else host}:{port} (seed {seed})")
        _write(f"functions: {', '.join(built)}{'; not built: ' + ', '.join(missing) if missing else ''}")
        for name, broker in config.brokers.items():
            _write(f"broker {name}: /broker/{name}, triggers {', '.join(broker.triggers) or 'none'}")
        _write(f"state: {STATE_PATH}; Ctrl-C stops the platform and its functions")
        return await _serve(EmbeddedPlatform(config, functions, seed, options.max_instances, show), listener)

    with listener, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def _serve(platform: EmbeddedPlatform, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    ended, hurry = asyncio.Event(), asyncio.Event()
    received: list[int] = []

    def on_signal(number: int) -> None:
        received.append(number)
        (hurry if ended.is_set() else ended).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    server = await loop.create_server(lambda: ClientConnection(platform), sock=listener)
    gc.collect()
    gc.freeze()  # loaded code is never garbage: leave it out of all further collections
    try:
        await ended.wait()
    finally:
        server.close()
        await platform.stop(_GRACE_S, hurry)
    return of_signal(received[0])


def _write(line: str) -> None:
    print_lines([line])
