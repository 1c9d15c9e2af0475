"""`…_environment.jsonl` → the database: what was observed in a cluster during runs."""

from __future__ import annotations

import hashlib
from typing import BinaryIO, Literal

import msgspec
from msgspec.structs import astuple

from workload_generator.results.ingest.files import LONGEST_LINE, InputFile, Row, SkippedFile
from workload_generator.results.ingest.our_log import check_time


class _Observed(msgspec.Struct):
    """A line; its fields are columns."""

    event: Literal["path"]
    time: str
    run_id: str
    service: str | None = None
    revision: str | None = None
    mode: str | None = None
    endpoints: str | None = None
    path: Literal["activator", "direct"] | None = None
    why: str | None = None

    def __post_init__(self) -> None:
        """Check the time."""
        check_time(self.time)


_decode = msgspec.json.Decoder(_Observed).decode


class Environment(InputFile):
    """What was observed, by the file's first line."""

    table = "event_files"
    into = "environment"
    columns = _Observed.__struct_fields__
    unreadable = "not an observation of a cluster"
    verb = "INSERT OR IGNORE"

    def __init__(self, file: BinaryIO) -> None:
        first = file.readline(LONGEST_LINE)
        if not first.endswith(b"\n"):
            raise SkippedFile("no complete line yet")
        super().__init__(hashlib.sha256(first).hexdigest())

    def take(self, line: bytes) -> Row:
        """The row of a line."""
        return astuple(_decode(line))
