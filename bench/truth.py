"""The logged TTFB compared with the wire: `just bench-truth` (needs tcpdump and permission to capture on lo).

tcpdump captures lo with nanosecond stamps while the generator sends to a server that answers after 5 ms. The TTFB on
the wire is from the request's packet to the first packet of the response; the error is the logged TTFB minus that. It
is measured undisturbed, and with the generator stopped for 20 ms every second, which simulates a stalled loop.
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import dpkt
import harness
from harness import HERE

PORT = 18720
DELAY_MS = 5
EXPERIMENT = """
targets: [{{url: "http://127.0.0.1:{port}/"}}]
rate: {{requestsPerSecond: {rate}, duration: {seconds}s, rampUp: 0s, preconnect: 100}}
"""


@contextlib.contextmanager
def capture(path: Path) -> Iterator[None]:
    """Capture the packets of the server's port."""
    command = ["tcpdump", "-i", "lo", "--time-stamp-precision=nano", "-s", "128", "-B", "65536", "-w", str(path)]
    process = subprocess.Popen([*command, f"tcp port {PORT}"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    for line in process.stderr:
        if "listening on" in line:
            break
    else:
        raise SystemExit("tcpdump did not start: it needs permission to capture on lo")
    try:
        yield
    finally:
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        process.wait()


def wire_ttfb_ns(path: Path) -> dict[str, int]:
    """The TTFB of each request on the wire, by `<client port>-<number>`."""
    asked: dict[tuple[int, int], int] = {}
    found: dict[str, int] = {}
    numbers: dict[int, int] = {}
    with path.open("rb") as file:
        for moment, data in dpkt.pcap.Reader(file):
            packet = dpkt.ethernet.Ethernet(data).data
            if not isinstance(packet, dpkt.ip.IP) or not isinstance(packet.data, dpkt.tcp.TCP):
                continue
            tcp, at_ns = packet.data, round(moment * 1_000_000_000)
            if packet.len - packet.hl * 4 - tcp.off * 4 <= 0:
                continue
            if tcp.dport == PORT:
                number = numbers[tcp.sport] = numbers.get(tcp.sport, -1) + 1
                asked[tcp.sport, number] = at_ns
            else:
                key = (tcp.dport, numbers.get(tcp.dport, -1))
                if key in asked:
                    found[f"{key[0]}-{key[1]}"] = at_ns - asked.pop(key)
    return found


def stall(process: subprocess.Popen[bytes], until: threading.Event) -> None:
    """Stop the generator's process for 20 ms every second. The kernel still receives and stamps."""
    while not until.wait(0.98):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
            time.sleep(0.02)
            os.kill(process.pid, signal.SIGCONT)


def measure(folder: Path, rate: int, seconds: int, stalled: bool) -> tuple[list[float], float]:
    """Sorted errors in µs of the responses in one segment, and the share of kernel stamps among them."""
    (folder / "truth.yaml").write_text(EXPERIMENT.format(port=PORT, rate=rate, seconds=seconds))
    shutil.rmtree(folder / "logs", ignore_errors=True)
    with capture(folder / "lo.pcap"):
        process = subprocess.Popen(
            harness.generator(folder / "truth.yaml", folder / "logs"),
            stdout=subprocess.DEVNULL,
            preexec_fn=harness.pinned(0),
        )
        over = threading.Event()
        thread = threading.Thread(target=stall, args=(process, over))
        if stalled:
            thread.start()
        process.wait()
        over.set()
        if stalled:
            thread.join()
    wire = wire_ttfb_ns(folder / "lo.pcap")
    errors, kernel = [], 0
    (log,) = glob.glob(f"{folder}/logs/*.log")
    with open(log) as lines:
        for line in lines:
            doc = json.loads(line)
            if doc["event"] == "request" and doc.get("instance") in wire and doc.get("segments", 1) == 1:
                errors.append((doc["ttfb"] * 1e6 - wire[doc["instance"]]) / 1000)
                kernel += doc["stamp"] == "kernel"
    if not errors:
        raise SystemExit("no request was found on the wire")
    return sorted(errors), kernel / len(errors)


def main() -> None:
    """Measure and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    harness.need("tcpdump")
    figures: dict[tuple[int, bool], list[list[float]]] = {}
    stamped: dict[tuple[int, bool], list[float]] = {}
    numbers: dict[tuple[int, bool], int] = {}
    server = [sys.executable, str(HERE / "peers" / "delayed.py"), str(PORT), str(DELAY_MS)]
    with tempfile.TemporaryDirectory() as name, harness.server(server, PORT):
        for _ in range(options.rounds):
            for rate in (500, 5000):
                for stalled in (False, True):
                    errors, kernel = measure(Path(name), rate, options.seconds, stalled)
                    quantiles = [errors[int(q * (len(errors) - 1))] for q in (0.5, 0.99, 0.999)]
                    figures.setdefault((rate, stalled), []).append(quantiles)
                    stamped.setdefault((rate, stalled), []).append(kernel * 100)
                    numbers[rate, stalled] = numbers.get((rate, stalled), 0) + len(errors)
    harness.publish(
        "truth",
        "TTFB: log − wire, µs",
        f"{options.rounds} rounds of {options.seconds} s; the server answers after {DELAY_MS} ms, in one segment.",
        ["requests/s", "generator", "requests compared", "kernel stamps, %", "p50", "p99", "p99.9"],
        [
            [
                f"{rate:,}",
                "stopped 20 ms a second" if stalled else "undisturbed",
                f"{numbers[rate, stalled]:,}",
                harness.spread(stamped[rate, stalled], 1),
                *(harness.spread([each[index] for each in rounds], 1) for index in range(3)),
            ]
            for (rate, stalled), rounds in figures.items()
        ],
    )


if __name__ == "__main__":
    main()
