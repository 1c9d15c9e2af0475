"""Lag of the event loop's timers, for comparison. `call_at.py RATE SECONDS`; prints lag quantiles in µs as JSON.

Each deadline is set with `loop.call_at` when the previous one has fired, as asyncio schedulers do; nothing is sent.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

import uvloop


async def main(rate: float, seconds: float) -> None:
    """Wait for RATE × SECONDS deadlines and print their lag."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    lags: list[float] = []
    offset = loop.time() - time.monotonic()
    start = time.monotonic() + 0.1
    number = int(rate * seconds)

    def fire() -> None:
        now = time.monotonic()
        while len(lags) < number and (due := start + len(lags) / rate) <= now:
            lags.append((now - due) * 1e6)
        if len(lags) < number:
            loop.call_at(start + len(lags) / rate + offset, fire)
        else:
            done.set_result(None)

    loop.call_at(start + offset, fire)
    await done
    lags.sort()
    found = {name: lags[int(q * (number - 1))] for name, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))}
    print(json.dumps({"lag_us": found}))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(float(sys.argv[1]), float(sys.argv[2])))
