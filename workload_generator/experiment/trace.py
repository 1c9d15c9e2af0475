"""Traces: recorded arrival times, in a CSV file.

The number of columns of the first line tells the two forms apart:
- one column: the offsets of the arrivals from the start, in seconds, one a line, in any order; the first line may be a
  heading
- several columns: the number of arrivals in each minute, as in the Azure Functions traces of 2019. The first line has
  names, then the minutes 1, 2, 3, … Each further line is one function. Source:
  https://github.com/Azure/AzurePublicDataset/blob/master/AzureFunctionsDataset2019.md

pandas writes counts as `40.0` and none as an empty cell, small offsets as `1e-05`, and an index as a first column
without a name, which is skipped.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import chain
from pathlib import Path

from workload_generator.base.errors import ExperimentError, Problem
from workload_generator.experiment.yaml_lines import decode_text, read_bytes

_SECONDS = re.compile(r"([0-9]{1,9}(\.[0-9]{0,18})?|\.[0-9]{1,18})([eE]-[0-9]{1,2})?")
_COUNT = re.compile(r"([0-9]{1,12})(\.0*)?|")

_Line = tuple[int, list[str]]


@dataclass(frozen=True, slots=True)
class Trace:
    """Sorted offsets (ns) or the arrivals of each minute; the other is None. `sha256` is that of the file."""

    sha256: str
    offsets_ns: tuple[int, ...] | None
    minute_counts: tuple[int, ...] | None


def read_trace(path: Path, row: str | None) -> Trace:
    """The trace at `path`. Minute counts are the sum of the rows with `row` among their names; None selects all.

    Raises ExperimentError with every invalid cell.
    """
    raw = read_bytes(path)
    sha256 = hashlib.sha256(raw).hexdigest()
    text = decode_text(path, raw)
    del raw
    lines = _lines(str(path), text)
    first = next(lines, None)
    if first is None:
        raise ExperimentError([Problem(str(path), 0, "", "is empty: a trace needs at least one arrival")])
    indexed = len(first[1]) > 1 and not first[1][0]
    if indexed:
        first, lines = (first[0], first[1][1:]), ((number, cells[1:]) for number, cells in lines)
    if len(first[1]) > 1:
        return Trace(sha256, None, _minute_counts(str(path), first, lines, row))
    if row is not None:
        message = "a trace of offsets has no rows to select: remove `row`"
        raise ExperimentError([Problem(str(path), 0, "", message)])
    heading = indexed or (not _SECONDS.fullmatch(first[1][0]) and first[1][0][:1].isalpha())
    return Trace(sha256, _offsets_ns(str(path), lines if heading else chain([first], lines)), None)


def _lines(file: str, text: str) -> Iterator[_Line]:
    """The number and the cells of each line that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, skipinitialspace=True)
    try:
        for cells in reader:
            if any(cells):
                yield reader.line_num, [cell.strip() for cell in cells]
    except csv.Error as error:
        raise ExperimentError([Problem(file, reader.line_num, "", f"not CSV: {error}")]) from None


def _offsets_ns(file: str, lines: Iterable[_Line]) -> tuple[int, ...]:
    problems: list[Problem] = []
    offsets: list[int] = []
    for number, cells in lines:
        if len(cells) == 1 and _SECONDS.fullmatch(cells[0]):
            offsets.append(int(Decimal(cells[0]).scaleb(9)))
        else:
            message = f"{','.join(cells)!r} is not an offset in seconds, such as 12.5"
            problems.append(Problem(file, number, "", message))
    if not problems and not offsets:
        problems.append(Problem(file, 0, "", "has no arrivals"))
    if problems:
        raise ExperimentError(problems)
    return tuple(sorted(offsets))


def _minute_counts(file: str, first: _Line, others: Iterator[_Line], row: str | None) -> tuple[int, ...]:
    heading_line, heading = first
    names = next((index for index, cell in enumerate(heading) if cell == "1"), len(heading))
    minutes = heading[names:]
    if not minutes or minutes != [str(minute) for minute in range(1, len(minutes) + 1)]:
        message = "the first line of minute counts must have names, then the minutes 1, 2, 3, … without a gap"
        raise ExperimentError([Problem(file, heading_line, "", message)])
    problems: list[Problem] = []
    sums = [0] * len(minutes)
    found = False
    for number, cells in others:
        if len(cells) != len(heading):
            problems.append(Problem(file, number, "", f"has {len(cells)} cells; the first line has {len(heading)}"))
            continue
        counts = [_COUNT.fullmatch(cell) for cell in cells[names:]]
        bad = [index for index, count in enumerate(counts, names) if count is None]
        problems += [Problem(file, number, f"minute {heading[i]}", f"{cells[i]!r} is not a count") for i in bad]
        if not bad and (row is None or row in cells[:names]):
            found = True
            sums = [total + int(count[1] or 0) for total, count in zip(sums, counts, strict=True) if count]
    if not problems and not found:
        message = "has no rows" if row is None else f"no row has {row!r} among its names"
        problems.append(Problem(file, 0, "", message))
    if not problems and not any(sums):
        problems.append(Problem(file, 0, "", "has no arrivals"))
    if problems:
        raise ExperimentError(problems)
    return tuple(sums)
