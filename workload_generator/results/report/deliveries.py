"""The section "Eventing": the accounts of the events that were sent, their delays and their rates over time.

The account itself is the view `event_accounts`, the same for the terminal, the report, CSV and a user's own SQL.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workload_generator.results.database import Store
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.request_rows import batches, known, wall_us
from workload_generator.results.report.runs import RUN_COLUMNS, RecordedRun
from workload_generator.results.report.samples import bin_width_s
from workload_generator.results.report.table import COUNT, MS, TEXT, Table, TableColumn

ACCOUNT_SQL = "SELECT * FROM event_accounts WHERE experiment_id = :id ORDER BY trigger"

DELAYS_SQL = """SELECT experiment_id AS run, trigger, event_id, acknowledged, copies, deliveries, delay FROM event_fates
WHERE experiment_id = :id AND (acknowledged OR deliveries > 0)"""

RATES_SQL = """SELECT experiment_id AS run, NULL AS trigger, timestamp AS at FROM requests
WHERE experiment_id = :id AND event_id IS NOT NULL
UNION ALL
SELECT experiment_id, trigger, received FROM deliveries WHERE experiment_id = :id"""

# The plus keeps SQLite on the index of event ids: the other index would visit every row.
SENT_SQL = "SELECT experiment_id, count(*) FROM requests WHERE event_id IS NOT NULL GROUP BY +experiment_id"

Times = NDArray[np.int64]

_ACCOUNT = {
    "copies": ("expected", COUNT, False), "sent": ("sent", COUNT, False), "acknowledged": ("acknowledged", COUNT, True),
    "once": ("once", COUNT, False), "lost": ("lost", COUNT, True), "lost_deliveries": ("lost deliveries", COUNT, False),
    "duplicated": ("duplicated", COUNT, True), "extra_deliveries": ("extra deliveries", COUNT, False),
    "delivered_unacknowledged": ("delivered unacknowledged", COUNT, True),
    "reordered": ("reordered", COUNT, True), "unaccounted": ("unaccounted", COUNT, True),
    "delay_p50": ("p50", MS, True), "delay_p90": ("p90", MS, False), "delay_p99": ("p99", MS, True),
    "delay_max": ("max", MS, True), "delay_error": ("±", MS, False), "drain": ("drain", MS, False),
}  # fmt: skip
"""Columns of `event_accounts`, and those of the table: name, kind, brief."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One run's events at one trigger (`""`: receipts that name none).

    `account` is the row of `event_accounts`. `delay_ms` is from the start of the request to the first receipt, ranked;
    `ranked` is the number of events with a rank, the lost ones included. The last three are by second since the first
    event was sent; the rate of sending is the same for all triggers of a run.
    """

    run: RecordedRun
    trigger: str
    account: Mapping[str, Any]
    ranked: int
    delay_ms: Values
    at_s: Values
    sent_per_s: Values
    received_per_s: Values


def sent_events(store: Store) -> dict[int, int]:
    """The number of measured events of each run that sent any, by the run's id."""
    return dict(store.execute(SENT_SQL))


def read_deliveries(store: Store, run: RecordedRun) -> list[Delivery]:
    """The deliveries of a run by trigger; empty when the database has no receipt of its events."""
    accounts = store.execute(ACCOUNT_SQL, {"id": run.id})
    if not accounts:
        return []
    delays, lost = _delays(store, run)
    times = _times(store, run)
    sent = times.pop(None)
    nothing = np.zeros(0, dtype=np.int64)
    at_s, sent_rate, rates = _rates(sent, [times.get(account["trigger"], nothing) for account in accounts])
    found = []
    for account, rate in zip(accounts, rates, strict=True):
        trigger = account["trigger"]
        delay_ms = np.sort(np.array(delays.get(trigger, []), dtype=np.float64))
        ranked = len(delay_ms) + lost[trigger]
        found.append(Delivery(run, trigger, dict(account), ranked, delay_ms, at_s, sent_rate, rate))
    return found


def _delays(store: Store, run: RecordedRun) -> tuple[dict[str, list[float]], Counter[str]]:
    """The delays in ms, and the number of lost events, by trigger."""
    delays: dict[str, list[float]] = {}
    lost: Counter[str] = Counter()
    for rows in batches(store, DELAYS_SQL, {"id": run.id}):
        for _, trigger, _, _, _, deliveries, delay in rows:
            if delay is not None:
                delays.setdefault(trigger, []).append(delay)
            elif not deliveries:
                lost[trigger] += 1
    return delays, lost


def _times(store: Store, run: RecordedRun) -> dict[str | None, Times]:
    """Microseconds since 1970 of each receipt by trigger, and of each send under None."""
    parts: dict[str | None, list[Times]] = {None: [np.zeros(0, dtype=np.int64)]}
    for rows in batches(store, RATES_SQL, {"id": run.id}):
        _, triggers, stamps = zip(*rows, strict=True)
        times = wall_us(stamps)
        for name in dict.fromkeys(triggers):
            own = times[np.array([trigger == name for trigger in triggers])]
            parts.setdefault(name, []).append(own[known(own)])
    return {name: np.concatenate(own) for name, own in parts.items()}


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


def delivery_table(deliveries: Iterable[Delivery]) -> Table:
    """The account of each run and trigger."""
    table = Table.named(
        "delivery",
        (
            RUN_COLUMNS[0],
            *(column._replace(brief=False) for column in RUN_COLUMNS[1:-1]),
            *TEXT("trigger"),
            *(TableColumn(*column) for column in _ACCOUNT.values()),
        ),
    )
    for each in deliveries:
        account = (each.account[name] for name in _ACCOUNT)
        table.add(*each.run.cells()[:-1], each.trigger or None, *account, beyond="lost")
    return table
