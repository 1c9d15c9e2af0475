"""Input files of an extraction: read from where the last one stopped, with all that is skipped named."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar

from msgspec import DecodeError

from workload_generator.results.database import RowError, Store

LONGEST_LINE = 1 << 24
_BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 4096
_MOST_NAMED_LINES = 5
_LONGEST_REASON = 300
_PROGRESS = ("file", "offset", "lines", "tail_sha256", "rows", "skipped_lines")

Row = tuple[object, ...]
OtherRow = tuple[str, dict[str, object]]
"""A table, and columns of it."""

UNREADABLE = (ValueError, ArithmeticError, RecursionError, DecodeError, csv.Error, RowError)
"""What a line that cannot be read or stored raises."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A file that was skipped (line 0), or `count` lines of it, from `line` on; `wanted` if the user asked for it."""

    file: str
    line: int
    reason: str
    count: int = 1
    wanted: bool = False

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.reason if len(self.reason) <= _LONGEST_REASON else self.reason[:_LONGEST_REASON] + '…'}"


class SkippedFile(Exception):
    """A file that is skipped; `str()` is the reason. `is_known` when an earlier extraction read it."""

    def __init__(self, reason: str, is_known: bool = False, wanted: bool = False) -> None:
        super().__init__(reason)
        self.is_known = is_known
        self.wanted = wanted


class EndOfRun(Exception):
    """The rest of a file is not read; `str()` is the reason."""


@dataclass(slots=True)
class SkippedLines:
    """The lines of one file that were skipped: the first few by number and reason, all counted."""

    count: int = 0
    _first: list[tuple[int, str]] = field(default_factory=list)

    def add(self, number: int, reason: str) -> None:
        """Add the line `number`."""
        self.count += 1
        if len(self._first) <= _MOST_NAMED_LINES:
            self._first.append((number, reason))

    def skips(self, file: str) -> list[Skip]:
        """One for each of the first lines, and one for all others."""
        skips = [Skip(file, line, reason) for line, reason in self._first[:_MOST_NAMED_LINES]]
        more = self.count - len(skips)
        if more:
            line, reason = self._first[_MOST_NAMED_LINES]
            skips.append(Skip(file, line, f"{reason} (first of {more:,} more skipped lines)", more))
        return skips


