"""The closed loop beside wrk and hey: `just bench-load` (needs nginx, wrk and hey, which Debian has).

Every client is pinned to core 0 and sends over 100 connections to nginx (one worker, 5-byte body, no log) on core 1.
The rounds alternate; figures are medians with minimum and maximum, and ratios against wrk of the same run. Ours
writes its full log meanwhile; its CPU includes the recorder process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.table import Table

CONNECTIONS = 100
PORT = 18700
URL = f"http://127.0.0.1:{PORT}/"

NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; default_type text/plain; location / {{ return 200 "false"; }} }}
}}
"""

EXPERIMENT = """
targets: [{{url: "{url}"}}]
rate:
  requestsPerSecond: 0
  duration: {seconds}s
  connections: {connections}
  maxIdleConns: 200
  maxIdleConnsPerHost: 200
"""


def pinned(core: int) -> Callable[[], None]:
    """What a child has to call to run on one core only."""
    return lambda: os.sched_setaffinity(0, {core})


def measure(command: list[str], requests_of: Callable[[str], int], seconds: int) -> tuple[float, float]:
    """Requests a second and CPU microseconds a request of one client."""
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL, preexec_fn=pinned(0))
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read()
    if process.returncode not in (0, 3):
        raise SystemExit(f"{command[0]} ended with exit code {process.returncode}: {text}")
    requests = requests_of(text)
    return requests / seconds, (usage.ru_utime + usage.ru_stime) * 1e6 / requests


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    seconds = options.seconds
    missing = [tool for tool in ("nginx", "wrk", "hey") if shutil.which(tool) is None]
    if missing:
        raise SystemExit(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, port=PORT))
        (folder / "closed.yaml").write_text(EXPERIMENT.format(url=URL, seconds=seconds, connections=CONNECTIONS))
        ours = [sys.executable, "-m", "workload_generator", f"--config={folder}/closed.yaml"]
        ours += [f"--log-dir={folder}/logs", "--output=json", "--progress=none"]
        clients = {
            "wrk": (
                ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", URL],
                lambda text: int(re.search(r"(\d+) requests in", text)[1]),  # type: ignore[index]
            ),
            "hey": (
                ["hey", "-cpus", "1", "-c", str(CONNECTIONS), "-z", f"{seconds}s", URL],
                lambda text: sum(map(int, re.findall(r"\[200\]\s+(\d+)", text))),
            ),
            "workload-generator": (ours, lambda text: int(json.loads(text)["ok"])),
        }
        figures: dict[str, list[tuple[float, float]]] = {client: [] for client in clients}
        server = subprocess.Popen(["nginx", "-c", str(folder / "nginx.conf")], preexec_fn=pinned(1))
        try:
            wait_for(PORT)
            for _ in range(options.rounds):
                for client, (command, requests_of) in clients.items():
                    figures[client].append(measure(command, requests_of, seconds))
                    shutil.rmtree(folder / "logs", ignore_errors=True)
        finally:
            server.terminate()
            server.wait()
    show(figures)


def wait_for(port: int) -> None:
    """Until something listens."""
    for _ in range(200):
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit("nginx did not start")


def show(figures: dict[str, list[tuple[float, float]]]) -> None:
    """The table."""
    base_rate = statistics.median(rate for rate, _ in figures["wrk"])
    table = Table("client", "rps median (min to max)", "÷ wrk", "CPU µs a request")
    for client, rounds in figures.items():
        rates, costs = zip(*rounds, strict=True)
        median = statistics.median(rates)
        table.add_row(
            client,
            f"{median:,.0f} ({min(rates):,.0f} to {max(rates):,.0f})",
            f"{median / base_rate:.2f}",
            f"{statistics.median(costs):.1f}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
