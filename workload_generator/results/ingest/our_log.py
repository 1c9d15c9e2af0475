"""Our logs: each line is a struct, which checks it and gives its rows."""

from __future__ import annotations

import re
from codecs import BOM_UTF8
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Raw, Struct, field
from msgspec.structs import asdict, astuple

from workload_generator.base.clock import parse_rfc3339
from workload_generator.coldstart.proof import POINTS
from workload_generator.log import format as log_format
from workload_generator.results.ingest import naming
from workload_generator.results.ingest.files import EndOfRun, OtherRow, Row
from workload_generator.results.ingest.reconcile import RunLog

_MOST_SHARDS = 100_000

Whole = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Count = Annotated[int, Meta(ge=0, le=2**45)]
"""Of arrivals: SQLite's integers hold the sum over all shards."""
Number = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Ms = float | None
Duration = Annotated[float, Meta(ge=0)] | None
Text = str | None
Flat = dict[str, Number | float | str | None]


_TIME = re.compile(r"([0-9-]{10}T[0-9:]{8})(?:\.[0-9]{6,9})?Z")  # as queries read it
_MOST_SECONDS = 10_000
_seconds: set[str] = set()  # that were checked, with the point behind them


def check_time(text: str) -> None:
    """Raise ValueError unless it is a time as logs have it, `2025-02-09T10:11:12.123456Z`, or one in whole seconds."""
    second = text[:20]
    if second in _seconds and text[20:26].isdecimal() and text[26:] == "Z" and text.isascii():
        return
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a time")
    parse_rfc3339(f"{match[1]}Z")
    if len(_seconds) >= _MOST_SECONDS:
        _seconds.clear()
    if second[-1] == ".":
        _seconds.add(second)


class _Line(Struct, tag_field="event"):
    """A line with a time; its fields are columns."""

    timestamp: str = field(name="time")

    def __post_init__(self) -> None:
        """Check the time."""
        check_time(self.timestamp)


class _Request(_Line, tag=log_format.REQUEST):
    """A result."""

    status: Annotated[int, Meta(ge=0, le=999)]
    ttfb: Duration
    total_time: Duration = field(name="total")
    is_cold: bool | None = field(name="cold")
    dns_time: Duration = field(name="dns")
    connect_time: Duration = field(name="connect")
    tls_time: Duration = field(name="tls")
    target: str
    seq: Number
    phase: Literal["ping", "ramp", "measure"]
    lag: Ms
    reused: bool | None
    retries: Whole
    bytes: Whole
    stamp: Text
    segments: Whole | None = None
    instance: Text = None
    error_message: Text = field(name="message", default=None)
    event_id: Text = None
    error_kind: Text = field(name="error", default=None)
    ok: bool = field(name="expected", default=True)

    def __post_init__(self) -> None:
        """A response in one segment is logged without their number."""
        check_time(self.timestamp)
        if self.error_kind is not None:
            self.ok = False
        if self.segments is None and self.stamp == "kernel":
            self.segments = 1


class _FromZero(_Line):
    """What lines of cold starts share."""

    seq: Number
    target: Text
    source: Text
    zero: bool | None
    zero_for: Duration
    waited: Duration


class _ApiClock(Struct):
    """The API server's clock against the generator's."""

    offset: Ms = None
    error: Duration = None


class _ColdStart(_FromZero, tag=log_format.COLD_START):
    """The proof and the phases of a cold start."""

    instance: Text
    is_cold: bool | None = field(name="cold")
    cold_proven: bool | None = field(name="proven")
    reason: Text
    error: Duration
    points: dict[str, Ms]
    grid: list[str]
    errors: dict[str, Duration] = {}
    clock: _ApiClock | None = None

    def rows(self) -> list[OtherRow]:
        """Its row."""
        row = asdict(self)
        clock = row.pop("clock") or _ApiClock()
        row |= {f"clock_{name}": value for name, value in asdict(clock).items()}
        row |= dict.fromkeys(POINTS) | {name: at for name, at in row.pop("points").items() if name in POINTS}
        return [("cold_starts", row | {"errors": _json(self.errors), "grid": _json(self.grid)})]


class _BurstInstance(Struct):
    """An instance during a burst; times in ms since the send."""

    instance: str
    created: Ms
    ready: Ms
    gone: Ms
    error: Duration


class _ColdBurst(_FromZero, tag=log_format.COLD_BURST):
    """A burst of requests at zero."""

    requests: Count
    instances: list[_BurstInstance]

    def __post_init__(self) -> None:
        """An instance is listed once."""
        super().__post_init__()
        if len({each.instance for each in self.instances}) < len(self.instances):
            raise ValueError("an instance is listed twice")

    def rows(self) -> list[OtherRow]:
        """Its row, and one for each instance."""
        row = asdict(self)
        instances = row.pop("instances")
        return [
            ("cold_bursts", row),
            *(("cold_burst_instances", {"seq": self.seq, **asdict(each)}) for each in instances),
        ]


class _Started(Struct):
    """The measured arrivals so far."""

    planned: Count
    started: Count


class _Progress(_Line, tag=log_format.PROGRESS):
    """A heartbeat."""

    measure: _Started

    def columns(self) -> dict[str, object]:
        """Columns of the shard."""
        return {"heartbeat": _json({"time": self.timestamp, **asdict(self.measure)})}


class _PhaseCounts(Struct):
    """The counts of a phase."""

    planned: Count
    sent: Count
    ok: Count
    failed: Count
    dropped: Count
    cold: dict[str, Count] = {}

    def __post_init__(self) -> None:
        """Check the sum."""
        if self.ok + self.failed != self.sent:
            raise ValueError(f"{self.ok} ok and {self.failed} failed are not the {self.sent} sent")


