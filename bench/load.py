"""The closed loop compared with other load generators: `just bench-load`.

Every client is pinned to core 0 and sends over 100 connections to nginx (one worker, 5-byte body, no log) on core 1.
Ours writes its full log with kernel stamps and all fields; its CPU time includes the recorder process. The Go client
(bench/peers/goclient) logs the same. nginx and wrk are required; other clients are skipped if they are not installed:
hey, h2load and ab are Debian packages, Locust is in the group `bench`, vegeta, k6 and oha are installed with Go and
cargo.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import harness
from harness import CONNECTIONS, HERE

EXPERIMENT = """
targets: [{{url: "{url}"}}]
rate: {{requestsPerSecond: 0, duration: {seconds}s, connections: {n}, maxIdleConns: {n}, maxIdleConnsPerHost: {n}}}
"""

Count = Callable[[str, float], tuple[float, float]]
"""From a client's output and its planned seconds to the number of successful requests and the actual seconds."""


def number(pattern: str) -> Count:
    """A reader of the first number that matches `pattern`."""
    return lambda text, seconds: (float(re.search(pattern, text)[1]), seconds)  # type: ignore[index]


def of_locust(text: str, _seconds: float) -> tuple[float, float]:
    """k6's duration includes its start, so the seconds are taken from its output."""
    (stats,) = json.loads(text)
    return stats["num_requests"], stats["last_request_timestamp"] - stats["start_time"]


def clients(folder: Path, url: str, seconds: int) -> dict[str, tuple[list[str], Count]]:
    """The commands by name, each with the reader of its output."""
    (folder / "closed.yaml").write_text(EXPERIMENT.format(url=url, seconds=seconds, n=CONNECTIONS))
    n = str(CONNECTIONS)
    found: dict[str, tuple[list[str], Count]] = {
        "wrk": (["wrk", "-t1", f"-c{n}", f"-d{seconds}s", url], number(r"(\d+) requests in")),
        "workload-generator": (
            harness.generator(folder / "closed.yaml", folder / "logs"),
            lambda text, given: (json.loads(text)["ok"], given),
        ),
        "h2load --h1": (
            ["h2load", "--h1", "-t1", f"-c{n}", f"-D{seconds}", url],
            number(r"status codes: (\d+) 2xx"),
        ),
        "ab -k": (
            ["ab", "-k", "-q", "-c", n, "-t", str(seconds), "-n", "100000000", url],
            number(r"Complete requests:\s+(\d+)"),
        ),
        "hey": (["hey", "-cpus", "1", "-c", n, "-z", f"{seconds}s", url], number(r"\[200\]\s+(\d+)")),
    }
    if shutil.which("vegeta"):
        attack = f"vegeta -cpus 1 attack -rate 0 -max-workers {n} -duration {seconds}s"
        command = ["sh", "-c", f"echo GET {url} | {attack} | vegeta report -type json"]
        found["vegeta"] = (command, lambda text, given: (json.loads(text)["status_codes"]["200"], given))
    if shutil.which("k6"):
        command = ["env", "GOMAXPROCS=1", f"TARGET={url}", "k6", "run", "--quiet", "--no-usage-report"]
        command += ["--vus", n, "--duration", f"{seconds}s", str(HERE / "peers" / "k6.js")]
        found["k6"] = (command, lambda text, given: (json.loads(text)["count"], given))
    if shutil.which("oha"):
        command = ["oha", "-z", f"{seconds}s", "-c", n, "--no-tui", "--output-format", "json", url]
        found["oha"] = (command, lambda text, given: (json.loads(text)["statusCodeDistribution"]["200"], given))
    found = {name: client for name, client in found.items() if shutil.which(client[0][0])}
    go = harness.go_client(folder)
    if go is not None:
        command = [go, "-url", url, "-seconds", str(seconds), "-connections", n, "-log", str(folder / "go.log")]
        found["Go net/http + httptrace"] = (command, lambda text, given: (json.loads(text)["ok"], given))
    if find_spec("locust") is not None:
        command = [sys.executable, "-m", "locust", "-f", str(HERE / "peers" / "locustfile.py"), "--headless", "--json"]
        command += ["-u", n, "-r", n, "-t", f"{seconds}s", "--host", url.rstrip("/"), "--only-summary"]
        found["Locust FastHttpUser"] = (command, of_locust)
    return found


def main() -> None:
    """Run the rounds and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=5)
    options = parser.parse_args()
    harness.need("wrk")
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, harness.nginx(Path(name)) as url:
        compared = clients(Path(name), url, options.seconds)
        for _ in range(options.rounds):
            for client, (command, count) in compared.items():
                ran = harness.run(command)
                requests, took = count(ran.text, options.seconds)
                rates.setdefault(client, []).append(requests / took)
                costs.setdefault(client, []).append(ran.cpu_s * 1e6 / requests)
                shutil.rmtree(Path(name) / "logs", ignore_errors=True)
    ours = rates["workload-generator"]
    order = sorted(rates, key=lambda client: -statistics.median(rates[client]))
    harness.publish(
        "load",
        "Closed loop, 100 connections, one core",
        f"{options.rounds} alternating rounds of {options.seconds} s. Median (min to max).",
        ["client", "requests/s", "workload-generator ÷ it", "CPU µs per request"],
        [
            [
                client,
                harness.spread(rates[client]),
                harness.ratios(ours, rates[client]),
                harness.spread(costs[client], 1),
            ]
            for client in order
        ],
    )


if __name__ == "__main__":
    main()
