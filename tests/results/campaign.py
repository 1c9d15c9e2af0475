"""A benchmark as users run it, made up: logs by the real writer, and the tables of other programs.

Six languages warm at several rates with repeats, cold starts in rounds, concurrency 1 with its 503s, events with
duplicates and losses, node and pod metrics; one invalid run, one without a trailer. The same seed gives the same bytes.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from pathlib import Path

from tests.log.blocks import encode
from tests.results import logs
from workload_generator.base.clock import NS_PER_MS, NS_PER_S, Anchor, rfc3339
from workload_generator.base.usage_tables import ConditionChange, Gap, Replicas, Row, Scale, schema_of, stamp
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind, Phase, Result
from workload_generator.results.database import columns_of, open_store
from workload_generator.results.ingest.extract import extract

LANGUAGES = {"go": 1.1, "rust": 1.0, "python": 4.2, "ts": 2.1, "quarkus": 2.2, "springboot": 3.1}
COLD_MS = {"go": 1332, "rust": 1353, "python": 1793, "ts": 1148, "quarkus": 2107, "springboot": 1021}
KNEE_RPS = {"go": 900, "rust": 1500, "python": 300, "ts": 500, "quarkus": 420, "springboot": 450}
RATES = (100, 200, 400, 800)
TRIGGERS = tuple(f"trigger-{number}" for number in range(4))


@dataclass(frozen=True)
class Made:
    """A run to be written."""

    prefix: str
    rps: float
    seconds: float
    start: Anchor
    results: list[Result]
    targets: list[str]
    mode: str = "open"
    verdict: str = "valid"
    reasons: tuple[str, ...] = ()
    whole: bool = True


@dataclass(frozen=True)
class Reported:
    """The files that `kn-bench report` wrote, and its output."""

    page: Path
    csv: Path
    text: str


def make_campaign(folder: Path, *, repeats: int = 5, seconds: float = 2.0, rates: tuple[int, ...] = RATES) -> Path:
    """Write the logs, extract them, add the other tables; returns the database."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(10)
    wall_ns = 1_770_000_000 * NS_PER_S
    runs: list[Made] = []
    for language in LANGUAGES:
        for rate in rates:
            for repeat in range(repeats):
                runs.append(_warm(draw, language, rate, seconds, Anchor(wall_ns, 0), repeat))
                wall_ns += int((seconds + 30) * NS_PER_S)
    for repeat in range(7):
        runs.append(_cold(draw, Anchor(wall_ns, 0), repeat))
        wall_ns += 1300 * NS_PER_S
    for _ in range(repeats):
        runs.append(_one_at_a_time(draw, seconds, Anchor(wall_ns, 0)))
        wall_ns += int((seconds + 30) * NS_PER_S)
    events = _events(draw, seconds, Anchor(wall_ns, 0))
    runs.append(events)
    for number, run in enumerate(runs):
        stamp = f"{rfc3339(run.start.wall_ns)[:19].replace('T', '_').replace(':', '-')}"
        (folder / f"{run.prefix}_{stamp}.log").write_bytes(_log(run, f"run-{number:03}"))
    db = folder / "benchmark.db"
    _write_receipts(folder, draw, events)
    extract(folder, db)
    _add_metrics(db, runs, draw)
    return db


def _url(language: str, kind: str = "empty") -> str:
    return f"http://{kind}-{language}-http-0.functions.svc.cluster.local"


