"""Shared parts of the measurements: a server, pinned clients, alternating rounds, and the page of results.

Clients run on core 0, servers on core 1. The rounds of all compared commands alternate, so that a disturbance affects
all of them; figures are medians with minimum and maximum.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from workload_generator import __version__

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
CONNECTIONS = 100
PORT = 18700

NGINX = """
worker_processes {workers};
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
worker_rlimit_nofile 20000;
events {{ worker_connections 20000; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port} backlog=16384 {tls};
    {certificate}
    default_type text/plain;
    location / {{ return 200 "false"; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Ran:
    """A client's run: its output, its CPU seconds (children included) and its wall-clock seconds."""

    text: str
    cpu_s: float
    wall_s: float


def pinned(core: int) -> Callable[[], None]:
    """A function that a child calls to run on one core only; it has no effect if there is no such core."""
    cores = sorted(os.sched_getaffinity(0))
    return lambda: os.sched_setaffinity(0, {cores[min(core, len(cores) - 1)]})


def run(command: Sequence[str], core: int | None = 0, fine: tuple[int, ...] = (0, 3), **options: object) -> Ran:
    """Run a client until it exits."""
    began = time.monotonic()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.DEVNULL,
            preexec_fn=pinned(core) if core is not None else None,
            **options,  # type: ignore[call-overload]
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode not in fine:
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}: {text}")
    return Ran(text, usage.ru_utime + usage.ru_stime, time.monotonic() - began)


def need(*tools: str) -> None:
    """Exit if one of `tools` is not installed."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")


@contextlib.contextmanager
def nginx(folder: Path, workers: int = 1, certificate: tuple[Path, Path] | None = None) -> Iterator[str]:
    """Run a server on core 1 that answers with five bytes; yields its URL."""
    need("nginx")
    lines = "" if certificate is None else f"ssl_certificate {certificate[0]}; ssl_certificate_key {certificate[1]};"
    config = NGINX.format(
        folder=folder, port=PORT, workers=workers, tls="ssl" if certificate else "", certificate=lines
    )
    (folder / "nginx.conf").write_text(config)
    with server(["nginx", "-c", str(folder / "nginx.conf")], PORT, core=1 if workers == 1 else None):
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{PORT}/"


@contextlib.contextmanager
def server(command: Sequence[str], port: int, core: int | None = 1) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the end of the context."""
    process = subprocess.Popen(command, preexec_fn=pinned(core) if core is not None else None)
    try:
        for _ in range(200):
            with socket.socket() as sock:
                if sock.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        else:
            raise SystemExit(f"{command[0]} did not start")
        yield process
    finally:
        process.terminate()
        process.wait()


def generator(config: Path, logs: Path, *flags: str) -> list[str]:
    """The command of the generator, with its full log and with a separate lock."""
    command = [
        "env",
        f"TMPDIR={config.parent}",
        sys.executable,
        "-m",
        "workload_generator",
        f"--config={config}",
        f"--log-dir={logs}",
    ]
    return [*command, "--output=json", "--progress=none", *flags]


def go_client(folder: Path) -> str | None:
    """The path of the built Go client; None if Go is not installed."""
    if shutil.which("go") is None:
        return None
    target = folder / "goclient"
    subprocess.run(["go", "build", "-o", target, "."], cwd=HERE / "peers" / "goclient", check=True)
    return str(target)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """`median (min to max)`."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> str:
    """The ratios ours ÷ theirs of the rounds: `median (min to max)`."""
    return spread([a / b for a, b in zip(ours, theirs, strict=True)], 2)


def publish(name: str, title: str, text: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print the table and replace its section of RESULTS.md."""
    table = Table(*columns, title=title)
    for row in rows:
        table.add_row(*row)
    Console(width=140).print(table)
    machine = f"{os.cpu_count()} cores ({_cpu()}), Linux {platform.release()}, Python {platform.python_version()}"
    lines = [
        f"## {title}",
        "",
        text,
        "",
        f"Measured on {datetime.now(UTC):%Y-%m-%d}, version {__version__}, {machine}.",
        "",
        "| " + " | ".join(columns) + " |",
        "|" + "---|" * len(columns),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
    section = f"<!-- {name} -->\n" + "\n".join(lines) + f"\n<!-- /{name} -->\n"
    page = RESULTS.read_text() if RESULTS.exists() else "# Measurements\n\nWritten by the commands of `bench/`.\n"
    pattern = re.compile(rf"<!-- {name} -->.*<!-- /{name} -->\n", re.DOTALL)
    page = pattern.sub(lambda _: section, page) if pattern.search(page) else f"{page}\n{section}"
    RESULTS.write_text(page)


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1].strip() if found else platform.machine()
