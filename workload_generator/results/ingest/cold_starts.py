"""`cold_start` lines of a log → rows of `cold_starts`."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlsplit

import orjson

from workload_generator.coldstart.proof import POINTS
from workload_generator.results.database import Store

COLUMNS = (
    "seq", "timestamp", "target", "source", "zero", "zero_for", "waited", "instance", "is_cold", "cold_proven",
    "reason", *POINTS, "error", "grid", "clock_offset", "clock_error",
)  # fmt: skip
_LIMIT = 2**63


def row_of(doc: dict[str, Any]) -> tuple[object, ...]:
    """The row of one line. Raises KeyError or TypeError when it is not whole."""
    points, grid, clock = doc["points"], doc["grid"], doc.get("clock") or {}  # logs of schema 4 have none
    if not isinstance(points, dict) or not isinstance(grid, list):
        raise TypeError("points and grid are not a mapping and a list")
    if not isinstance(clock, dict):
        raise TypeError("clock is not a mapping")
    if type(doc["seq"]) is not int or abs(doc["seq"]) >= _LIMIT:
        raise TypeError("seq is not a number of an arrival")
    texts = [_text(doc[name]) for name in ("time", "target", "source")]
    times = [_number(doc[name]) for name in ("zero_for", "waited")]
    return (
        doc["seq"], *texts, _bit(doc["zero"]), *times, _text(doc["instance"]), _bit(doc["cold"]), _bit(doc["proven"]),
        _text(doc["reason"]), *(_number(points.get(name)) for name in POINTS), _number(doc["error"]),
        orjson.dumps(grid).decode(), _number(clock.get("offset")), _number(clock.get("error")),
    )  # fmt: skip


def insert_sql(experiment_id: int, shard: int) -> str:
    """Inserts rows of `COLUMNS`."""
    return insert_into("cold_starts", COLUMNS, experiment_id, shard)


BURST_COLUMNS = ("seq", "requests", "timestamp", "target", "source", "zero", "zero_for", "waited")
INSTANCE_COLUMNS = ("seq", "instance", "created", "ready", "gone", "error")


def burst_of(doc: dict[str, Any]) -> tuple[tuple[object, ...], list[tuple[object, ...]]]:
    """The row of a `cold_burst` line, and those of its instances. Raises KeyError or TypeError when it is not whole."""
    seq, requests = (_whole(doc[name]) for name in ("seq", "requests"))
    texts = [_text(doc[name]) for name in ("time", "target", "source")]
    times = [_number(doc[name]) for name in ("zero_for", "waited")]
    instances: list[tuple[object, ...]] = []
    for each in doc["instances"]:
        if not isinstance(each["instance"], str):
            raise TypeError("an instance has no name")
        instances.append((seq, each["instance"], *(_number(each[name]) for name in INSTANCE_COLUMNS[2:])))
    return (seq, requests, *texts, _bit(doc["zero"]), *times), instances


def insert_into(table: str, columns: tuple[str, ...], experiment_id: int, shard: int) -> str:
    """Inserts rows of `columns` into a table of one run's shard."""
    marks = ", ".join("?" * len(columns))
    names = ", ".join(columns)
    return f"INSERT INTO {table} (experiment_id, shard, {names}) VALUES ({experiment_id}, {shard}, {marks})"


_LATEST = "experiment_id = (SELECT max(experiment_id) FROM cold_starts)"
_PROOFS = f"SELECT sum(proven) AS proven, sum(requests) AS requests FROM cold_start_proofs WHERE {_LATEST}"
_MEANS = f"""WITH totals AS (
  SELECT target, count(DISTINCT seq) AS starts, sum(ms) / count(DISTINCT seq) AS whole
  FROM cold_start_phases WHERE cold_proven = 1 AND {_LATEST} GROUP BY target
)
SELECT p.target, t.starts, t.whole, p.phase, sum(p.ms) / t.starts AS mean
FROM cold_start_phases AS p JOIN totals AS t USING (target)
WHERE p.cold_proven = 1 AND p.{_LATEST} GROUP BY p.target, p.number ORDER BY p.target, p.number"""


def proof_lines(store: Store) -> list[str]:
    """What the latest run with watched cold starts proved, for a terminal; nothing when there was none."""
    (proofs,) = store.execute(_PROOFS)
    if not proofs["requests"]:
        return []
    lines = [f"cold starts proven: {proofs['proven']} of {proofs['requests']}; on average, in ms:"]
    phases: dict[str, list[str]] = {}
    for row in store.execute(_MEANS):
        service = (urlsplit(row["target"]).hostname or "").partition(".")[0]
        start = f"  {service} ({row['starts']}): {row['whole']:,.0f} ="
        phases.setdefault(start, []).append(f"{row['phase'].replace('_', ' ')} {row['mean']:,.1f}")
    return lines + [f"{start} {' + '.join(parts)}" for start, parts in phases.items()]


def _whole(value: object) -> int:
    if type(value) is not int or not 0 <= value < _LIMIT:
        raise TypeError(f"{value!r} is not a number of arrivals")
    return value


def _text(value: object) -> str | None:
    if value is not None and not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _bit(value: object) -> int | None:
    if value is not None and not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return None if value is None else int(value)


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{value!r} is not a time")
    return float(value)