def _warm(draw: random.Random, language: str, rate: int, seconds: float, start: Anchor, repeat: int) -> Made:
    load = rate / KNEE_RPS[language]
    slow = 1.0 if load < 0.9 else 2.5 + 8 * (load - 0.9)
    median = LANGUAGES[language] * slow * math.exp(draw.gauss(0, 0.04))
    ramp = rate // 4
    results = []
    for seq in range(int(rate * seconds) + ramp):
        phase = Phase.RAMP if seq < ramp else Phase.MEASURE
        due_ns = int(seq / rate * NS_PER_S)
        ms = min(29_000.0, draw.lognormvariate(math.log(median), 0.35))
        if draw.random() < 0.01:
            ms *= draw.paretovariate(1.6)
        fresh = seq % 97 == 0
        result = logs.served(
            seq, ms, phase, due_ns=due_ns, start_ns=due_ns + draw.randrange(5_000, 60_000), cold=seq == ramp + 3,
            reused=not fresh, dns_ns=400_000 if fresh else 0, connect_ns=250_000 if fresh else 0,
        )  # fmt: skip
        if seq == ramp + 3:
            cold_ns = int(COLD_MS[language] * NS_PER_MS)
            result = result._replace(ttfb_ns=cold_ns, total_ns=cold_ns)
        if load > 1.2 and draw.random() < 0.04 * load:
            kind = draw.choice((ErrorKind.TIMEOUT, ErrorKind.RESET, ErrorKind.CONNECT_REFUSED))
            result = logs.failed(seq, kind, phase=phase, due_ns=due_ns, start_ns=result.start_ns)
        elif load > 0.9 and draw.random() < 0.02:
            result = result._replace(status=503)
        results.append(result)
    broken = language == "python" and rate >= 800
    return Made(
        prefix=f"serving-scenario-1_{rate}rps_{language}",
        rps=rate,
        seconds=seconds,
        start=start,
        results=results,
        targets=[_url(language)],
        verdict="invalid" if broken and repeat == 0 else "valid",
        reasons=("lag p99 3.215 ms is above the limit of 1.000 ms",) if broken and repeat == 0 else (),
        whole=not (broken and repeat == 1),
    )


def _cold(draw: random.Random, start: Anchor, repeat: int) -> Made:
    results = []
    languages = list(LANGUAGES)
    seq = 0
    for round_ in range(20):
        for index, language in enumerate(languages):
            due_ns = round_ * 62 * NS_PER_S + index * 9 * NS_PER_S
            ms = COLD_MS[language] * draw.lognormvariate(0.02 * (repeat - 3), 0.12)
            if language == "springboot":  # probed once a second: the original's 1018, 1021, 1024
                ms = 1000 * draw.choices((1, 2), (9, 1))[0] + draw.gauss(21, 4)
            elif language == "quarkus" and draw.random() < 0.3:  # an image that was not there
                ms += 3100 + draw.gauss(0, 200)
            warm = draw.random() < 0.03
            result = logs.served(
                seq, 2.0 if warm else ms, target=index, due_ns=due_ns, start_ns=due_ns + 40_000, cold=not warm
            )
            if draw.random() < 0.01:
                result = logs.failed(seq, target=index, due_ns=due_ns, start_ns=due_ns + 40_000)
            results.append(result)
            seq += 1
    return Made(
        "serving-scenario-2_all", 0.016, 1240, start, results, [_url(each) for each in languages], mode="cold-start"
    )


def _one_at_a_time(draw: random.Random, seconds: float, start: Anchor) -> Made:
    rate = 400
    results = []
    for seq in range(int(rate * seconds)):
        due_ns = int(seq / rate * NS_PER_S)
        result = logs.served(seq, 1000 + draw.expovariate(1 / 900), due_ns=due_ns, start_ns=due_ns + 30_000)
        if draw.random() < 0.24:
            result = result._replace(status=503, ttfb_ns=12 * NS_PER_MS)
        results.append(result)
    return Made("serving-scenario-3_400rps_go", rate, seconds, start, results, [_url("go", "sleep")])


def _events(draw: random.Random, seconds: float, start: Anchor) -> Made:
    rate = 300
    results = [
        logs.served(
            seq, draw.lognormvariate(1.1, 0.3), due_ns=int(seq / rate * NS_PER_S), cold=None, status=202,
            start_ns=int(seq / rate * NS_PER_S) + 20_000, event_id=f"event-{seq}",
        )
        for seq in range(int(rate * seconds))
    ]  # fmt: skip
    return Made(
        "eventing-scenario-2_4triggers_300rps", rate, seconds, start, results, ["http://broker-ingress.knative"]
    )


