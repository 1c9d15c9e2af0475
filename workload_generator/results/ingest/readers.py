"""Log lines → rows, with one reader for our logs and one for the original's.

A reader is made from a file's first line. It keeps no state that a later extraction would miss: reading a file in
pieces gives the same rows as reading it at once.

A reader has these attributes:
- `format`, and `has_header`: the first line describes the file
- `identity`: the same for every copy of the file
- `run_id`, `shard`, and `shards`: how many the run has
- `experiment`: columns of the table `experiments`; `origin`: columns of `shards`, where and when the log was written
- `moments`: the seconds at which the original's own database may have this run; none for our logs
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import itemgetter
from typing import Any

import orjson

from workload_generator.log import format as log_format
from workload_generator.results.ingest import cold_start_lines, naming, original
from workload_generator.results.ingest.files import SkippedFile

FORMAT = "workload-generator"
ORIGINAL_FORMAT = "original"
RESULTS = "results"
NOT_A_LOG = "neither a log of this generator nor of the original"

Row = tuple[object, ...]


@dataclass(slots=True)
class LogBatch:
    """The content of some lines. `groups` are tables, columns and rows to insert, in the order of the log.

    `read` is the number of lines taken: fewer than given when another run begins among them. `bad` are skipped lines,
    by number and reason. `settings` are columns of the experiment.
    """

    groups: list[tuple[str, tuple[str, ...], list[Row]]] = field(default_factory=list)
    read: int = 0
    bad: list[tuple[int, str]] = field(default_factory=list)
    heartbeat: dict[str, Any] | None = None
    trailer: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def results(self) -> int:
        """The number of results."""
        return sum(len(rows) for table, _, rows in self.groups if table == RESULTS)


def open_reader(file: str, first: bytes) -> LogReader:
    """The reader for the file named `file` whose first line is `first`. Raises SkippedFile."""
    try:
        doc = log_format.decode(first)
    except log_format.LogFormatError:
        fields = original.parse(log_format.text_of(first.rstrip(b"\r\n")))
        if fields is None:
            raise SkippedFile(NOT_A_LOG) from None
        return OriginalReader(file, first, fields)
    if doc["event"] != log_format.RUN_STARTED:
        raise SkippedFile(f"its first line is {doc['event']}, not {log_format.RUN_STARTED}: the header is missing")
    return OurReader(doc)


# Ours

_SERVED: tuple[str, ...] = (
    "timestamp", "status", "ttfb", "total_time", "is_cold", "dns_time", "connect_time", "tls_time", "target", "seq",
    "phase", "lag", "reused", "retries", "bytes", "stamp", "segments", "instance", "ok",
)  # fmt: skip
_FULL: tuple[str, ...] = (*_SERVED, "error_message", "event_id", "error_kind")

_TIMES = frozenset(("ttfb", "total_time", "dns_time", "connect_time", "tls_time", "lag"))
_null = type(None)
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(_TIMES, (float, _null)),
    **dict.fromkeys(("timestamp", "target", "phase"), (str,)),
    **dict.fromkeys(("stamp", "instance", "error_message", "event_id", "error_kind"), (str, _null)),
    **dict.fromkeys(("status", "seq", "retries", "bytes", "ok"), (int,)),
    **dict.fromkeys(("is_cold", "reused", "segments"), (int, _null)),
}

_get = itemgetter(
    "time", "status", "ttfb", "total", "cold", "dns", "connect", "tls", "target", "seq", "phase", "lag", "reused",
    "retries", "bytes", "stamp",
)  # fmt: skip
_BIT = {None: None, False: 0, True: 1}
_SEGMENTS = {"kernel": 1}  # where the log does not say a number
_PHASES = frozenset(("ping", "ramp", "measure"))
_LIMIT = 2**63  # of SQLite's integers
_MOST_SHARDS = 100_000
_COUNTS = ("planned", "sent", "ok", "failed", "dropped")


class OurReader:
    """Reads the logs of this generator."""

    format = FORMAT
    has_header = True
    moments: tuple[str, ...] = ()

    def __init__(self, header: dict[str, Any]) -> None:
        try:
            if header["schema"] > log_format.SCHEMA:
                raise SkippedFile(
                    f"its schema {header['schema']} is newer than {log_format.SCHEMA}: update this program"
                )
            self._open(header)
        except SkippedFile:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise SkippedFile(f"its {log_format.RUN_STARTED} is incomplete: {type(error).__name__} {error}") from None

    def _open(self, header: dict[str, Any]) -> None:
        experiment = header["experiment"]
        config, rate = experiment["config"], experiment["config"]["rate"]
        self.run_id: str | None = str(header["run_id"])
        self.shard, self.shards = int(header["shard"]["index"]), int(header["shard"]["count"])
        if not 0 <= self.shard < self.shards <= _MOST_SHARDS:
            raise ValueError(f"shard {self.shard} of {self.shards}")
        self.identity = f"{self.run_id}/{self.shard}"
        names = naming.read_name(header["prefix"]).otherwise(naming.read_name(experiment["name"]))
        targets = [target["url"] for target in config["targets"]]
        events = header.get("events") or {}
        self.experiment: dict[str, object] = {
            **asdict(names),
            **{column: rate.get(key) for column, key in original.RATE_COLUMNS.items()},
            "timestamp": header["start"]["wall"],
            "language": names.language or (naming.sink_of(targets[0]) if events else naming.language_of(targets)),
            "scenario": names.scenario or experiment["name"],
            "rps": rate.get("requestsPerSecond") if names.rps is None else names.rps,
            "run_id": self.run_id,
            "name": experiment["name"],
            "mode": experiment.get("mode"),
            "prefix": header["prefix"],
            "seed": header.get("seed"),
            "config": orjson.dumps(config).decode(),
            "config_sha256": experiment.get("sha256"),
            "version": header.get("version"),
            "platform": header.get("platform"),
            "shards": self.shards,
        }
        self.origin: dict[str, object] = {
            "started": header["start"]["wall"],
            "host": header.get("host"),
            "python": header.get("python"),
            "cpu_limit": header.get("cpu_limit"),
        }
        clock = events.get("clock") or {}
        self.origin |= {f"clock_{name}": clock.get(name) for name in ("offset_ns", "half_rtt_ns")}
        for column, value in (*self.experiment.items(), *self.origin.items()):
            in_range = not isinstance(value, int) or -_LIMIT <= value < _LIMIT
            if not (isinstance(value, str | float | int | None) and in_range):
                raise TypeError(f"{column} is not a plain value")
        self._shapes: set[tuple[type, ...]] = set()

    def read(self, lines: Sequence[bytes], number: int) -> LogBatch:
        """Take whole lines, the first of which is line `number` of the file."""
        batch = LogBatch(read=len(lines))
        decode, shapes = log_format.decode, self._shapes
        rows: list[Row] = []
        columns: tuple[str, ...] = ()
        for at, line in enumerate(lines):
            try:
                doc = decode(line)
                if doc["event"] != log_format.REQUEST:
                    if doc["event"] == log_format.RUN_STARTED:
                        batch.read = at
                        break
                    _note(batch, doc)
                    continue
                (
                    time, status, ttfb, total, cold, dns, connect, tls, target, seq, phase, lag, reused, retries, size,
                    stamp,
                ) = _get(doc)  # fmt: skip
                get = doc.get
                message, event_id, error = get("message"), get("event_id"), get("error")
                if phase not in _PHASES or (seq | status | retries | size) >> 63 > 0:
                    raise ValueError("a value is out of range")
                row: Row = (
                    time, status, ttfb, total, _BIT[cold], dns, connect, tls, target, seq, phase, lag, _BIT[reused],
                    retries, size, stamp, get("segments", _SEGMENTS.get(stamp)), get("instance"),
                    _BIT[get("expected", True)] if error is None else 0,
                )  # fmt: skip
                wanted = _SERVED
                if not (message is event_id is error is None):
                    row, wanted = (*row, message, event_id, error), _FULL
                shape = tuple(map(type, row))
                if shape not in shapes:
                    row = _checked(wanted, row)
                    shapes.add(tuple(map(type, row)))
            except log_format.LogFormatError as problem:
                batch.bad.append((number + at, str(problem)))
                continue
            except (KeyError, TypeError, ValueError, AttributeError) as problem:
                batch.bad.append((number + at, f"incomplete line: {type(problem).__name__} {problem}"))
                continue
            if wanted is not columns:
                rows, columns = [], wanted
                batch.groups.append((RESULTS, columns, rows))
            rows.append(row)
        return batch


def _checked(columns: Sequence[str], row: Row) -> Row:
    """The row, with times as floats: other programs may write `0` for `0.000`. Raises TypeError."""
    values = [float(v) if type(v) is int and c in _TIMES else v for c, v in zip(columns, row, strict=True)]
    for column, value in zip(columns, values, strict=True):
        if type(value) not in _TYPES[column]:
            raise TypeError(f"{column} is a {type(value).__name__}")
    return tuple(values)


def _note(batch: LogBatch, doc: dict[str, Any]) -> None:
    """Take a heartbeat, a cold start or a trailer. Raises KeyError or TypeError for an incomplete one."""
    if doc["event"] == log_format.COLD_START:
        batch.groups.append(cold_start_lines.group_of_start(doc))
        return
    if doc["event"] == log_format.COLD_BURST:
        batch.groups += cold_start_lines.groups_of_burst(doc)
        return
    if doc["event"] == log_format.PROGRESS:
        measured = doc["measure"]
        if type(doc["time"]) is not str:
            raise TypeError("time is not text")
        counts = {name: _count(measured[name]) for name in ("planned", "started")}
        batch.heartbeat = {"time": doc["time"], **counts}
        return
    for phase in doc["counts"].values():
        if isinstance(phase, dict):
            for count in (*(phase[name] for name in _COUNTS), *phase.get("cold", {}).values()):
                _count(count)
    if not isinstance(doc["counts"]["measure"], dict):
        raise TypeError("no counts of the measure phase")
    if type(doc["verdict"]) is not str or not isinstance(doc["reasons"], list):
        raise TypeError("the verdict is not a word with reasons")
    batch.trailer = doc


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < _LIMIT:
        raise TypeError(f"{value!r} is not a count")
    return value


# The original's


class OriginalReader:
    """Reads the logs of the original, whose names tell the experiment."""

    format = ORIGINAL_FORMAT
    has_header = False

    def __init__(self, file: str, first: bytes, fields: dict[str, str]) -> None:
        self.identity = f"sha256:{hashlib.sha256(first.rstrip()).hexdigest()}"
        self.run_id: str | None = None
        self.shard, self.shards = 0, 1
        try:
            started = original.timestamp(fields["time"])
        except ValueError as error:
            raise SkippedFile(f"its first line: {error}") from None
        prefix, begun = naming.read_file_name(file)
        self.moments: tuple[str, ...] = (started[:19],)
        if begun is not None:
            self.moments += (f"{begun:%Y-%m-%dT%H:%M:%S}",)
        names = asdict(naming.read_name(prefix))
        self.experiment: dict[str, object] = {"timestamp": started, **names, "prefix": prefix, "shards": 1}
        self.origin: dict[str, object] = {"started": started}

    def read(self, lines: Sequence[bytes], number: int) -> LogBatch:
        """Take whole lines, the first of which is line `number` of the file."""
        batch = LogBatch(read=len(lines))
        rows: list[Row] = []
        for at, line in enumerate(lines, number):
            fields = original.parse(log_format.text_of(line.rstrip(b"\r\n")))
            if fields is None:
                batch.bad.append((at, "not a line of the original's log"))
                continue
            try:
                row = original.row_of(fields)
            except (KeyError, ValueError) as problem:
                batch.bad.append((at, f"incomplete line of the original's log: {type(problem).__name__} {problem}"))
                continue
            if row is not None:
                rows.append(row)
            elif fields["msg"] == original.LOADED and "config" in fields:
                config = fields["config"]
                batch.settings = {**original.settings(config), "config": orjson.dumps(config).decode()}
        if rows:
            batch.groups.append((RESULTS, original.COLUMNS, rows))
        return batch


LogReader = OurReader | OriginalReader
