"""The runs of a database: what was run, under which conditions, and whether its figures may be compared.

Rules:
- a run whose verdict is `invalid`, or that is not complete, is marked and enters no comparison unless asked for
- the original's runs have no verdict: nobody judged them; they are compared, and said to be unjudged
- what is compared has to be alike: scenario, rate, concurrency, triggers, workers, platform and how arrivals came
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import orjson

from workload_generator.base.clock import NS_PER_MS, parse_duration
from workload_generator.functions import languages
from workload_generator.results.database import Store
from workload_generator.results.ingest import naming

VALID, INVALID, INCOMPLETE, UNJUDGED = "valid", "invalid", "incomplete", "unjudged"
UNKNOWN = "unknown"
COLD_START = "cold-start"

_DEFAULT_TIMEOUT_MS = 30_000.0


class Condition(NamedTuple):
    """What has to be the same for two languages to be compared; `platform` is empty when all runs share it."""

    scenario: str
    rate: float | None
    variant: str
    platform: str

    @property
    def rate_label(self) -> str:
        """`2,000 rps`, `closed loop`, or that nobody knows."""
        if self.rate is None:
            return "unknown rate"
        return f"{self.rate:,g} rps" if self.rate else "closed loop"

    @property
    def label(self) -> str:
        """For people: `serving-scenario-1, 2,000 rps`."""
        return _joined(self.scenario, self.rate_label, self.variant, self.platform)

    @property
    def order(self) -> tuple[object, ...]:
        """By which conditions are listed: serving first, then by rate."""
        rate = -1.0 if self.rate is None else self.rate
        return (not self.scenario.startswith("serving"), self.scenario, self.variant, self.platform, rate)

    @property
    def without_rate(self) -> str:
        """The same for what has several rates."""
        return _joined(self.scenario, self.variant, self.platform)


@dataclass(frozen=True, slots=True)
class Run:
    """One row of `experiments`, read."""

    id: int
    condition: Condition
    language: str | None
    state: str
    reasons: tuple[str, ...]
    mode: str
    started: str
    timeout: str
    row: Mapping[str, Any]
    config: Mapping[str, Any]

    @property
    def counts_in(self) -> bool:
        """Whether it may be compared without having been asked for."""
        return self.state in (VALID, UNJUDGED)

    @property
    def timeout_ms(self) -> float:
        """What a failed arrival waited at most."""
        try:
            return parse_duration(self.timeout) / NS_PER_MS
        except ValueError:
            return _DEFAULT_TIMEOUT_MS

    @property
    def label(self) -> str:
        """`run 3`, with what has to be known of it."""
        return f"run {self.id}" if self.counts_in else f"run {self.id} ({self.state})"

    def language_of(self, target: str | None) -> str:
        """Of one of its targets."""
        if self.language is not None:
            return self.language
        found = naming.language_of([target]) if target else None
        return languages.canonical(found) if found else UNKNOWN


def read_runs(store: Store, ids: Iterable[int] | None = None) -> list[Run]:
    """The runs with the ids `ids`, or all, in their order."""
    wanted = None if ids is None else set(ids)
    rows = [dict(row) for row in store.execute("SELECT * FROM experiments ORDER BY id")]
    rows = [row for row in rows if wanted is None or row["id"] in wanted]
    several = len({row["platform"] for row in rows}) > 1
    return [_run(row, f"on {row['platform'] or UNKNOWN}" if several else "") for row in rows]


def _run(row: dict[str, Any], platform: str) -> Run:
    config = _json(row.get("config"), {})
    language = row["language"]
    rate = row["rps"] if row["rps"] is not None else row["requests_per_second"]
    condition = Condition(
        scenario=row["scenario"] or row["name"] or row["prefix"] or "unnamed",
        rate=float(rate) if isinstance(rate, int | float) else None,
        variant=_variant(row, config),
        platform=platform,
    )
    return Run(
        id=row["id"],
        condition=condition,
        language=languages.canonical(language) if language not in (None, languages.ALL) else None,
        state=_state(row),
        reasons=tuple(str(reason) for reason in _json(row.get("reasons"), [])),
        mode=row["mode"] or UNKNOWN,
        started=row["timestamp"] or "",
        timeout=row["timeout"] or "30s",
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
    """What else the condition holds, as people say it."""
    parts = []
    if row["concurrency"]:
        parts.append(f"concurrency {row['concurrency']}")
    parts += [f"{row[name]} {name}" for name in ("triggers", "workers") if row[name]]
    process = arrival_process(config)
    if process != "constant":
        parts.append(f"{process} arrivals")
    if row["mode"] == COLD_START:
        parts.append("cold starts")
    return ", ".join(parts)


def arrival_process(config: Mapping[str, Any]) -> str:
    """The process that made the schedule, by the name it has in the experiment."""
    arrival = (config.get("rate") or {}).get("arrival") or {}
    return str(arrival.get("process", "constant")) if isinstance(arrival, dict) else "constant"


def _joined(*parts: str) -> str:
    return ", ".join(part for part in parts if part)


def _json(text: str | None, default: Any) -> Any:
    try:
        value = orjson.loads(text or "null")
    except orjson.JSONDecodeError:
        return default
    return value if isinstance(value, type(default)) else default
