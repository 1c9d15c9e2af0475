"""The summary of a run: one set of figures, as text and as JSON."""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from workload_generator.base.clock import NS_PER_S, format_duration
from workload_generator.base.histogram import BEYOND, QUANTILES, Histogram
from workload_generator.base.terminal import escape, terminal_table
from workload_generator.base.verdict import Verdict
from workload_generator.experiment.thresholds import ThresholdResult, judge_thresholds
from workload_generator.log.format import clean
from workload_generator.run.plan import RunPlan

_TIMES = {"ttfb": "TTFB", "corrected_ttfb": "corrected TTFB", "lag": "lag"}


@dataclass(frozen=True, slots=True)
class RunSummary:
    """The measured part of one run.

    `counts` is that phase of the trailer; `histograms` has at least `ttfb`, `corrected_ttfb` and `lag`. `measured_ns`
    ends at the planned end, or at the last start when that came later. `stopped_by` is the signal that stopped the run,
    or None.
    """

    plan: RunPlan
    logs: tuple[Path, ...]
    counts: dict[str, Any]
    missed_rounds: int
    measured_ns: int
    histograms: Mapping[str, Histogram]
    verdict: Verdict
    thresholds: tuple[ThresholdResult, ...] = ()
    stopped_by: signal.Signals | None = None

    @property
    def passed(self) -> bool:
        """Whether the verdict is valid, every threshold was met, and something was answered."""
        return self.verdict.valid and self.silence is None and all(each.passed for each in self.thresholds)

    @property
    def answered(self) -> int:
        """Requests with a response, whatever its status."""
        return sum(self.counts["statuses"].values())

    @property
    def silence(self) -> str | None:
        """What happened if nothing was answered, in a line."""
        sent = self.counts["sent"]
        if self.answered or not sent:
            return None
        errors = ", ".join(f"{kind} {count:,} of {sent:,}" for kind, count in self.counts["errors"].items())
        question = "" if set(self.counts["errors"]) == {"cancelled"} else ": is the platform up?"
        return f"nothing was answered ({errors}){question}"

    @property
    def achieved_rps(self) -> float:
        """Requests sent per second of the measure phase."""
        return self.counts["sent"] * NS_PER_S / self.measured_ns if self.measured_ns else 0.0

    @classmethod
    def merge(cls, plan: RunPlan, parts: Mapping[int, RunSummary], stopped_by: signal.Signals | None) -> RunSummary:
        """The shards of one run, by index, as one: counts and histograms are added, reasons name their shard."""
        first = next(iter(parts.values()))
        merged = {name: Histogram() for name in first.histograms}
        for name, histogram in merged.items():
            for part in parts.values():
                histogram.merge(part.histograms[name])
        counts = _added([part.counts for part in parts.values()])
        reasons = [f"shard {index}: {why}" for index, part in parts.items() for why in part.verdict.reasons]
        return cls(
            plan,
            logs=tuple(log for part in parts.values() for log in part.logs),
            counts=counts,
            missed_rounds=first.missed_rounds,
            measured_ns=max(part.measured_ns for part in parts.values()),
            histograms=merged,
            verdict=Verdict(tuple(reasons)),
            thresholds=judge_thresholds(plan.experiment.thresholds or (), counts, merged),
            stopped_by=stopped_by,
        )

    def to_json(self) -> dict[str, Any]:
        """As `--output=json` prints it: times in ms; a quantile among failed or dropped arrivals is `> timeout`."""
        logs = [clean(str(log)) for log in self.logs]
        return {
            "experiment": self.plan.experiment.name,
            "run_id": self.plan.run_id,
            "seed": self.plan.seed,
            "log": logs[0],
            **({"logs": logs} if len(logs) > 1 else {}),
            "mode": self.plan.mode,
            "verdict": self.verdict.word,
            "reasons": list(self.verdict.reasons),
            "thresholds": [each.to_json() for each in self.thresholds],
            "answered": self.answered,
            **self.counts,
            "missed_rounds": self.missed_rounds,
            "planned_rps": self.plan.planned_rps,
            "achieved_rps": round(self.achieved_rps, 3),
            **{f"{name}_ms": {label: self._ms(name, q) for label, q in QUANTILES.items()} for name in _TIMES},
        }

    def print(self, console: Console) -> None:
        """Print it as text."""
        counts, plan = self.counts, self.plan
        console.print(f"\n[bold]{escape(plan.experiment.name)}[/]  run {plan.run_id}  seed {plan.seed}  ({plan.mode})")
        planned_rate = "" if plan.planned_rps is None else f" of {plan.planned_rps:,.3f} planned"
        rows = [
            ("planned / sent", f"{counts['planned']:,} / {counts['sent']:,}"),
            ("ok / failed / dropped", f"{counts['ok']:,} / {counts['failed']:,} / {counts['dropped']:,}"),
            ("achieved rate", f"{self.achieved_rps:,.3f} rps{planned_rate}"),
            ("statuses", _shares(counts["statuses"], counts["sent"])),
            ("errors", _shares(counts["errors"], counts["planned"])),
            ("cold", _cold(counts["cold"])),
        ]
        if self.missed_rounds:
            rows.append(("missed rounds", f"{self.missed_rounds:,}"))
        console.print(terminal_table(("", ""), rows, texts=(0, 1)))
        times = ((label, *(_cell(self._ms(name, q)) for q in QUANTILES.values())) for name, label in _TIMES.items())
        console.print(terminal_table(("times in ms", *QUANTILES), times))
        console.print(f"verdict: [bold {'green' if self.verdict.valid else 'red'}]{self.verdict.word}[/]")
        for reason in self.verdict.reasons:
            console.print(f"  - {escape(reason)}")
        for each in self.thresholds:
            mark = "[bold green]passed[/]" if each.passed else "[bold red]failed[/]"
            console.print(f"threshold {escape(each.threshold.text)}: {mark}, {escape(each.value_text)}")
        for log in self.logs:
            console.print(f"log: {escape(clean(str(log)))}", soft_wrap=True)

    def _ms(self, name: str, q: float) -> float | str | None:
        value = self.histograms[name].quantile_us(q)
        if value is None:
            return None
        return f"> {format_duration(self.plan.experiment.rate.timeout_ns)}" if value == BEYOND else value / 1000


def _cell(ms: float | str | None) -> str:
    return "—" if ms is None else ms if isinstance(ms, str) else f"{ms:.3f}"


def _added(counts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Counts added key by key, to any depth."""
    added: dict[str, Any] = {}
    for each in counts:
        for name, value in each.items():
            added[name] = (
                _added([added.get(name, {}), value]) if isinstance(value, dict) else added.get(name, 0) + value
            )
    return added


def _shares(counts: dict[str, int], whole: int) -> str:
    if not counts:
        return "none"
    return ", ".join(f"{name} {count:,} ({count / whole:.2%})" for name, count in counts.items())


def _cold(cold: dict[str, int]) -> str:
    unknown = f", {cold['unknown']:,} unknown" if cold["unknown"] else ""
    return f"{cold['true']:,} of {sum(cold.values()):,} answered{unknown}"