class InputFile:
    """A file whose lines become rows of the table `into`. Its own row in `table` says how much of it was read.

    The file is found again by its `identity`; its first `begin` bytes are a header line, or there is none. `found` are
    further columns of its row.

    It keeps no state that a later extraction would miss: reading a file in pieces gives the same rows as reading it at
    once.
    """

    table: ClassVar[str]
    into: ClassVar[str]
    columns: ClassVar[Sequence[str]]
    unreadable: ClassVar[str]
    verb: ClassVar[str] = "INSERT"

    def __init__(self, identity: str, begin: int = 0) -> None:
        self.identity = identity
        self.begin = begin
        self.found: dict[str, object] = {}
        self.new_lines = self.new_rows = 0
        self.skips: list[Skip] = []
        self._offset = self._lines = 0
        self._skipped = SkippedLines()
        self._end: str | None = None

    def join(self, store: Store) -> dict[str, object]:
        """The columns of the new row of a file that was not read before. Raises SkippedFile."""
        return {}

    def resume(self, row: Mapping[str, Any]) -> None:
        """Called with the file's row before any line is taken."""

    def take(self, line: bytes) -> Row | Iterable[OtherRow]:
        """The row of a line, or rows of other tables. Raises EndOfRun, or one of `UNREADABLE`."""
        raise NotImplementedError

    def finish(self, store: Store, row: Mapping[str, Any]) -> None:
        """Called with the file's row after new lines. Raises SkippedFile."""

    def read(self, store: Store, file: BinaryIO, name: str, on_progress: Callable[[int], None]) -> None:
        """Store the new lines, in a transaction of the caller. Raises SkippedFile."""
        row = self._row(store)
        before = 0 if row is None else row["lines"]
        if row is None:
            start = dict.fromkeys(_PROGRESS, 0) | {"file": name, "tail_sha256": "", "identity": self.identity}
            start |= {"offset": self.begin, "lines": int(self.begin > 0)}
            store.insert(self.table, start | self.join(store))
            row = self._row(store)
            assert row is not None
        else:
            _check_continues(file, name, row)
        self.resume(row)
        self._offset, self._lines = row["offset"], row["lines"]
        file.seek(self._offset)
        while self._read_block(store, file):
            on_progress(self._offset)
        self.new_lines = self._lines - before
        self.skips = self._skipped.skips(name)
        if self._end is not None:
            self.skips.append(Skip(name, self._lines + 1, self._end))
        if self.new_lines:
            values = (name, self._offset, self._lines, _tail_sha256(file, self._offset))
            counts = (row["rows"] + self.new_rows, row["skipped_lines"] + self._skipped.count)
            store.update(self.table, row["id"], dict(zip(_PROGRESS, values + counts, strict=True)) | self.found)
            self.finish(store, {**row, "rows": counts[0]})

    def _read_block(self, store: Store, file: BinaryIO) -> bool:
        """Store a block of lines; whether there was any."""
        rows: list[tuple[int, Row]] = []
        begin = self._offset
        while self._end is None and self._offset - begin < _BLOCK_BYTES and (line := file.readline(LONGEST_LINE)):
            size = len(line)
            while not line.endswith(b"\n") and (more := file.readline(LONGEST_LINE)):
                line, size = more, size + len(more)
            if not line.endswith(b"\n"):
                self._end = "incomplete line: the next extraction reads it"
                break
            number = self._lines + 1
            try:
                if size > LONGEST_LINE:
                    raise ValueError(f"it has {size:,} bytes")
                taken = self.take(line)
                if isinstance(taken, tuple):
                    rows.append((number, taken))
                else:
                    for table, fields in taken:
                        store.insert(table, fields)
            except EndOfRun as reason:
                self._end = str(reason)
                break
            except UNREADABLE as problem:
                self._skipped.add(number, f"{self.unreadable}: {problem}")
            self._lines = number
            self._offset += size
        self._insert(store, iter(rows))
        return self._offset > begin

    def _insert(self, store: Store, rows: Iterator[tuple[int, Row]]) -> None:
        """Insert rows, with the numbers of their lines."""
        number = 0

        def pending() -> Iterator[Row]:
            nonlocal number
            for number, row in rows:  # noqa: B007 - the last one is the row that is refused
                yield row

        before = store.changes
        while True:
            try:
                store.insert_many(self.into, self.columns, pending(), self.verb)
                break
            except RowError as problem:
                self._skipped.add(number, f"{self.unreadable}: {problem}")
        self.new_rows += store.changes - before

    def _row(self, store: Store) -> Mapping[str, Any] | None:
        rows = store.execute(f"SELECT * FROM {self.table} WHERE identity = ?", (self.identity,))
        return dict(rows[0]) if rows else None


def _tail_sha256(file: BinaryIO, offset: int) -> str:
    """The hash of the bytes before `offset`, by which an extraction knows that a file still is what it read."""
    begin = max(0, offset - _TAIL_BYTES)
    return hashlib.sha256(os.pread(file.fileno(), offset - begin, begin)).hexdigest()


def _check_continues(file: BinaryIO, name: str, known: Mapping[str, Any]) -> None:
    """Check that `file` continues the file in the row `known`. Raises SkippedFile."""
    size, offset = os.fstat(file.fileno()).st_size, known["offset"]
    is_other = name != known["file"]
    if size < offset and not is_other:
        reason = f"truncated or replaced: {size:,} bytes, fewer than the {offset:,} that were read"
    elif size >= offset and _tail_sha256(file, offset) != known["tail_sha256"]:
        reason = f"it has the identity of {known['file']}, which was read before, but other content"
    elif is_other and size <= offset:
        reason = f"a copy of {known['file']}, which was read before"
    else:
        return
    raise SkippedFile(reason, is_known=True)
