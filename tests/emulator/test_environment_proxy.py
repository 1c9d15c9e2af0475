"""Requests to this machine do not use the proxy of the environment."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.emulator.platforms import local
from tests.support import Generator
from workload_generator.base.errors import BenchError
from workload_generator.coldstart.connect import watcher_of_local
from workload_generator.emulator.detect import platform_of
from workload_generator.emulator.platform_process import PlatformProcess
from workload_generator.emulator.server_process import answers
from workload_generator.log.format import LOCAL
from workload_generator.scenarios.emulator import EmulatorPlatform


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """The requests to the proxy of the environment, which refuses all of them."""
    asked: list[bytes] = []

    def refuse() -> None:
        while True:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(4096))
                if not asked[-1]:
                    return
                connection.sendall(b"HTTP/1.1 502 Proxy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        proxy = "{}:{}".format(*listening.getsockname())
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://{proxy}")
            monkeypatch.setenv(name.upper(), f"http://{proxy}")
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.delenv(name, raising=False)
        thread = threading.Thread(target=refuse)
        thread.start()
        try:
            yield asked
        finally:
            socket.create_connection(listening.getsockname()).close()
            thread.join()


async def test_no_command_uses_the_proxy_for_this_machine(asked: list[bytes], tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    experiment = generator.experiment("http://unknown.functions.svc.cluster.local/", rate={"duration": "100ms"})
    flags = [f"--config={experiment}", f"--log-dir={generator.logs}", "--progress=none", "--output=json"]
    async with local(tmp_path) as platform:
        process = PlatformProcess(None, tmp_path / "output", tmp_path)
        process.url = platform.url
        scenarios = cast(EmulatorPlatform, SimpleNamespace(_embedded=process))
        watcher = watcher_of_local(platform.url)
        assert await watcher.open() is None
        await watcher.close()

        def command() -> None:
            assert platform_of(platform.url) == LOCAL
            assert process.instances() == 0
            process.wait_for_delivery()
            assert not answers(f"{platform.url}/healthz")  # it has no such path
            with pytest.raises(BenchError, match="does not become ready: 404"):
                EmulatorPlatform._start(scenarios, "unknown")
            process.generate(flags, event=False)

        await asyncio.to_thread(command)
    assert {line["status"] for line in generator.read_log() if line["event"] == "request"} == {404}
    assert not asked
