"""`kn-bench local`: serves the platform on one port until a signal."""

from __future__ import annotations

import asyncio
import gc
import resource
import secrets
import signal
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from workload_generator.base.control_token import token_file, token_path
from workload_generator.base.exit_codes import of_signal
from workload_generator.base.listening import BACKLOG, listen
from workload_generator.base.standard_streams import print_lines
from workload_generator.emulator.platform import STATE_PATH, EmbeddedPlatform
from workload_generator.emulator.platform_events import PlatformEvent
from workload_generator.emulator.receiver_triggers import with_triggers
from workload_generator.emulator.settings import PlatformConfig, TriggerSettings, load_config
from workload_generator.functions.catalog import Function, load_catalog

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
    host, port = listener.getsockname()[:2]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # two connections for each client
    seed = options.seed if options.seed is not None else config.seed
    seed = secrets.randbits(32) if seed is None else seed

    def show(event: PlatformEvent) -> None:
        message = f": {event.message}" if event.message else ""
        print_lines([f"{event.time[11:23]} {event.kind:<10} {event.instance or event.service}{message}"])

    async def run(token: str) -> int:
        platform = EmbeddedPlatform(config, functions, seed, options.max_instances, show, token)
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        print_lines([f"embedded platform (an emulator): {url} (seed {seed})", *_known(config, functions, port)])
        return await _serve(platform, listener)

    with listener, token_file(port) as token, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(token))


def _known(config: PlatformConfig, functions: Mapping[str, Function], port: int) -> Iterator[str]:
    built = [name for name, function in functions.items() if function.built]
    missing = [name for name in functions if name not in built]
    yield f"functions: {', '.join(built)}{'; not built: ' + ', '.join(missing) if missing else ''}"
    for name, broker in config.brokers.items():
        yield f"broker {name}: /broker/{name}, triggers {', '.join(broker.triggers) or 'none'}"
    yield f"state and faults: {STATE_PATH}, with the token in {token_path(port)} (docs/local.md)"
    yield "Ctrl-C stops the platform and its functions"


async def _serve(platform: EmbeddedPlatform, listener: socket.socket) -> int:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()
    hurry = asyncio.Event()

    def on_signal(number: int) -> None:
        if ended.done():
            hurry.set()
        else:
            ended.set_result(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal, number)
    server = await loop.create_server(platform.connection, sock=listener, backlog=BACKLOG)
    gc.collect()
    gc.freeze()  # loaded code is never garbage: leave it out of all further collections
    try:
        return of_signal(await ended)
    finally:
        server.close()
        await platform.stop(_GRACE_S, hurry)
