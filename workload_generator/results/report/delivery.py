"""Eventing: what became of the events that were sent, for a report. The account itself is the view `event_accounts`.

Whoever asks (terminal, report, CSV, a user's own SQL) gets that one account; here are only the distribution of its
delays and the rates over time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workload_generator.results.database import Store
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.runs import Run
from workload_generator.results.report.samples import bin_width_s
from workload_generator.results.report.scan import batches, known, wall_us

ACCOUNT_SQL = "SELECT * FROM event_accounts WHERE experiment_id = :id ORDER BY trigger"

DELAYS_SQL = """SELECT experiment_id AS run, trigger, event_id, acknowledged, copies, deliveries, delay FROM event_fates
WHERE experiment_id = :id AND (acknowledged OR deliveries > 0)"""

RATES_SQL = """SELECT experiment_id AS run, NULL AS trigger, timestamp AS at FROM requests
WHERE experiment_id = :id AND event_id IS NOT NULL
UNION ALL
SELECT experiment_id, trigger, received FROM deliveries WHERE experiment_id = :id"""

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One run's events at one trigger (`""`: receipts that name none).

    `account` is the row of `event_accounts`. `delay_ms` is from the start of the request to the first receipt, ranked;
    `ranked` is how many events have a place among them, with those that were lost. The last three are by second since
    the first event was sent; what was sent is the same for all triggers of a run.
    """

    run: Run
    trigger: str
    account: Mapping[str, Any]
    ranked: int
    delay_ms: Values
    at_s: Values
    sent_per_s: Values
    received_per_s: Values


def sent_events(store: Store) -> dict[int, int]:
    """How many measured events each run sent, of those that sent any."""
    # The plus keeps SQLite on the index of what has an event's id: the other index would visit every row.
    sql = "SELECT experiment_id, count(*) FROM requests WHERE event_id IS NOT NULL GROUP BY +experiment_id"
    return dict(store.execute(sql))


def read_deliveries(store: Store, run: Run) -> list[Delivery]:
    """What became of the events of a run that sent some, by trigger; nothing when no receipt of one was stored."""
    accounts = store.execute(ACCOUNT_SQL, {"id": run.id})
    if not accounts:
        return []
    delays, ranked = _delays(store, run)
    times = _times(store, run)
    sent = times.pop(None)
    received = [times.get(account["trigger"], np.zeros(0, dtype=np.int64)) for account in accounts]
    at_s, sent_rate, rates = _rates(sent, received)
    return [
        Delivery(
            run=run,
            trigger=(trigger := account["trigger"]),
            account=dict(account),
            ranked=ranked.get(trigger, 0),
            delay_ms=delays.get(trigger, np.zeros(0)),
            at_s=at_s,
            sent_per_s=sent_rate,
            received_per_s=rate,
        )
        for account, rate in zip(accounts, rates, strict=True)
    ]


def _delays(store: Store, run: Run) -> tuple[dict[str, Values], dict[str, int]]:
    found: dict[str, list[float]] = {}
    ranked: dict[str, int] = {}
    for rows in batches(store, DELAYS_SQL, {"id": run.id}):
        for _, trigger, _, _, _, deliveries, delay in rows:
            if delay is not None:
                found.setdefault(trigger, []).append(delay)
            if delay is not None or not deliveries:
                ranked[trigger] = ranked.get(trigger, 0) + 1
    return {trigger: np.sort(np.array(delays)) for trigger, delays in found.items()}, ranked


def _times(store: Store, run: Run) -> dict[str | None, Times]:
    """Microseconds since 1970 of each receipt by trigger, and of each sending under None."""
    parts: dict[str | None, list[Times]] = {None: []}
    for rows in batches(store, RATES_SQL, {"id": run.id}):
        _, triggers, stamps = zip(*rows, strict=True)
        times = wall_us(stamps)
        for name in dict.fromkeys(triggers):
            own = times[np.array([trigger == name for trigger in triggers])]
            parts.setdefault(name, []).append(own[known(own)])
    return {name: np.concatenate(own) if own else np.zeros(0, dtype=np.int64) for name, own in parts.items()}


def _rates(sent_us: Times, received: list[Times]) -> tuple[Values, Values, list[Values]]:
    if not len(sent_us):
        return np.zeros(0), np.zeros(0), [np.zeros(0) for _ in received]
    start = int(sent_us.min())
    last = max(int(times.max()) for times in (sent_us, *received) if len(times))
    width = bin_width_s((last - start) / 1e6)
    bins = int((last - start) / 1e6 / width) + 1

    def rate(times: Times) -> Values:
        index = np.maximum(((times - start) / 1e6 / width).astype(np.int64), 0)
        return np.bincount(index, minlength=bins)[:bins] / width

    return np.arange(bins).astype(np.float64) * width, rate(sent_us), [rate(times) for times in received]
