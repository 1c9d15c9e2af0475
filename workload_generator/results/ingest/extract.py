"""Log files → database.

Rules:
- one transaction a file: all its complete lines are stored, or nothing
- a file is identified by its content, not by its name; a copy adds nothing, a file that has grown only its new lines
- whatever cannot be read is skipped, named and counted; only errors of the database end an extraction
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from workload_generator.base.errors import BenchError
from workload_generator.log import format as log_format
from workload_generator.results.database import Store, open_store
from workload_generator.results.ingest import naming, reconcile
from workload_generator.results.ingest.events import is_events_file, take_events
from workload_generator.results.ingest.files import Skip, SkippedFile, SkippedLines, check_continues, tail_sha256
from workload_generator.results.ingest.readers import NOT_A_LOG, ORIGINAL_FORMAT, LogBatch, LogReader, open_reader

_BLOCK_BYTES = 1 << 20
_LONGEST_FIRST_LINE = 1 << 24

OnProgress = Callable[[int, int, str], None]
"""Called with the bytes read, the bytes of all files, and the file's name."""


@dataclass(frozen=True, slots=True)
class ExtractionReport:
    """What an extraction did.

    `logs` is the number of logs of ours or the original's, `read` how many of them had new lines, `rows` the number of
    new results, `receipts` that of new receipts of events. `experiments` are the ids of the runs of these logs and
    receipts. `warnings` are about runs that are in the database but incomplete.
    """

    logs: int
    read: int
    rows: int
    experiments: tuple[int, ...]
    skipped: tuple[Skip, ...]
    warnings: tuple[str, ...]
    receipts: int = 0


def extract(
    logs: Path, db: Path, hours: float | None = None, on_progress: OnProgress | None = None
) -> ExtractionReport:
    """Read new lines of the logs and receipts in `logs`, a folder or a file, into the database `db`.

    With `hours`, files are skipped that are older by the time in their names. Raises BenchError when the folder cannot
    be listed or the database cannot be used; the files before that are stored.
    """
    files = _list(logs)
    with open_store(db) as store:
        return _Extraction(store, files, on_progress).run(hours)


class _Extraction:
    """The state of one extraction."""

    def __init__(self, store: Store, files: list[Path], on_progress: OnProgress | None) -> None:
        self._store = store
        self._files = files
        self._sizes = {path: _size(path) for path in files}
        self._all_bytes = sum(self._sizes.values())
        self._done_bytes = 0
        self._on_progress = on_progress
        self._logs = self._read = self._rows = self._receipts = 0
        self._experiments: dict[int, None] = {}
        self._skipped: list[Skip] = []

    def run(self, hours: float | None) -> ExtractionReport:
        """Read the files one by one."""
        now = datetime.now(UTC)
        for path in self._files:
            self._progress(path, 0)
            try:
                if is_events_file(path):
                    self._take_events(path)
                    continue
                _, written = naming.read_file_name(path.name)
                if hours is not None and written is not None and (now - written).total_seconds() > hours * 3600:
                    raise SkippedFile(f"older than {hours:g} h, by the time in its name")
                self._extract(path)
            except SkippedFile as reason:
                self._logs += reason.is_known and not is_events_file(path)
                self._skipped.append(Skip(_name(path), 0, str(reason)))
            except OSError as error:
                self._skipped.append(Skip(_name(path), 0, f"cannot be read: {error.strerror or error}"))
            finally:
                self._done_bytes += self._sizes[path]
                self._progress(path, 0)
        self._experiments |= dict.fromkeys(self._with_receipts())
        warnings = [text for experiment in self._experiments for text in reconcile.warnings_of(self._store, experiment)]
        return ExtractionReport(
            logs=self._logs,
            read=self._read,
            rows=self._rows,
            experiments=tuple(self._experiments),
            skipped=tuple(self._skipped),
            warnings=tuple(warnings),
            receipts=self._receipts,
        )

    def _extract(self, path: Path) -> None:
        if not path.is_file():
            raise SkippedFile("not a file")
        with path.open("rb") as file:
            first = _first_line(file)
            reader = open_reader(_name(path), first)
            with self._store.transaction():
                reading = _Reading(self._store, reader, file, _name(path))
                reading.start(len(first))
                reading.read(lambda offset: self._progress(path, offset))
                reading.finish()
        self._logs += 1
        self._read += reading.new_lines > 0
        self._rows += reading.new_rows
        self._skipped += reading.skips()
        self._experiments[reading.experiment_id] = None

    def _take_events(self, path: Path) -> None:
        rows, lines = take_events(self._store, path)
        self._receipts += rows
        self._skipped += lines.skips(_name(path))

    def _with_receipts(self) -> list[int]:
        """The runs that new receipts may belong to: all runs with receipts, if there are new ones."""
        if not self._receipts:
            return []
        sql = """
            SELECT id FROM experiments e
            WHERE EXISTS (SELECT 1 FROM results r JOIN events v ON v.event_id = r.event_id WHERE r.experiment_id = e.id)
        """
        return [row["id"] for row in self._store.execute(sql)]

    def _progress(self, path: Path, offset: int) -> None:
        if self._on_progress is not None:
            done = self._done_bytes + min(offset, self._sizes[path])  # a growing file may have more by now
            self._on_progress(done, self._all_bytes, _name(path))


