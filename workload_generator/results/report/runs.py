"""The runs of a database: what was run, under which conditions, and whether its figures may be compared.

Rules:
- a run that is `invalid` or incomplete is marked and left out of comparisons, unless the user asks for it
- the original's runs have no verdict; they are compared, and marked `unjudged`
- runs are compared only under the same condition: scenario, rate, concurrency, triggers, workers, platform and arrival
  process
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from workload_generator.base.clock import NS_PER_MS, NS_PER_S, parse_duration
from workload_generator.base.histogram import Histogram
from workload_generator.experiment.thresholds import TIMES, ThresholdResult, judge_thresholds, threshold
from workload_generator.experiment.yaml_lines import Scalar
from workload_generator.functions import languages
from workload_generator.results.database import Store
from workload_generator.results.ingest import naming
from workload_generator.results.report.table import COUNT, TEXT, Value

VALID, INVALID, INCOMPLETE, UNJUDGED = "valid", "invalid", "incomplete", "unjudged"
UNKNOWN = "unknown"
COLD_START = "cold-start"

CONDITION_COLUMNS = TEXT("scenario", "rate") + TEXT("variant", brief=False)
GROUP_COLUMNS = CONDITION_COLUMNS + TEXT("language")
RUN_COLUMNS = COUNT("run") + GROUP_COLUMNS
"""What the rows of several tables begin with: `RunCondition.cells`, or `RecordedRun.cells`."""

_DEFAULT_TIMEOUT_MS = 30_000.0


class RunCondition(NamedTuple):
    """What must be the same for two languages to be compared; `platform` is empty when all runs share it."""

    scenario: str
    rate: float | None
    variant: str
    platform: str

    @property
    def rate_label(self) -> str:
        """`2,000 rps`, `closed loop` or `unknown rate`."""
        if self.rate is None:
            return "unknown rate"
        return f"{self.rate:,g} rps" if self.rate else "closed loop"

    @property
    def label(self) -> str:
        """For people: `serving-scenario-1, 2,000 rps`."""
        return _joined(self.scenario, self.rate_label, self.variant, self.platform)

    @property
    def order(self) -> tuple[object, ...]:
        """The sort key of conditions: serving first, then by rate."""
        rate = -1.0 if self.rate is None else self.rate
        return (not self.scenario.startswith("serving"), self.scenario, self.variant, self.platform, rate)

    @property
    def without_rate(self) -> str:
        """The label of a load curve, which has several rates."""
        return _joined(self.scenario, self.variant, self.platform)

    @property
    def cells(self) -> tuple[str, str, str]:
        """The values of `CONDITION_COLUMNS`."""
        return self.scenario, self.rate_label, self.variant


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A row of `experiments`, parsed."""

    id: int
    condition: RunCondition
    language: str | None
    state: str
    reasons: tuple[str, ...]
    mode: str
    started: str
    timeout: str
    path: str | None
    row: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def counts_in(self) -> bool:
        """Whether comparisons include the run by default."""
        return self.state in (VALID, UNJUDGED)

    @property
    def timeout_ms(self) -> float:
        """The timeout of a request."""
        try:
            return parse_duration(self.timeout) / NS_PER_MS
        except ValueError:
            return _DEFAULT_TIMEOUT_MS

    @property
    def planned_s(self) -> float:
        """The planned duration of the measure phase; 0 when it is unknown."""
        try:
            return parse_duration(self.row["duration"] or "") / NS_PER_S
        except ValueError:
            return 0.0

    @property
    def label(self) -> str:
        """`run 3`, with the state of a run that is not compared."""
        return f"run {self.id}" if self.counts_in else f"run {self.id} ({self.state})"

    def cells(self, language: str | None = None) -> tuple[Value, ...]:
        """The values of `RUN_COLUMNS`, for one of the run's languages or for all."""
        return self.id, *self.condition.cells, language or self.language or languages.ALL

    def language_of(self, target: str | None) -> str:
        """The language of one of its targets."""
        if self.language is not None:
            return self.language
        language = naming.language_of([target]) if target else None
        return languages.canonical(language) if language else UNKNOWN


@dataclass(frozen=True, slots=True)
class RunThresholds:
    """The thresholds of a run's experiment; `judged` is None when a shard's trailer is missing."""

    run: RecordedRun
    texts: tuple[str, ...]
    judged: tuple[ThresholdResult, ...] | None


def language_order(name: str) -> tuple[int, str]:
    """The sort key of languages: the catalog's order, then sinks and others by name."""
    known = languages.languages()
    return (known.index(name) if name in known else len(known)), name


