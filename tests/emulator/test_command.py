"""`kn-bench local` as a process."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.commands.test_quickstart import KN_BENCH, descendants, gone
from tests.emulator.platforms import catalog_of
from workload_generator.base.control_token import control_headers
from workload_generator.base.no_proxy import open_directly
from workload_generator.commands.kn_bench import main


@contextlib.contextmanager
def command(*flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its URL."""
    words = [sys.executable, "-c", KN_BENCH, "local", "--port=0", *flags]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", process.stdout.readline())
        assert found is not None
        yield process, found[0]
    finally:
        process.kill()
        process.communicate()


def get(url: str, host: str = "empty-python-http-0.functions.svc.cluster.local") -> bytes:
    headers = control_headers(url) if "/_platform" in url else {"Host": host}
    request = urllib.request.Request(url, headers=headers)
    with open_directly(request, 30) as response:
        body: bytes = response.read()
    return body


def state(url: str) -> Any:
    return orjson.loads(get(f"{url}/_platform"))


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_no_process_outlives_the_platform(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    monkeypatch.setenv("FUNCTIONS_DIR", str(catalog_of(tmp_path / "functions", "empty-python-http")))
    with command() as (process, url):
        for service in range(3):
            assert get(url, f"empty-python-http-{service}") == b"true"
        below = descendants(process.pid)
        pids = {each["pid"] for service in state(url)["services"].values() for each in service["instances"]}
        assert len(pids) == 3 and pids <= below
        os.killpg(process.pid, number)
        process.wait(30)
        assert process.returncode == code
        assert gone(below, within_s=10)


def test_a_start_in_progress_does_not_outlive_the_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUNCTIONS_DIR", str(catalog_of(tmp_path / "functions", "odd-python-http")))
    monkeypatch.setenv("SLEEP_BEFORE_S", "60")
    with command() as (process, url):
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\nHost: odd-python-http-0\r\n\r\n")
            while not (below := descendants(process.pid)):
                assert process.poll() is None
            process.terminate()
            process.wait(30)
            assert gone(below, within_s=10)
            assert sock.recv(100).startswith(b"HTTP/1.1 503"), "a waiting request gets an error"


def test_a_burst_of_connections_waits_for_a_platform_that_is_busy() -> None:
    number = min(300, int(Path("/proc/sys/net/core/somaxconn").read_text()) - 1)
    with command() as (process, url), contextlib.ExitStack() as connections:
        get(f"{url}/_platform")
        process.send_signal(signal.SIGSTOP)
        for _ in range(number):
            connections.enter_context(socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 10))
        process.send_signal(signal.SIGCONT)


def test_flags_override_the_file(tmp_path: Path) -> None:
    config = tmp_path / "p.yaml"
    config.write_text("services: {empty-python-http-0: {stable-window: 5s, env: {A: b}}}")
    flags = ["--stable-window=60s", "--scale-to-zero-grace-period=30s", "--max-instances=3", "--seed=8"]
    with command(f"--config={config}", *flags) as (_, url):
        get(url)
        now = state(url)
        (service,) = now["services"].values()
        assert (now["seed"], now["max_instances"]) == (8, 3)
        settings = service["settings"]
        assert (settings["stable-window"], settings["scale-to-zero-grace-period"]) == ("1m", "30s")
        assert settings["env"] == {"A": "b"}
        assert [address for address in listening(now["pid"]) if not address.startswith("127.0.0.1:")] == []


def listening(pid: int) -> list[str]:
    """The addresses that a process listens on, from /proc."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(entry))
    found = []
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == "0A" and f"socket:[{words[9]}]" in inodes:
                host, port = words[1].split(":")
                plain = socket.inet_ntoa(bytes.fromhex(host)[::-1]) if len(host) == 8 else host
                found.append(f"{plain}:{int(port, 16)}")
    assert found
    return found


def test_ports_addresses_and_files_that_cannot_be_used_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["local", f"--port={port}"]) == 2
        assert f"port {port} on 127.0.0.1 is in use; choose another with --port" in capsys.readouterr().err
    assert main(["local", "--port=0", "--bind=203.0.113.1"]) == 2
    assert "cannot listen on 203.0.113.1" in capsys.readouterr().err
    (tmp_path / "p.yaml").write_text("default: {}\nservices: {x-1: {latency: 3s}}\n")
    assert main(["local", "--port=0", f"--config={tmp_path}/p.yaml"]) == 2
    shown = capsys.readouterr().err
    assert "p.yaml:1: default: unknown key; did you mean defaults?" in shown
    assert "p.yaml:2: services.x-1.latency: unknown key; it belongs under faults" in shown


def test_a_missing_catalog_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUNCTIONS_DIR", str(tmp_path))
    assert main(["local"]) == 2
    assert "FUNCTIONS_DIR" in capsys.readouterr().err


def test_a_service_with_min_scale_whose_function_is_not_built_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    functions = catalog_of(tmp_path / "functions", "empty-python-http")
    document = yaml.safe_load((functions / "catalog.yaml").read_text())
    document["functions"][0]["produces"] = ["program"]
    (functions / "catalog.yaml").write_text(yaml.safe_dump(document))
    monkeypatch.setenv("FUNCTIONS_DIR", str(functions))
    (tmp_path / "p.yaml").write_text("services: {empty-python-http-0: {min-scale: 1}}\nbrokers: {a/b: {}}\n")
    assert main(["local", "--port=0", f"--config={tmp_path}/p.yaml"]) == 2
    shown = capsys.readouterr()
    assert "services.empty-python-http-0.min-scale: the function empty-python-http is not built" in shown.err
    assert "Traceback" not in shown.err and "http://" not in shown.out


def test_the_token_is_named_at_the_start_and_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with command() as (process, url):
        assert process.stdout is not None
        path = next(found[1] for line in process.stdout if (found := re.search(r"token in (\S+)", line)))
        assert Path(path).is_relative_to(tmp_path) and Path(path).stat().st_mode & 0o777 == 0o600
        assert state(url)["pid"] == process.pid
        process.terminate()
        process.wait(30)
        assert not Path(path).exists()
