"""The open loop: lag, CPU time and the highest rate: `just bench-open`.

At each rate, alternately: ours, ours with --precise, the Go client, which sleeps until absolute deadlines, and the
timers of uvloop alone (`call_at`, which send nothing). Then the CPU time at 5,000 and at 20,000 requests/s.
"""

from __future__ import annotations

import argparse
import glob
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import harness
from harness import HERE

EXPERIMENT = """
targets: [{{url: "{url}"}}]
rate: {{requestsPerSecond: {rate}, duration: {seconds}s, rampUp: 0s, preconnect: 50}}
"""


def ours(folder: Path, url: str, rate: int, seconds: int, *flags: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """One run's summary and trailer."""
    (folder / "open.yaml").write_text(EXPERIMENT.format(url=url, rate=rate, seconds=seconds))
    shutil.rmtree(folder / "logs", ignore_errors=True)
    ran = harness.run(harness.generator(folder / "open.yaml", folder / "logs", *flags))
    (log,) = glob.glob(f"{folder}/logs/*.log")
    with open(log) as lines:
        trailer = json.loads(lines.readlines()[-1])
    return json.loads(ran.text), trailer


def lag_us(summary: dict[str, Any]) -> dict[str, float]:
    """In microseconds."""
    return {name: summary["lag_ms"][name] * 1000 for name in ("p50", "p99", "p99.9")}


def main() -> None:
    """Run the rounds and publish both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    options = parser.parse_args()
    seconds, rates = options.seconds, (500, 2000, 5000, 10_000)
    lags: dict[tuple[int, str], list[dict[str, float]]] = {}
    load: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    with tempfile.TemporaryDirectory() as name, harness.nginx(Path(name)) as url:
        folder = Path(name)
        go = harness.go_client(folder)
        for _ in range(options.rounds):
            for rate in rates:
                ran = {
                    "workload-generator": lag_us(ours(folder, url, rate, seconds)[0]),
                    "workload-generator --precise": lag_us(ours(folder, url, rate, seconds, "--precise")[0]),
                    "uvloop call_at": json.loads(
                        harness.run([sys.executable, str(HERE / "peers" / "call_at.py"), str(rate), str(seconds)]).text
                    )["lag_us"],
                }
                if go is not None:
                    command = [go, "-url", url, "-seconds", str(seconds), "-rate", str(rate), "-log", f"{name}/go.log"]
                    ran["Go net/http"] = json.loads(harness.run(command).text)["lag_us"]
                for client, quantiles in ran.items():
                    lags.setdefault((rate, client), []).append(quantiles)
            load += [(f"{rate:,}", *ours(folder, url, rate, seconds)) for rate in (5000, 20_000)]
    rows = []
    for (rate, client), rounds in lags.items():
        own = lags[rate, "workload-generator"]
        row = [f"{rate:,}", client]
        row += [harness.spread([each[name] for each in rounds]) for name in ("p50", "p99", "p99.9")]
        row += [
            harness.ratios([each[name] for each in rounds], [each[name] for each in own]) for name in ("p50", "p99")
        ]
        rows.append(row)
    harness.publish(
        "open",
        "Lag of the open loop",
        f"{options.rounds} alternating rounds of {seconds} s, µs: median (min to max) of each round's quantile.",
        ["requests/s", "client", "p50", "p99", "p99.9", "p50 ÷ ours", "p99 ÷ ours"],
        rows,
    )
    rows = []
    for rate in dict.fromkeys(rate for rate, _, _ in load):
        of_rate = [(summary, trailer) for each, summary, trailer in load if each == rate]
        loop = [trailer["machine"]["cpu_ns"] / trailer["machine"]["elapsed_ns"] * 100 for _, trailer in of_rate]
        dropped = sum(summary["dropped"] for summary, _ in of_rate)
        achieved = [summary["achieved_rps"] for summary, _ in of_rate]
        rows.append([rate, harness.spread(achieved), str(dropped), harness.spread(loop, 1)])
    harness.publish(
        "open-cost",
        "CPU time of the open loop",
        f"{options.rounds} rounds of {seconds} s; CPU time of the event loop in % of a core, without the recorder.",
        ["requests/s planned", "achieved", "dropped in all rounds", "CPU of the loop, %"],
        rows,
    )
    print(
        f"p99 of ours at 5,000/s: {statistics.median(each['p99'] for each in lags[5000, 'workload-generator']):.0f} µs"
    )


if __name__ == "__main__":
    main()