def read_runs(store: Store, ids: Iterable[int] | None = None) -> list[RecordedRun]:
    """The runs with the ids `ids`, or all, by id."""
    wanted = None if ids is None else set(ids)
    rows = [dict(row) for row in store.execute("SELECT * FROM experiments ORDER BY id")]
    rows = [row for row in rows if wanted is None or row["id"] in wanted]
    several = len({row["platform"] for row in rows}) > 1
    paths = _read_paths(store)
    return [_run(row, f"on {row['platform'] or UNKNOWN}" if several else "", paths.get(row["id"])) for row in rows]


def read_thresholds(store: Store, run: RecordedRun) -> RunThresholds | None:
    """Judge the run's thresholds again, as after the run; None when its experiment has none."""
    texts = run.config.get("thresholds")
    if not isinstance(texts, list) or not texts:
        return None
    texts = tuple(str(text) for text in texts)
    try:
        wanted = [threshold(Scalar(text)) for text in texts]
    except ValueError:  # of a newer version
        return RunThresholds(run, texts, None)
    histograms = merged_histograms(store, run.id)
    counts = {name: run.row[name] for name in ("sent", "failed", "dropped")}
    if histograms is None or None in counts.values():
        return RunThresholds(run, texts, None)
    return RunThresholds(run, texts, judge_thresholds(wanted, counts, histograms))


def merged_histograms(store: Store, experiment: int) -> dict[str, Histogram] | None:
    """The histograms of a run's shards, merged, by name; None unless every shard has its trailer."""
    shards = store.execute("SELECT histograms, complete FROM shards WHERE experiment_id = ?", (experiment,))
    if not shards or not all(shard["complete"] and shard["histograms"] for shard in shards):
        return None
    whole: dict[str, Histogram] = {}
    try:
        for shard in shards:
            documents = orjson.loads(shard["histograms"]) or {}
            for name in TIMES:
                if name in documents:
                    whole.setdefault(name, Histogram()).merge(Histogram.from_json(documents[name]))
    except ValueError:  # another program's
        return None
    return whole


def _read_paths(store: Store) -> dict[int, str]:
    """The observed paths of runs by id: `activator → direct` when it changed, `activator, direct` for two targets."""
    runs: dict[int, dict[str, dict[str, None]]] = {}
    for run, service, path in store.execute("SELECT experiment_id, service, path FROM observed_paths ORDER BY time"):
        runs.setdefault(run, {}).setdefault(service, {})[path] = None
    return {run: ", ".join(sorted({" → ".join(each) for each in paths.values()})) for run, paths in runs.items()}


def _run(row: dict[str, Any], platform: str, path: str | None) -> RecordedRun:
    config = _json(row.get("config"), {})
    language = row["language"]
    rate = row["rps"] if row["rps"] is not None else row["requests_per_second"]
    return RecordedRun(
        id=row["id"],
        condition=RunCondition(
            scenario=row["scenario"] or row["name"] or row["prefix"] or "unnamed",
            rate=float(rate) if isinstance(rate, int | float) else None,
            variant=_variant(row, config),
            platform=platform,
        ),
        language=languages.canonical(language) if language not in (None, languages.ALL) else None,
        state=_state(row),
        reasons=tuple(str(reason) for reason in _json(row.get("reasons"), [])),
        mode=row["mode"] or UNKNOWN,
        started=row["timestamp"] or "",
        timeout=row["timeout"] or "30s",
        path=path,
        row=row,
        config=config,
    )


def _state(row: Mapping[str, Any]) -> str:
    if row["verdict"] == "invalid":
        return INVALID
    if row["run_id"] is None:
        return UNJUDGED
    if row["complete"] != 1:
        return INCOMPLETE
    return VALID if row["verdict"] == "valid" else UNJUDGED


def _variant(row: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    """The rest of the condition: `2 triggers, poisson arrivals`."""
    parts = [f"concurrency {row['concurrency']}"] if row["concurrency"] else []
    parts += [f"{row[name]} {name}" for name in ("triggers", "workers") if row[name]]
    arrival = (config.get("rate") or {}).get("arrival") or {}
    process = str(arrival.get("process", "constant")) if isinstance(arrival, dict) else "constant"
    if process != "constant":
        parts.append(f"{process} arrivals")
    if row["mode"] == COLD_START:
        parts.append("cold starts")
    return ", ".join(parts)


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _json(text: str | None, default: Any) -> Any:
    try:
        value = orjson.loads(text or "null")
    except orjson.JSONDecodeError:
        return default
    return value if isinstance(value, type(default)) else default