def _log(run: Made, run_id: str) -> bytes:
    head = logs.header(run_id=run_id, prefix=run.prefix, name=run.prefix, targets=run.targets, rps=run.rps)
    head["experiment"]["mode"] = run.mode
    head["experiment"]["config"]["rate"]["duration"] = f"{run.seconds:g}s"
    head["events"] = {"id_prefix": f"{run_id}-", "clock": {"offset_ns": 0, "half_rtt_ns": 200_000}}
    head["start"] = {"wall": rfc3339(run.start.wall_ns), "monotonic_ns": 0}
    encoder = log_format.ResultEncoder(run.targets, run.start)
    lines = [encode(encoder, result, logs.is_ok(result)) for result in run.results]
    if run.mode == "cold-start":
        lines += [_cold_start(result, run) for result in run.results]
    last = [logs.trailer(run.results, run.verdict, run.reasons)] if run.whole else []
    return b"".join([logs.line(log_format.RUN_STARTED, head), *lines, *last])


PHASE_SHARES = {"scale": 0.05, "created": 0.06, "scheduled": 0.07, "started": 0.3, "queue_ready": 0.8, "ready": 0.85}
"""The points as shares of the time to the first byte."""


def _cold_start(result: Result, run: Made) -> bytes:
    """Events as of a watcher of the API: 1 of 40 has whole seconds; warm starts had an instance."""
    answered = result.ttfb_ns is not None and not result.error
    ms = (result.ttfb_ns or 0) / NS_PER_MS
    proven = bool(result.cold) if answered else None
    points = {name: round(ms * share, 3) for name, share in PHASE_SHARES.items()} if proven else {}
    if answered:
        points["first_byte"] = round(ms, 3)
    return logs.line(
        log_format.COLD_START,
        {
            "seq": result.seq, "time": rfc3339(run.start.wall_ns + result.start_ns),
            "target": run.targets[result.target], "source": "kubernetes", "zero": proven is not False,
            "zero_for": 10_000.0 if proven else None, "waited": 50.0,
            "instance": "pod-1" if answered else None, "cold": result.cold, "proven": proven,
            "reason": "" if proven else "an instance existed at the request: pod-1", "points": points, "error": 21.5,
            "grid": ["started"] if proven and result.seq % 40 == 0 else [], "clock": {"offset": 1.5, "error": 12.0},
        },
    )  # fmt: skip


def _write_receipts(folder: Path, draw: random.Random, run: Made) -> None:
    """Four triggers to one receiver, each with its own losses and duplicates; one receipt is missing."""
    lines = []
    for result in run.results:
        for trigger in TRIGGERS:
            delays = [int(draw.lognormvariate(4, 0.8) * NS_PER_MS)] * (draw.random() < 0.99)
            delays += [9 * NS_PER_S] * (draw.random() < 0.005)
            for delay_ns in delays:
                at = rfc3339(run.start.wall_ns + result.start_ns + delay_ns)
                lines.append(f"{result.event_id},{at},{trigger},receiver-0,1,{result.seq:012}\n")
    (folder / "events.csv").write_text("event_id,timestamp,trigger,instance,attempt,sequence\n" + "".join(lines))
    reports = (
        f"receiver-0,{rfc3339(run.start.wall_ns + seconds * NS_PER_S)},{len(lines) + 1},0,{len(lines)},0,400000\n"
        for seconds in (0, 300)
    )
    (folder / "instances.csv").write_text(
        "instance,timestamp,received,refused,acknowledged,offset_ns,half_rtt_ns\n" + "".join(reports)
    )


