"""Eventing: what became of the events that were sent, when the receivers' log is in the table `events`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from workload_generator.results.intervals import Values
from workload_generator.results.runs import Run
from workload_generator.results.samples import bin_width_s
from workload_generator.results.scan import batches, known, wall_us
from workload_generator.results.store import Store

DELIVERY_SQL = """SELECT r.id, r.timestamp AS sent, e.timestamp AS received
FROM requests AS r LEFT JOIN events AS e ON e.event_id = r.event_id
WHERE r.experiment_id = :id AND r.ok AND r.event_id IS NOT NULL"""

_US_PER_MS = 1000.0

Times = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Delivery:
    """One run's events that were accepted. Each is expected `copies` times, once for each trigger.

    `missing` and `extra` count copies; `wrong` counts events whose copies are too few or too many; `delay_ms` is from
    the start of the request to the first receipt, ranked; the last three are by second since the first was sent.
    """

    run: Run
    copies: int
    events: int
    received: int
    missing: int
    extra: int
    wrong: int
    delay_ms: Values
    at_s: Values
    sent_per_s: Values
    received_per_s: Values


def has_events(store: Store) -> bool:
    """Whether receivers' events were stored at all."""
    tables = store.execute("SELECT 1 FROM sqlite_schema WHERE type IN ('table', 'view') AND lower(name) = 'events'")
    return bool(tables) and bool(store.execute("SELECT 1 FROM events LIMIT 1"))


def read_delivery(store: Store, run: Run) -> Delivery | None:
    """What is known of a run's events; None when it sent none."""
    copies = int(run.row["triggers"] or 1)
    parts: list[tuple[Times, Times, Times]] = []
    for rows in batches(store, DELIVERY_SQL, {"id": run.id}):
        ids, sent, received = zip(*rows, strict=True)
        parts.append((np.array(ids, dtype=np.int64), wall_us(sent), wall_us(received)))
    if not parts:
        return None
    number, start, end = (np.concatenate([part[column] for part in parts]) for column in range(3))
    order = np.argsort(number, kind="stable")
    number, start, end = number[order], start[order], end[order]
    firsts = np.flatnonzero(np.concatenate(([True], number[1:] != number[:-1])))
    there = known(end)
    copied = np.add.reduceat(there.astype(np.int64), firsts)
    earliest = np.minimum.reduceat(np.where(there, end, np.iinfo(np.int64).max), firsts)
    begun = start[firsts]
    timed = (copied > 0) & known(begun)
    at_s, sent_rate, received_rate = _rates(begun[known(begun)], end[there])
    return Delivery(
        run=run,
        copies=copies,
        events=len(firsts),
        received=int(copied.sum()),
        missing=int(np.maximum(copies - copied, 0).sum()),
        extra=int(np.maximum(copied - copies, 0).sum()),
        wrong=int((copied != copies).sum()),
        delay_ms=np.sort((earliest - begun)[timed] / _US_PER_MS),
        at_s=at_s,
        sent_per_s=sent_rate,
        received_per_s=received_rate,
    )


def _rates(sent_us: Times, received_us: Times) -> tuple[Values, Values, Values]:
    if not len(sent_us):
        return np.zeros(0), np.zeros(0), np.zeros(0)
    start = int(sent_us.min())
    last = max(int(sent_us.max()), int(received_us.max()) if len(received_us) else 0)
    width = bin_width_s((last - start) / 1e6)
    bins = int((last - start) / 1e6 / width) + 1
    rates = []
    for times in (sent_us, received_us):
        index = np.maximum(((times - start) / 1e6 / width).astype(np.int64), 0)
        rates.append(np.bincount(index, minlength=bins)[:bins] / width)
    return np.arange(bins).astype(np.float64) * width, rates[0], rates[1]