class _Reading:
    """Reads one log into the database, inside a transaction."""

    def __init__(self, store: Store, reader: LogReader, file: BinaryIO, name: str) -> None:
        self._store = store
        self._reader = reader
        self._file = file
        self._name = name
        self._offset = self._lines = 0
        self._heartbeat: dict[str, Any] | None = None
        self._trailer: dict[str, Any] | None = None
        self._skipped = SkippedLines()
        self._end: str | None = None
        self.new_lines = 0
        self.new_rows = 0
        self.experiment_id = 0

    def start(self, header_bytes: int) -> None:
        """Go to where the last extraction stopped, or insert a shard. Raises SkippedFile when there is nothing new."""
        shard = reconcile.shard_of(self._store, self._reader.identity)
        if shard is None:
            self.experiment_id = reconcile.join_run(self._store, self._reader)
            if self._reader.has_header:
                self._offset, self._lines, self.new_lines = header_bytes, 1, 1
            self._shard_id = self._insert_shard()
        else:
            check_continues(self._file, self._name, shard)
            self.experiment_id, self._shard_id = shard["experiment_id"], shard["id"]
            self._offset, self._lines = shard["offset"], shard["lines"]
        self._file.seek(self._offset)

    def read(self, on_progress: Callable[[int], None]) -> None:
        """Read all complete lines."""
        while lines := self._file.readlines(_BLOCK_BYTES):
            incomplete = not lines[-1].endswith(b"\n")
            if incomplete:
                self._end = "incomplete line: the next extraction reads it"
                del lines[-1]
            batch = self._reader.read(lines, self._lines + 1)
            self._store_batch(batch)
            taken = lines[: batch.read]
            self._lines += len(taken)
            self.new_lines += len(taken)
            self._offset += sum(map(len, taken))
            on_progress(self._offset)
            if batch.read < len(lines):
                self._end = "another run begins here: the rest of the file is skipped"
            if self._end is not None:
                break

    def finish(self) -> None:
        """Update the counts. Raises SkippedFile for any other file than a log."""
        if self.new_lines == 0:
            return
        fields: dict[str, object] = {"file": self._name, "offset": self._offset, "lines": self._lines}
        fields["tail_sha256"] = tail_sha256(self._file, self._offset)
        if self._heartbeat is not None:
            fields["heartbeat"] = orjson.dumps(self._heartbeat).decode()
        self._store.update("shards", self._shard_id, fields)
        self._store.execute(
            "UPDATE shards SET rows = rows + ?, skipped_lines = skipped_lines + ? WHERE id = ?",
            (self.new_rows, self._skipped.count, self._shard_id),
        )
        if self._reader.format == ORIGINAL_FORMAT:
            ((rows,),) = self._store.execute("SELECT rows FROM shards WHERE id = ?", (self._shard_id,))
            if not rows:
                raise SkippedFile("a log of the original without a result yet")
        reconcile.refresh_shard(self._store, self._shard_id, self._trailer)
        reconcile.refresh_experiment(self._store, self.experiment_id)

    def skips(self) -> list[Skip]:
        """The lines that were skipped."""
        end = [] if self._end is None else [Skip(self._name, self._lines + 1, self._end)]
        return self._skipped.skips(self._name) + end

    def _insert_shard(self) -> int:
        reader = self._reader
        fields = {"experiment_id": self.experiment_id, "file": self._name, "tail_sha256": "", **reader.origin}
        fields |= {"shard": reader.shard, "identity": reader.identity, "format": reader.format}
        return self._store.insert("shards", fields | dict.fromkeys(("offset", "lines", "rows", "skipped_lines"), 0))

    def _store_batch(self, batch: LogBatch) -> None:
        for table, columns, rows in batch.groups:
            names, marks = ", ".join(columns), ", ".join("?" * len(columns))
            mine = f"{self.experiment_id}, {self._reader.shard}"
            self._store.execute_many(
                f"INSERT INTO {table} ({names}, experiment_id, shard) VALUES ({marks}, {mine})", rows
            )
        if batch.settings:
            self._store.update("experiments", self.experiment_id, batch.settings)
        self.new_rows += batch.results
        self._heartbeat = batch.heartbeat or self._heartbeat
        self._trailer = batch.trailer or self._trailer
        for number, reason in batch.bad:
            self._skipped.add(number, reason)


def _list(logs: Path) -> list[Path]:
    if logs.is_file():
        return [logs]
    try:
        return sorted(path for path in logs.iterdir() if path.suffix == ".log" or is_events_file(path))
    except OSError as error:
        raise BenchError(f"cannot read the logs in {logs}: {error.strerror}") from None


def _first_line(file: BinaryIO) -> bytes:
    line = file.readline(_LONGEST_FIRST_LINE)
    if not line:
        raise SkippedFile("empty")
    if not line.endswith(b"\n"):
        if len(line) == _LONGEST_FIRST_LINE:
            raise SkippedFile(NOT_A_LOG)
        raise SkippedFile("its first line is incomplete")
    return line


def _name(path: Path) -> str:
    return log_format.clean(path.name)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
