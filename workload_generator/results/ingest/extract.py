"""Log files → database.

Rules:
- one transaction a file: all its complete lines are stored, or nothing
- a file is identified by its content, not by its name; a copy adds nothing, a file that has grown only its new lines
- whatever cannot be read is skipped, named and counted; only errors of the database end an extraction
"""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from workload_generator.base.errors import BenchError
from workload_generator.log import format as log_format
from workload_generator.results.database import Store, Tell, open_store
from workload_generator.results.ingest import naming, reconcile
from workload_generator.results.ingest.environment import Environment
from workload_generator.results.ingest.events import Receipts, is_csv, open_csv
from workload_generator.results.ingest.files import LONGEST_LINE, UNREADABLE, InputFile, Skip, SkippedFile
from workload_generator.results.ingest.original import NOT_A_LOG, OriginalLog
from workload_generator.results.ingest.our_log import OurLog

_INPUT = re.compile(
    r"(.*\.log|(events|instances).*\.csv|.*_environment\.jsonl)([.-][0-9]+)*(\.(gz|bz2|xz|zst))?", re.DOTALL
)
"""Names of logs, receipts and observations of a cluster, also rotated or compressed."""

_OBSERVED = ".jsonl"

OnProgress = Callable[[int, int, str], None]
"""Called with the bytes read, the bytes of all files, and the file's name."""


@dataclass(slots=True)
class ExtractionReport:
    """What an extraction did.

    `files` is the number of files that are read, by their names, `logs` that of logs of ours or the
    original's, `read` how many of them had new lines, `rows` the number of new results, `receipts` that of new receipts
    of events. `experiments` are the ids of the runs of these logs and receipts. `warnings` are about runs that are in
    the database but incomplete.
    """

    logs: int = 0
    read: int = 0
    rows: int = 0
    experiments: tuple[int, ...] = ()
    skipped: tuple[Skip, ...] = ()
    warnings: tuple[str, ...] = ()
    receipts: int = 0
    files: int = field(default=0, compare=False)


def extract(
    logs: Path,
    db: Path,
    hours: float | None = None,
    on_progress: OnProgress | None = None,
    tell: Tell = lambda _: None,
) -> ExtractionReport:
    """Read new lines of the logs and receipts in `logs`, a folder or a file, into the database `db`.

    With `hours`, files are skipped that are older by the time in their names. `tell` gets what a user who waits should
    know. Raises BenchError when the folder cannot
    be listed or the database cannot be used; the files before that are stored.
    """
    sizes = {path: _size(path) for path in _list(logs)}
    report = ExtractionReport(files=len(sizes))
    total, done = sum(sizes.values()), 0
    now = datetime.now(UTC)
    with open_store(db, tell) as store, store.writing():
        for path, size in sizes.items():
            name = log_format.clean(path.name)

            def progress(offset: int, name: str = name, done: int = done, size: int = size) -> None:
                if on_progress is not None:
                    on_progress(done + min(offset, size), total, name)  # a growing file may have more by now

            progress(0)
            try:
                _, written = naming.read_file_name(path.name)
                if hours is not None and written is not None and (now - written).total_seconds() > hours * 3600:
                    raise SkippedFile(f"older than {hours:g} h, by the time in its name", wanted=True)
                _take(store, path, name, progress, report)
            except SkippedFile as reason:
                report.logs += reason.is_known and not (is_csv(path) or path.suffix == _OBSERVED)
                report.skipped += (Skip(name, 0, str(reason), wanted=reason.wanted),)
            except OSError as error:
                report.skipped += (Skip(name, 0, f"cannot be read: {error.strerror or error}"),)
            done += size
            progress(size)
        report.experiments = tuple(dict.fromkeys(report.experiments + _with_receipts(store, report.receipts)))
        for experiment in report.experiments:
            report.warnings += tuple(reconcile.warnings_of(store, experiment))
    return report


def _take(store: Store, path: Path, name: str, on_progress: Callable[[int], None], report: ExtractionReport) -> None:
    """Read one file. Raises SkippedFile and OSError."""
    if not path.is_file():
        raise SkippedFile("not a file")
    if path.suffix not in (".log", ".csv", _OBSERVED):
        raise SkippedFile("a rotated or compressed file: unpack it, and name it as it was, to have it read")
    with path.open("rb") as file, store.transaction():
        source = _open(path, name, file)
        source.read(store, file, name, on_progress)
    report.skipped += tuple(source.skips)
    if isinstance(source, Receipts):
        report.receipts += source.new_rows
    elif isinstance(source, reconcile.RunLog):
        report.logs += 1
        report.read += source.new_lines > 0
        report.rows += source.new_rows
        report.experiments += (source.experiment_id,)


def _with_receipts(store: Store, receipts: int) -> tuple[int, ...]:
    """The runs that new receipts may belong to: all runs with receipts, if there are new ones."""
    sql = """
        SELECT id FROM experiments e
        WHERE EXISTS (SELECT 1 FROM results r JOIN events v ON v.event_id = r.event_id WHERE r.experiment_id = e.id)
    """
    return tuple(row["id"] for row in store.execute(sql)) if receipts else ()


def _list(logs: Path) -> list[Path]:
    if logs.is_file():
        return [logs]
    try:
        return sorted(path for path in logs.iterdir() if _INPUT.fullmatch(path.name))
    except OSError as error:
        raise BenchError(f"cannot read the logs in {logs}: {error.strerror}") from None


def _open(path: Path, name: str, file: BinaryIO) -> InputFile:
    """The source in a file. Raises SkippedFile."""
    if path.suffix == _OBSERVED:
        return Environment(file)
    return open_csv(path, file) if is_csv(path) else _open_log(name, file)


class _Opening(msgspec.Struct):
    """The parts of the first line of a log of any schema."""

    event: str = ""
    schema: int = 0


def _open_log(name: str, file: BinaryIO) -> reconcile.RunLog:
    """Tell a log by its first line. Raises SkippedFile."""
    first = file.readline(LONGEST_LINE)
    if not first:
        raise SkippedFile("empty")
    if not first.endswith(b"\n"):
        raise SkippedFile(NOT_A_LOG if len(first) == LONGEST_LINE else "its first line is incomplete")
    try:
        opening = msgspec.json.decode(first.removeprefix(BOM_UTF8), type=_Opening)
    except UNREADABLE:
        return OriginalLog(name, first)
    if opening.event not in log_format.EVENTS:
        raise SkippedFile(NOT_A_LOG)
    if opening.event != log_format.RUN_STARTED:
        raise SkippedFile(f"its first line is {opening.event}, not {log_format.RUN_STARTED}: the header is missing")
    if opening.schema > log_format.SCHEMA:
        raise SkippedFile(f"its schema {opening.schema} is newer than {log_format.SCHEMA}: update this program")
    try:
        return OurLog(first)
    except UNREADABLE as error:
        raise SkippedFile(f"its {log_format.RUN_STARTED} is incomplete: {error}") from None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