class _RunFinished(Struct, tag_field="event", tag=log_format.RUN_FINISHED):
    """The trailer."""

    counts: dict[str, dict[str, Count | dict[str, Count]] | Count]
    verdict: str
    reasons: list[str]
    histograms: dict[str, Flat] | None = None
    resources: Flat | None = None

    def __post_init__(self) -> None:
        """Check the counts."""
        _ = self.measured

    @property
    def measured(self) -> _PhaseCounts:
        """The counts of the measure phase. Raises ValueError."""
        measured = msgspec.convert(self.counts, dict[str, _PhaseCounts | Count]).get("measure")
        if not isinstance(measured, _PhaseCounts):
            raise ValueError("no counts of the measure phase")
        return measured

    def columns(self) -> dict[str, object]:
        """Columns of the shard."""
        counts = asdict(self.measured)
        cold = counts.pop("cold")
        is_known = cold.get("true") or cold.get("false")
        counts |= {name: _json(getattr(self, name)) for name in ("counts", "reasons", "histograms", "resources")}
        counts |= {"verdict": self.verdict, "complete": 1, "missing": 0}
        return counts | {"cold": cold.get("true", 0) if is_known else None}


class _Shard(Struct):
    """The shard that wrote the log."""

    index: Count
    count: Annotated[int, Meta(le=_MOST_SHARDS)]

    def __post_init__(self) -> None:
        """Check the index."""
        if self.index >= self.count:
            raise ValueError(f"shard {self.index} of {self.count}")


class _Experiment(Struct):
    """The resolved experiment."""

    name: str
    config: Raw
    config_sha256: Text = field(name="sha256", default=None)
    mode: Text = None


class RateColumns(Struct, rename="camel"):
    """The parts of `rate` that are columns."""

    requests_per_second: float | None = None
    duration: Text = None
    max_idle_conns: Number | None = None
    max_idle_conns_per_host: Number | None = None
    idle_conn_timeout: Text = None
    timeout: Text = None


class _Target(Struct):
    """A target."""

    url: str


class _Config(Struct):
    """The parts of an experiment's configuration that are columns."""

    targets: Annotated[list[_Target], Meta(min_length=1)]
    rate: RateColumns


class _Start(Struct):
    """The start of the run."""

    wall: str


class _LoggerClock(Struct):
    """The lead of the generator's clock over the event logger's."""

    clock_offset_ns: Number | None = field(name="offset_ns", default=None)
    clock_half_rtt_ns: Number | None = field(name="half_rtt_ns", default=None)


class _Events(Struct):
    """Event mode."""

    clock: _LoggerClock | None = None


class _RunStarted(Struct, tag_field="event", tag=log_format.RUN_STARTED):
    """The header."""

    run_id: str
    shard: _Shard
    experiment: _Experiment
    prefix: str
    start: _Start
    events: _Events | None = None
    seed: Number | None = None
    version: Text = None
    platform: Text = None
    host: Text = None
    python: Text = None
    cpu_limit: float | None = None


_decode = msgspec.json.Decoder(_RunStarted | _Request | _Progress | _ColdStart | _ColdBurst | _RunFinished).decode


class OurLog(RunLog):
    """A log of this generator, by its first line, which is a `run_started`. Raises one of `UNREADABLE`."""

    format = "workload-generator"
    columns = (*_Request.__struct_fields__, "experiment_id", "shard")
    unreadable = "not a line of a workload-generator log"

    def __init__(self, first: bytes) -> None:
        header = _decode(first.removeprefix(BOM_UTF8))
        assert isinstance(header, _RunStarted)
        config = msgspec.json.decode(header.experiment.config, type=_Config)
        check_time(header.start.wall)
        super().__init__(f"{header.run_id}/{header.shard.index}", len(first))
        self.run_id, self.shard, self.shards = header.run_id, header.shard.index, header.shard.count
        name, targets = header.experiment.name, [target.url for target in config.targets]
        names = naming.read_name(name) | naming.read_name(header.prefix)
        in_event_mode = header.events is not None
        self.experiment: dict[str, object] = {
            "scenario": name,
            "language": naming.sink_of(targets[0]) if in_event_mode else naming.language_of(targets),
            "rps": config.rate.requests_per_second,
            **names,
            **asdict(config.rate),
            **asdict(header.experiment),
            **{each: getattr(header, each) for each in ("run_id", "prefix", "seed", "version", "platform")},
            "config": bytes(header.experiment.config).decode(),
            "timestamp": header.start.wall,
            "shards": self.shards,
        }
        clock = (header.events and header.events.clock) or _LoggerClock()
        self.origin = {each: getattr(header, each) for each in ("host", "python", "cpu_limit")} | asdict(clock)
        self.origin["started"] = header.start.wall

    def take(self, line: bytes) -> Row | Iterable[OtherRow]:
        """The row of a result, or those of a cold start."""
        doc = _decode(line)
        if isinstance(doc, _Request):
            return astuple(doc) + self.mine
        if isinstance(doc, _ColdStart | _ColdBurst):
            own = {"experiment_id": self.experiment_id, "shard": self.shard}
            return [(table, row | own) for table, row in doc.rows()]
        if isinstance(doc, _RunStarted):
            if (doc.run_id, doc.shard.index) == (self.run_id, self.shard):
                raise ValueError("the first line once more")
            raise EndOfRun("another run begins here: the rest of the file is skipped")
        self.found |= doc.columns()
        return []


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