def _add_metrics(db: Path, runs: list[Made], draw: random.Random) -> None:
    nodes, pods = [], []
    for run in (runs[0], runs[len(runs) // 2], *runs[-3:]):
        for step in range(-4, int(run.seconds) + 10, 2):
            at = run.start.wall_ns + step * NS_PER_S
            busy = 0 <= step <= run.seconds
            for node in ("node-1", "node-2"):
                cpu = draw.randrange(10**9, 3 * 10**9) if busy else draw.randrange(10**8)
                text = rfc3339(at)[:23] + "Z"
                nodes.append((node, f"{cpu}n", f"{draw.randrange(2 * 10**6, 3 * 10**6)}Ki", cpu / 4e9, 0.3, text))
            for replica in range(1 + busy * min(4, int(run.rps) // 100)):
                name = f"{run.targets[0][7:].split('.')[0]}-00001-deployment-7d9f6c5b8-x{replica:04}"
                local = rfc3339(at + 3600 * NS_PER_S)[:19] + "+01:00"
                cpu = draw.randrange(10**7, 4 * 10**8)
                pods.append((name, "node-1", "user-container", f"{cpu}n", "20480Ki", 0.1, 0.01, local))
    with open_store(db) as store, store.transaction():
        store.execute(
            "CREATE TABLE node_metrics (id INTEGER PRIMARY KEY, node_name TEXT, cpu_usage TEXT, memory_usage TEXT, "
            "cpu_percentage REAL, memory_percentage REAL, timestamp TEXT)"
        )
        store.execute(
            "CREATE TABLE pod_metrics (id INTEGER PRIMARY KEY, pod_name TEXT, node_name TEXT, container_name TEXT, "
            "cpu_usage TEXT, memory_usage TEXT, cpu_percentage REAL, memory_percentage REAL, timestamp TEXT)"
        )
        for table, rows in _scaling(runs[0]).items():
            for statement in schema_of(table):
                store.execute(statement)
            store.insert_many(table, list(columns_of(store, table))[1:], rows)
        for table, rows in (("node_metrics", nodes), ("pod_metrics", pods)):
            store.insert_many(table, list(columns_of(store, table))[1:], rows)


def _scaling(run: Made) -> dict[str, list[Row]]:
    """One pod before the first run, then more of it and of a second revision, as `top` records them."""

    def at(seconds: float) -> str:
        return stamp(run.start.wall_ns + int(seconds * NS_PER_S))

    who = ("functions", "empty-go-http-0", "empty-go-http-0-00001")
    of = ("functions", "PodAutoscaler", who[2], who[1])
    other = ("functions", "empty-go-http-0", "empty-go-http-0-00002")
    return {
        "metric_gaps": [
            Gap(at(-300), "watch", "recording", 0, "began"),
            Gap(at(-100), "watch", "recording", 0, "ended"),
            Gap(at(-20), "watch", "recording", 0, "began"),
            Gap(at(1.9), "watch", "recording", 0, "ended"),
        ],
        "scales": [
            Scale(at(-20), *who, 1, 1, 1), Scale(at(0.4), *who, 4, 1, 0), Scale(at(1.2), *who, 4, 3, 0),
        ],
        "replicas": [
            Replicas(at(-290), *who, 0, 0, 9, 0, 1),  # of a recording before, and gone when the next one began
            Replicas(at(-19.9), *who, 0, 0, 1, 0, 1),
            Replicas(at(0.5), *who, 1, 0, 1, 0, 0), Replicas(at(0.7), *who, 0, 1, 1, 0, 0),
            Replicas(at(0.9), *other, 0, 0, 1, 0, 0), Replicas(at(1.1), *who, 0, 0, 2, 0, 0),
        ],
        "conditions": [
            ConditionChange(at(-20), *of, "Active", "Unknown", "Queued", None, None, 1),
            ConditionChange(at(0.4), *of, "Active", "True", "Traffic", None, None, 0),
        ],
    }  # fmt: skip
