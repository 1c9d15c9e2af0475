"""Tables as plain data: the terminal, the page and the CSV files show the same ones.

A time beyond the timeout is infinite: `> 30s` for people, `inf` in CSV. None is unknown: `—` for people, empty in CSV.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from rich.markup import escape
from rich.table import Table as RichTable

from workload_generator.base.errors import BenchError

Value = str | int | float | None

TEXT, COUNT, MS, SHARE, NUMBER = "text", "count", "ms", "share", "number"
NOTHING = "—"

_WHAT = ("scenario", "rate", "language")
_SHORT = {
    "temperature": "temp",
    "acknowledged": "acked", "duplicated": "dup.", "reordered": "reord.", "unaccounted": "unacc.",
}  # fmt: skip


class Column(NamedTuple):
    """One column: `kind` says how its values are written. `brief` ones are shown on a terminal."""

    name: str
    kind: str = TEXT
    brief: bool = True

    @property
    def label(self) -> str:
        """With its unit."""
        return f"{self.name} (ms)" if self.kind == MS else self.name


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` have a value for each column; `beyond` says what an infinite time of each row is called."""

    key: str
    title: str
    note: str
    columns: tuple[Column, ...]
    rows: list[tuple[Value, ...]] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    on_terminal: bool = True

    def add(self, *values: Value, timeout: str = "30s", beyond: str = "") -> None:
        """One row."""
        assert len(values) == len(self.columns), (self.key, len(values), len(self.columns))
        self.rows.append(values)
        self.beyond.append(beyond or f"> {timeout}")

    def texts(self, row: int) -> list[str]:
        """A row for people."""
        pairs = zip(self.columns, self.rows[row], strict=True)
        return [written(value, column.kind, self.beyond[row]) for column, value in pairs]


def written(value: Value, kind: str, beyond: str = "> 30s") -> str:
    """One value for people."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, str):
        return value or NOTHING
    if math.isinf(value):
        return beyond if value > 0 else f"−{beyond}"
    if kind == MS:
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"
    if kind == SHARE:
        return f"{value:.2%}"
    if kind == COUNT:
        return f"{value:,.0f}"
    return f"{value:,.4g}"


def merged(table: Table) -> tuple[list[Column], list[list[str]]]:
    """For people: columns with a `low` and a `high` beside them have these in brackets."""
    names = {column.name: index for index, column in enumerate(table.columns)}
    ends = {name: (names.get(f"{name} low"), names.get(f"{name} high")) for name in names}
    apart = {index for low, high in ends.values() if low is not None and high is not None for index in (low, high)}
    kept = [index for index in range(len(table.columns)) if index not in apart]
    rows = []
    for number in range(len(table.rows)):
        texts = table.texts(number)
        row = []
        for index in kept:
            low, high = ends[table.columns[index].name]
            text = texts[index]
            if low is not None and high is not None and texts[low] != NOTHING:
                text = f"{text} [{texts[low]}, {texts[high]}]"
            row.append(text)
        rows.append(row)
    return [table.columns[index] for index in kept], rows


def rich_table(table: Table, most: int = 1000) -> RichTable:
    """For a terminal: its brief columns, those that say what was run put into one, and at most so many rows."""
    out = RichTable(title=table.title, title_justify="left", box=None, pad_edge=False, header_style="dim")
    columns, rows = merged(table)
    what = [index for index, column in enumerate(columns) if column.name in _WHAT and column.brief]
    shown: list[list[int]] = []
    for index, column in enumerate(columns):
        if what and index == what[0]:
            shown.append(what)
            out.add_column("", overflow="fold")
        elif column.brief and index not in what:
            shown.append([index])
            left = column.kind == TEXT
            out.add_column(_SHORT.get(column.name, column.label), justify="left" if left else "right", overflow="fold")
    if len(rows) > most:
        out.caption = f"and {len(rows) - most:,} more"
        out.caption_justify = "left"
    for row in rows[:most]:
        out.add_row(*(escape(", ".join(row[index] for index in indexes)) for indexes in shown))
    return out


def write_csv(tables: Sequence[Table], folder: Path) -> list[Path]:
    """A file for each table that has rows, made anew; times in ms, shares from 0 to 1. Raises BenchError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for table in tables:
            if not table.rows:
                continue
            path = folder / f"{table.key}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                out = csv.writer(file, lineterminator="\n")
                out.writerow([_csv_name(column) for column in table.columns])
                out.writerows([[_csv_value(value) for value in row] for row in table.rows])
            paths.append(path)
        return paths
    except OSError as error:
        raise BenchError(f"cannot write the tables to {folder}: {error.strerror}") from None


def _csv_name(column: Column) -> str:
    name = column.name.replace("%", "percent").replace(" ", "_").replace(".", "_").lower()
    return f"{name}_ms" if column.kind == MS else name


def _csv_value(value: Value) -> str | int | float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "@", "\t", "\r"):
        return f"'{value}"  # a spreadsheet would run it: a target's name or message is not ours
    return value
