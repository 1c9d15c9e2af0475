"""Tables as plain data: the terminal, the page and the CSV files show the same ones.

A time beyond the timeout is infinite: `> 30s` as text, `inf` in CSV. None is unknown: `—` as text, empty in CSV.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum, auto
from pathlib import Path
from typing import Any, NamedTuple

from rich.table import Table as RichTable

from workload_generator.base.errors import BenchError
from workload_generator.base.terminal import terminal_table
from workload_generator.results.report.asset_files import words

Value = str | int | float | None

NOTHING = "—"
_BEYOND = "> 30s"

_RUN_COLUMNS = ("scenario", "rate", "language")
_SHORT = {
    "temperature": "temp",
    "acknowledged": "acked", "duplicated": "dup.", "reordered": "reord.", "unaccounted": "unacc.",
    "delivered unacknowledged": "unacked",
}  # fmt: skip


class ColumnKind(StrEnum):
    """The format of a column's values; called with names, it makes columns. `TENTHS` are of ms."""

    TEXT = auto()
    COUNT = auto()
    MS = auto()
    TENTHS = auto()
    SHARE = auto()
    NUMBER = auto()

    def __call__(self, *names: str, brief: bool = True) -> tuple[TableColumn, ...]:
        """Columns of this kind."""
        return tuple(TableColumn(name, self, brief) for name in names)


TEXT, COUNT, MS, TENTHS, SHARE, NUMBER = ColumnKind


class TableColumn(NamedTuple):
    """One column. Only `brief` columns are shown on a terminal."""

    name: str
    kind: ColumnKind
    brief: bool = True

    @property
    def label(self) -> str:
        """The name with its unit."""
        return f"{self.name} (ms)" if self.kind in (MS, TENTHS) else self.name


@dataclass(frozen=True, slots=True)
class Table:
    """`rows` have a value for each column; `beyond` is the text of an infinite time in each row, where there is one.

    `on_terminal` and `on_page` are whether the table is shown there; the CSV files have all tables.
    """

    key: str
    title: str
    note: str
    columns: tuple[TableColumn, ...]
    rows: list[tuple[Value, ...]] = field(default_factory=list)
    beyond: list[str] = field(default_factory=list)
    on_terminal: bool = True
    on_page: bool = True

    @classmethod
    def named(
        cls, key: str, columns: tuple[TableColumn, ...], rows: Iterable[tuple[Value, ...]] = (), **more: Any
    ) -> Table:
        """A table with the words that `assets/tables.yaml` has for it; `more` are other fields."""
        return cls(key, columns=columns, rows=list(rows), **words("tables.yaml")[key], **more)

    def add(self, *values: Value, beyond: str) -> None:
        """Append a row."""
        self.rows.append(values)
        self.beyond.append(beyond)

    def texts(self, row: int) -> list[str]:
        """A row as formatted text."""
        beyond = self.beyond[row] if self.beyond else _BEYOND
        return [written(value, column.kind, beyond) for column, value in zip(self.columns, self.rows[row], strict=True)]


def written(value: Value, kind: ColumnKind, beyond: str = _BEYOND) -> str:
    """A value as formatted text."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NOTHING
    if isinstance(value, str):
        return value or NOTHING
    if math.isinf(value):
        return beyond if value > 0 else f"−{beyond}"
    if kind == MS:
        return f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}" if abs(value) < 1000 else f"{value:,.0f}"
    return format(value, {SHARE: ".2%", COUNT: ",.0f", TENTHS: ",.1f"}.get(kind, ",.4g"))


def merged(table: Table) -> tuple[list[TableColumn], list[list[str]]]:
    """Columns and formatted rows; the bounds of an interval (`p50 low`, `p50 high`) follow their figure in brackets."""
    places = {column.name: index for index, column in enumerate(table.columns)}
    bounds = {
        places[name]: (places[f"{name} low"], places[f"{name} high"]) for name in places if f"{name} low" in places
    }
    hidden = {index for pair in bounds.values() for index in pair}
    kept = [index for index in range(len(table.columns)) if index not in hidden]

    def cell(texts: list[str], index: int) -> str:
        low, high = bounds.get(index, (None, None))
        if low is None or high is None or texts[low] == NOTHING:
            return texts[index]
        return f"{texts[index]} [{texts[low]}, {texts[high]}]"

    rows = [[cell(texts, index) for index in kept] for texts in map(table.texts, range(len(table.rows)))]
    return [table.columns[index] for index in kept], rows


def rich_table(table: Table, most: int = 1000) -> RichTable:
    """For a terminal: the brief columns, those of the run put into one, and at most `most` rows."""
    whole, rows = merged(table)
    brief = [index for index, column in enumerate(whole) if column.brief]
    run = [index for index in brief if whole[index].name in _RUN_COLUMNS]
    shown = [run if run and index == run[0] else [index] for index in brief if index not in run[1:]]
    header = [
        "" if indexes is run else _SHORT.get(whole[indexes[0]].name, whole[indexes[0]].label) for indexes in shown
    ]
    out = terminal_table(
        header,
        [[", ".join(row[index] for index in indexes) for indexes in shown] for row in rows[:most]],
        title=table.title,
        texts=[place for place, indexes in enumerate(shown) if whole[indexes[0]].kind == TEXT],
    )
    if len(rows) > most:
        out.caption, out.caption_justify = f"and {len(rows) - most:,} more", "left"
    return out


def write_csv(tables: Sequence[Table], folder: Path) -> list[Path]:
    """Write a file for each table that has rows; times in ms, shares from 0 to 1. Raises BenchError."""
    paths = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for table in (table for table in tables if table.rows):
            path = folder / f"{table.key}.csv"
            with path.open("w", encoding="utf-8", newline="") as file:
                out = csv.writer(file, lineterminator="\n")
                out.writerow([_csv_name(column) for column in table.columns])
                out.writerows([[_csv_value(value) for value in row] for row in table.rows])
            paths.append(path)
    except OSError as error:
        raise BenchError(f"cannot write the tables to {folder}: {error.strerror}") from None
    return paths


def _csv_name(column: TableColumn) -> str:
    name = column.name.replace("%", "percent").replace(" ", "_").replace(".", "_").lower()
    return f"{name}_ms" if column.kind in (MS, TENTHS) else name


def _csv_value(value: Value) -> str | int | float:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, str) and value[:1] in ("=", "+", "-", "@", "\t", "\r", "\n"):
        return f"'{value}"  # a spreadsheet would run it as a formula; names of targets and messages are not ours
    return value
