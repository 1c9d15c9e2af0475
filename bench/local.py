"""The latency that the embedded platform adds to a request: `just bench-local`.

The generator sends the same load to one instance of empty-python-http, alternately directly and through the platform:
a closed loop over one connection, then open loops. Figures are TTFB, medians over the rounds (minimum to maximum), and
the difference in p50 and p99 by round; then the queueing time in the platform's response header.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from rich.console import Console
from rich.table import Table

from workload_generator.base.control_token import control_headers
from workload_generator.base.no_proxy import open_directly

SERVICE = "empty-python-http-0"
KN_BENCH = "import sys; from workload_generator.__main__ import kn_bench; sys.exit(kn_bench())"
QUANTILES = ("p50", "p99")

EXPERIMENT = """
targets: [{{url: "http://{service}.functions.svc.cluster.local"}}]
rate: {{requestsPerSecond: {rps}, duration: {seconds}s, rampUp: 0s, connections: 1}}
limits: {{lag: 1h}}
"""


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--rps", type=int, nargs="+", default=[0, 200, 1000], help="0 is the closed loop")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-local-") as name:
        folder = Path(name)
        words = [sys.executable, "-c", KN_BENCH, "local", "--port=0", "--stable-window=60s"]
        platform = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        try:
            url = started(platform)
            get(url)
            port = json.loads(get(f"{url}/_platform"))["services"][SERVICE]["instances"][0]["port"]
            ways = {"the function itself": f"http://127.0.0.1:{port}", "through the platform": url}
            figures: dict[tuple[int, str], list[dict[str, float]]] = {}
            for rps in options.rps:
                for _ in range(options.rounds):
                    for way, base in ways.items():
                        figures.setdefault((rps, way), []).append(measure(base, rps, options.seconds, folder))
            held = [held_ms(url) for _ in range(1000)]
        finally:
            platform.terminate()
            platform.wait()
    show(figures, list(ways))
    print(f"x-platform-queue-ms of 1,000 sequential requests: median {statistics.median(held):.3f}")


def started(platform: subprocess.Popen[str]) -> str:
    """The platform's URL, as soon as it listens."""
    assert platform.stdout is not None
    words = platform.stdout.readline().split()
    urls = [word for word in words if word.startswith("http://")]
    if not urls:
        raise SystemExit(f"the platform did not start: {' '.join(words)}")
    return urls[0]


def get(url: str) -> bytes:
    """The body of one response."""
    with open_directly(asking(url), 30) as response:
        body: bytes = response.read()
    return body


def held_ms(url: str) -> float:
    """The queueing time of one request, sent over a new connection."""
    with open_directly(asking(url), 30) as response:
        response.read()
        return float(response.headers["x-platform-queue-ms"])


def asking(url: str) -> urllib.request.Request:
    host = {"Host": f"{SERVICE}.functions.svc.cluster.local"}
    return urllib.request.Request(url, headers=control_headers(url) if "/_platform" in url else host)


def measure(base: str, rps: int, seconds: int, folder: Path) -> dict[str, float]:
    """TTFB quantiles in ms of one run."""
    config = folder / "local.yaml"
    config.write_text(EXPERIMENT.format(service=SERVICE, rps=rps, seconds=seconds))
    command = [sys.executable, "-m", "workload_generator", f"--config={config}", f"--dev-url={base}"]
    command += [f"--log-dir={folder}/logs", "--output=json", "--progress=none"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if ran.returncode not in (0, 3):
        raise SystemExit(f"the generator ended with exit code {ran.returncode}")
    time.sleep(0.2)
    summary = json.loads(ran.stdout)
    if summary["failed"]:
        raise SystemExit(f"{summary['failed']} requests failed")
    return {name: summary["ttfb_ms"][name] for name in QUANTILES}


def show(figures: dict[tuple[int, str], list[dict[str, float]]], ways: list[str]) -> None:
    """The table."""
    table = Table("load", "TTFB in ms", *(f"{name} median (min to max)" for name in QUANTILES))
    direct, through = ways
    for rps in dict.fromkeys(rps for rps, _ in figures):
        load = f"{rps} rps" if rps else "1 connection"
        for way in ways:
            table.add_row(load, way, *(spread([run[name] for run in figures[rps, way]]) for name in QUANTILES))
        pairs = list(zip(figures[rps, direct], figures[rps, through], strict=True))
        added = [spread([after[name] - before[name] for before, after in pairs]) for name in QUANTILES]
        table.add_row(load, "[bold]added[/]", *added, end_section=True)
    Console(width=100).print(table)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3f} ({min(values):.3f} to {max(values):.3f})"


if __name__ == "__main__":
    main()
