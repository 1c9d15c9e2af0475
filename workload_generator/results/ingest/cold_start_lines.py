"""Lines of cold starts → rows; and a summary of the proofs for a terminal."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import urlsplit

import orjson

from workload_generator.coldstart.proof import POINTS
from workload_generator.results.database import Store

Group = tuple[str, tuple[str, ...], list[tuple[object, ...]]]
"""A table, columns of it, and rows."""

_START_COLUMNS = (
    "seq", "timestamp", "target", "source", "zero", "zero_for", "waited", "instance", "is_cold", "cold_proven",
    "reason", *POINTS, "error", "grid", "clock_offset", "clock_error",
)  # fmt: skip
_BURST_COLUMNS = ("seq", "requests", "timestamp", "target", "source", "zero", "zero_for", "waited")
_INSTANCE_COLUMNS = ("seq", "instance", "created", "ready", "gone", "error")
_LIMIT = 2**63


def group_of_start(doc: dict[str, Any]) -> Group:
    """The row of a `cold_start` line. Raises KeyError or TypeError for an incomplete one."""
    points, grid, clock = doc["points"], doc["grid"], doc.get("clock") or {}  # logs of schema 4 have none
    if not (isinstance(points, dict) and isinstance(grid, list) and isinstance(clock, dict)):
        raise TypeError("points, grid and clock are not a mapping, a list and a mapping")
    if type(doc["seq"]) is not int or abs(doc["seq"]) >= _LIMIT:
        raise TypeError("seq is not the number of an arrival")
    row = (
        doc["seq"], *_from_zero(doc), _text(doc["instance"]), _bit(doc["cold"]), _bit(doc["proven"]),
        _text(doc["reason"]), *(_number(points.get(name)) for name in POINTS), _number(doc["error"]),
        orjson.dumps(grid).decode(), _number(clock.get("offset")), _number(clock.get("error")),
    )  # fmt: skip
    return "cold_starts", _START_COLUMNS, [row]


def groups_of_burst(doc: dict[str, Any]) -> tuple[Group, Group]:
    """The row of a `cold_burst` line and those of its instances. Raises KeyError or TypeError for an incomplete one."""
    seq, requests = (_whole(doc[name]) for name in ("seq", "requests"))
    instances: list[tuple[object, ...]] = []
    for each in doc["instances"]:
        if not isinstance(each["instance"], str):
            raise TypeError("an instance has no name")
        instances.append((seq, each["instance"], *(_number(each[name]) for name in _INSTANCE_COLUMNS[2:])))
    burst = (seq, requests, *_from_zero(doc))
    return ("cold_bursts", _BURST_COLUMNS, [burst]), ("cold_burst_instances", _INSTANCE_COLUMNS, instances)


def _from_zero(doc: dict[str, Any]) -> tuple[object, ...]:
    """The columns from `timestamp` to `waited`, which starts and bursts share."""
    texts = [_text(doc[name]) for name in ("time", "target", "source")]
    return (*texts, _bit(doc["zero"]), _number(doc["zero_for"]), _number(doc["waited"]))


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
    """A summary of the latest run with observed cold starts; empty when there is none."""
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
        raise TypeError(f"{value!r} is not text")
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
