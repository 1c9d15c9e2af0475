"""Input files of an extraction: recognising what was read before, and reporting what is skipped."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO

_TAIL_BYTES = 4096
_MOST_NAMED_LINES = 5


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


def tail_sha256(file: BinaryIO, offset: int) -> str:
    """The hash of the bytes before `offset`, by which an extraction knows that a file still is what it read."""
    begin = max(0, offset - _TAIL_BYTES)
    return hashlib.sha256(os.pread(file.fileno(), offset - begin, begin)).hexdigest()


def check_continues(file: BinaryIO, name: str, known: Mapping[str, Any]) -> None:
    """Check that `file` continues the file in the row `known` of `shards` or `event_files`. Raises SkippedFile."""
    size, offset = os.fstat(file.fileno()).st_size, known["offset"]
    is_other = name != known["file"]
    if size < offset and not is_other:
        reason = f"truncated or replaced: {size:,} bytes, fewer than the {offset:,} that were read"
    elif size >= offset and tail_sha256(file, offset) != known["tail_sha256"]:
        reason = f"it has the identity of {known['file']}, which was read before, but other content"
    elif is_other and size <= offset:
        reason = f"a copy of {known['file']}, which was read before"
    else:
        return
    raise SkippedFile(reason, is_known=True)
