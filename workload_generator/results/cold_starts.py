"""`cold_start` lines of a log → rows of `cold_starts`."""

from __future__ import annotations

import math
from typing import Any

import orjson

from workload_generator.coldstarts import POINTS

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
    marks = ", ".join("?" * len(COLUMNS))
    names = ", ".join(COLUMNS)
    return f"INSERT INTO cold_starts (experiment_id, shard, {names}) VALUES ({experiment_id}, {shard}, {marks})"


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
