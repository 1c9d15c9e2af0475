"""The generator's memory after millions of results and with thousands of requests in flight: `just bench-memory`."""

from __future__ import annotations

import argparse
import glob
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import harness
from harness import HERE

PORT = 18721
CLOSED = """
targets: [{{url: "{url}"}}]
rate: {{requestsPerSecond: 0, duration: {seconds}s, connections: 100}}
"""
HELD = """
targets: [{{url: "http://127.0.0.1:{port}/"}}]
rate:
  requestsPerSecond: {rate}
  duration: {seconds}s
  rampUp: 0s
  timeout: 60s
  maxInFlight: 15000
limits: {{lag: 1h}}
"""


def resident_kib(pid: int) -> int:
    """The resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))


def main() -> None:
    """Measure and publish the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=int, default=10_000_000)
    parser.add_argument("--in-flight", type=int, default=10_000)
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with harness.nginx(folder) as url:
            sent, seconds = 0, 3
            for _ in range(2):  # the duration of the second run follows from the first run's rate
                (folder / "closed.yaml").write_text(CLOSED.format(url=url, seconds=seconds))
                ran = harness.run(harness.generator(folder / "closed.yaml", folder / "logs"), core=None)
                sent = json.loads(ran.text)["sent"]
                (log,) = glob.glob(f"{folder}/logs/*.log")
                with open(log, "rb") as file:
                    file.seek(-200_000, 2)
                    peak = json.loads(file.read().splitlines()[-1])["resources"]["max_rss_bytes"]
                Path(log).unlink()
                rows.append([f"peak after {sent:,} results", f"{peak / 2**20:.1f} MiB", "150 MiB"])
                seconds = int(options.results / sent * seconds) + 1
        silent = [sys.executable, str(HERE / "peers" / "delayed.py"), str(PORT), "-1"]
        with harness.server(silent, PORT):
            rate, seconds = 2000, options.in_flight // 2000
            (folder / "held.yaml").write_text(HELD.format(port=PORT, rate=rate, seconds=seconds + 1))
            process = subprocess.Popen(
                harness.generator(folder / "held.yaml", folder / "logs"),
                stdout=subprocess.DEVNULL,
                preexec_fn=harness.pinned(0),
            )
            held, first = 0, 0
            while held < options.in_flight and process.poll() is None:
                time.sleep(0.02)
                held = sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir())
                if held < 40:
                    first = resident_kib(process.pid)
            grown = (resident_kib(process.pid) - first) / held
            process.terminate()
            process.wait()
        rows.append([f"a connection, {held:,} in flight", f"{grown:.2f} KiB", "3 KiB"])
    harness.publish(
        "memory", "Memory of the generator's process", "`just bench-memory`.", ["memory", "measured", "target"], rows
    )


if __name__ == "__main__":
    main()
