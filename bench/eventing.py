"""The CPU time of an event compared with a plain POST, and the throughput of the receiver: `just bench-eventing`.

The first measurement sends plain POSTs and events of the same size to nginx in a closed loop and compares the CPU time
per request, recorder included. The second sends events to `receiver`, whose logger shares the generator's core, and
measures the CPU time of the receiver and of the logger per event.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import harness
import yaml

RECEIVER_PORT, LOGGER_PORT = 18710, 18711
SERVICE = "import sys; from workload_generator.__main__ import {0}; sys.exit({0}())"
HEADERS = {
    "Content-Type": "application/json",
    "ce-specversion": "1.0",
    "ce-id": "0123456789abcdef-123456",
    "ce-type": "benchmark.request",
    "ce-source": "/workload-generator",
    "ce-time": "2026-01-01T00:00:00.123456Z",
    "ce-sequence": "000000123456",
}


def experiment(folder: Path, name: str, url: str, seconds: int, **event: str) -> Path:
    """A closed loop of 100 connections."""
    target = {"url": url, "headers": HEADERS, "body": '{"number": 1}'}
    document = {"targets": [target], "rate": {"requestsPerSecond": 0, "duration": f"{seconds}s", "timeout": "5s"}}
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(document | ({"event": event} if event else {})))
    return path


def used(config: Path, *flags: str) -> tuple[float, int]:
    """CPU seconds and the number of requests of a run."""
    logs = Path(tempfile.mkdtemp(dir=config.parent))  # two runs in one second would have the same log file name
    ran = harness.run(harness.generator(config, logs, *flags))
    return ran.cpu_s, json.loads(ran.text)["ok"]


def cost_us(config: Path, *flags: str) -> float:
    """CPU time per request in µs. That of a short run is subtracted, which removes the cost of the start."""
    (most_s, most), (least_s, least) = used(config, *flags), used(config, *flags, "--duration=200ms")
    return (most_s - least_s) / (most - least) * 1e6


def cpu_s(pid: int) -> float:
    """The CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def service(name: str, port: int, *flags: str) -> list[str]:
    """The command of a service."""
    return [sys.executable, "-c", SERVICE.format(name), f"--port={port}", "--bind=127.0.0.1", *flags]


def costs(folder: Path, rounds: int, seconds: int) -> None:
    """Rows for plain, binary, structured and template requests, with their ratios."""
    figures: dict[str, list[float]] = {}
    with harness.nginx(folder) as url:
        os.environ["K_SINK"] = url
        plain = experiment(folder, "plain", url, seconds)
        events = {
            "binary": experiment(folder, "binary", url, seconds, mode="binary"),
            "structured": experiment(folder, "structured", url, seconds, mode="structured"),
            "binary, a template": experiment(folder, "template", url, seconds, data='{"number": ${seq}}'),
        }
        for _ in range(rounds):
            figures.setdefault("plain POST", []).append(cost_us(plain))
            for name, config in events.items():
                figures.setdefault(name, []).append(cost_us(config, "--event"))
    rows = [
        (name, harness.spread(values, 1), harness.ratios(values, figures["plain POST"]))
        for name, values in figures.items()
    ]
    harness.publish(
        "eventing-cost",
        "CPU time of an event compared with a plain POST",
        "CPU time per request of generator and recorder in a closed loop of 100 connections to nginx; "
        "the plain POSTs all have the headers and body of one event. `just bench-eventing`.",
        ("request", "µs of CPU", "ratio to the plain POST"),
        rows,
    )


def receiving(folder: Path, rounds: int, seconds: int) -> None:
    """Events per second of CPU time, for receiver and logger."""
    figures: dict[str, list[float]] = {"receiver": [], "event logger": [], "both on this machine, wall clock": []}
    logger_flags = (f"--data={folder / 'data'}",)
    receiver_flags = (f"--logger=http://127.0.0.1:{LOGGER_PORT}",)
    with (
        harness.server(service("event_logger", LOGGER_PORT, *logger_flags), LOGGER_PORT, core=0) as logger,
        harness.server(service("receiver", RECEIVER_PORT, *receiver_flags), RECEIVER_PORT, core=1) as receiver,
    ):
        os.environ["K_SINK"] = f"http://127.0.0.1:{RECEIVER_PORT}/t/a"
        config = experiment(folder, "receiving", "http://sink", seconds, mode="binary")
        for _ in range(rounds):
            before = cpu_s(receiver.pid), cpu_s(logger.pid)
            _, sent = used(config, "--event")
            figures["receiver"].append(sent / (cpu_s(receiver.pid) - before[0]))
            figures["event logger"].append(sent / max(0.01, cpu_s(logger.pid) - before[1]))
            figures["both on this machine, wall clock"].append(sent / seconds)
    harness.publish(
        "eventing-receiver",
        "Receiver and event logger",
        "Binary events in a closed loop of 100 connections; each is acknowledged when its receipt is in events.csv. "
        "Events per second of CPU time, which is the throughput of one core. `just bench-eventing`.",
        ("service", "events per second of CPU"),
        [(name, harness.spread(values)) for name, values in figures.items()],
    )


def main() -> None:
    """Run the rounds and publish both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        costs(folder, options.rounds, options.seconds)
        receiving(folder, options.rounds, options.seconds)


if __name__ == "__main__":
    main()
