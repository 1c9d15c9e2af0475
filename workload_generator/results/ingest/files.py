"""Input files of an extraction: read from where the last one stopped, with all that is skipped named."""

from __future__ import annotations

import csv
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, BinaryIO, ClassVar

from msgspec import DecodeError

from workload_generator.results.database import Store

_BLOCK_BYTES = 1 << 20
_TAIL_BYTES = 4096
_MOST_NAMED_LINES = 5
_PROGRESS = ("file", "offset", "lines", "tail_sha256", "rows", "skipped_lines")

UNREADABLE = (ValueError, RecursionError, DecodeError, csv.Error)
"""What a line that cannot be read raises."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A file that was skipped (line 0), or `count` lines of it, from `line` on."""

    file: str
    line: int
    reason: str
    count: int = 1

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


class SkippedFile(ValueError):
    """A file that is skipped; `str()` is the reason. `is_known` when an earlier extraction read it."""

    def __init__(self, reason: str, is_known: bool = False) -> None:
        super().__init__(reason)
        self.is_known = is_known


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
    further columns of its row, `others` are rows of other tables.

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
        self.rows: list[tuple[object, ...]] = []
        self.others: list[tuple[str, dict[str, object]]] = []
        self.found: dict[str, object] = {}
        self.new_lines = self.new_rows = 0
        self.skips: list[Skip] = []

    def join(self, store: Store) -> dict[str, object]:
        """The columns of the new row of a file that was not read before. Raises SkippedFile."""
        return {}

    def resume(self, row: Mapping[str, Any]) -> None:
        """Called with the file's row before any line is taken."""

    def take(self, line: bytes) -> None:
        """Add a line to `rows`, `others` or `found`. Raises EndOfRun, or one of `UNREADABLE`."""
        raise NotImplementedError

    def finish(self, store: Store, row: Mapping[str, Any]) -> None:
        """Called with the file's row after new lines. Raises SkippedFile."""

    def read(self, store: Store, file: BinaryIO, name: str, on_progress: Callable[[int], None]) -> None:
        """Store the new lines, in a transaction of the caller. Raises SkippedFile."""
        row = self._row(store)
        before = 0
        if row is None:
            start = dict.fromkeys(_PROGRESS, 0) | {"file": name, "tail_sha256": "", "identity": self.identity}
            start |= {"offset": self.begin, "lines": int(self.begin > 0)}
            store.insert(self.table, start | self.join(store))
            row = self._row(store)
            assert row is not None
        else:
            _check_continues(file, name, row)
            before = row["lines"]
        self.resume(row)
        offset, lines = row["offset"], row["lines"]
        skipped, end = SkippedLines(), None
        file.seek(offset)
        while end is None and (block := file.readlines(_BLOCK_BYTES)):
            if not block[-1].endswith(b"\n"):
                end = "incomplete line: the next extraction reads it"
                del block[-1]
            for line in block:
                try:
                    self.take(line)
                except EndOfRun as reason:
                    end = str(reason)
                    break
                except UNREADABLE as problem:
                    skipped.add(lines + 1, f"{self.unreadable}: {problem}")
                lines += 1
                offset += len(line)
            self.new_rows += store.insert_many(self.into, self.columns, self.rows, self.verb)
            for table, fields in self.others:
                store.insert(table, fields)
            self.rows, self.others = [], []
            on_progress(offset)
        self.new_lines = lines - before
        self.skips = skipped.skips(name) + ([] if end is None else [Skip(name, lines + 1, end)])
        if self.new_lines:
            values = (name, offset, lines, _tail_sha256(file, offset))
            counts = (row["rows"] + self.new_rows, row["skipped_lines"] + skipped.count)
            store.update(self.table, row["id"], dict(zip(_PROGRESS, values + counts, strict=True)) | self.found)
            self.finish(store, {**row, "rows": counts[0]})

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
