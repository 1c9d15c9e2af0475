"""What a run says at its end: the same figures for people and as JSON."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from workload_generator.base.clock import NS_PER_S
from workload_generator.base.histogram import BEYOND, QUANTILES, Histogram
from workload_generator.base.terminal import terminal_table
from workload_generator.base.verdict import Verdict
from workload_generator.experiment.thresholds import Judged, judge_thresholds, threshold
from workload_generator.experiment.yaml_lines import Scalar
from workload_generator.log.format import clean

_HISTOGRAMS = ("ttfb", "corrected_ttfb", "lag")


@dataclass(frozen=True, slots=True)
class Summary:
    """The measured part of one run. `counts` is that phase of the trailer; `timeout` is a Go duration.

    `measured_ns` lasts until the planned end, or until the last start when that came later.
    """

    experiment: str
    run_id: str
    seed: int
    logs: tuple[Path, ...]
    mode: str
    counts: dict[str, Any]
    missed_rounds: int
    measured_ns: int
    planned_rps: float | None
    timeout: str
    ttfb: Histogram
    corrected_ttfb: Histogram
    lag: Histogram
    verdict: Verdict
    thresholds: tuple[Judged, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the verdict is valid, and every threshold was kept."""
        return self.verdict.valid and all(each.passed for each in self.thresholds)

    @property
    def achieved_rps(self) -> float:
        """Requests sent per second of the measure phase."""
        return self.counts["sent"] * NS_PER_S / self.measured_ns if self.measured_ns else 0.0

    def to_wire(self) -> dict[str, Any]:
        """Everything, as JSON that `from_wire` reads: from a worker to whoever merges."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        histograms = {name: plain[name].to_json() for name in _HISTOGRAMS}
        return {
            **plain,
            **histograms,
            "logs": [os.fsencode(log).hex() for log in self.logs],
            "verdict": self.verdict.reasons,
            "thresholds": [each.threshold.text for each in self.thresholds],
        }

    @classmethod
    def from_wire(cls, doc: dict[str, Any]) -> Summary:
        """The summary that `to_wire` wrote."""
        histograms = {name: Histogram.from_json(doc[name]) for name in _HISTOGRAMS}
        logs = tuple(Path(os.fsdecode(bytes.fromhex(log))) for log in doc["logs"])
        wanted = [threshold(Scalar(text)) for text in doc["thresholds"]]
        judged = judge_thresholds(wanted, doc["counts"], histograms)
        return cls(
            **{**doc, **histograms, "logs": logs, "verdict": Verdict(tuple(doc["verdict"])), "thresholds": judged}
        )

    @classmethod
    def merge(cls, parts: Mapping[int, Summary]) -> Summary:
        """The shards of one run, by index, as one: counts and histograms are added, reasons say whose they are."""
        first = next(iter(parts.values()))
        merged = {name: Histogram() for name in _HISTOGRAMS}
        for name, histogram in merged.items():
            for part in parts.values():
                histogram.merge(getattr(part, name))
        counts = _added([part.counts for part in parts.values()])
        planned = [part.planned_rps for part in parts.values() if part.planned_rps is not None]
        return replace(
            first,
            ttfb=merged["ttfb"],
            corrected_ttfb=merged["corrected_ttfb"],
            lag=merged["lag"],
            logs=tuple(log for part in parts.values() for log in part.logs),
            counts=counts,
            measured_ns=max(part.measured_ns for part in parts.values()),
            planned_rps=sum(planned) if planned else None,
            verdict=Verdict(
                tuple(f"shard {index}: {why}" for index, part in parts.items() for why in part.verdict.reasons)
            ),
            thresholds=judge_thresholds([each.threshold for each in first.thresholds], counts, merged),
        )

    def to_json(self) -> dict[str, Any]:
        """Times in milliseconds; a quantile among failed or dropped arrivals is the text `> timeout`."""
        return {
            "experiment": self.experiment,
            "run_id": self.run_id,
            "seed": self.seed,
            "log": clean(str(self.logs[0])),
            **({"logs": [clean(str(log)) for log in self.logs]} if len(self.logs) > 1 else {}),
            "mode": self.mode,
            "verdict": self.verdict.word,
            "reasons": list(self.verdict.reasons),
            "thresholds": [each.to_json() for each in self.thresholds],
            **self.counts,
            "missed_rounds": self.missed_rounds,
            "planned_rps": self.planned_rps,
            "achieved_rps": round(self.achieved_rps, 3),
            "ttfb_ms": self._quantiles_ms(self.ttfb),
            "corrected_ttfb_ms": self._quantiles_ms(self.corrected_ttfb),
            "lag_ms": self._quantiles_ms(self.lag),
        }

    def print(self, console: Console) -> None:
        """For people."""
        counts = self.counts
        console.print(f"\n[bold]{escape(self.experiment)}[/]  run {self.run_id}  seed {self.seed}  ({self.mode})")
        planned_rate = "" if self.planned_rps is None else f" of {self.planned_rps:,.3f} planned"
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
        times = (
            (label, *(self._cell(histogram.quantile_us(q)) for q in QUANTILES.values()))
            for label, histogram in (("TTFB", self.ttfb), ("corrected TTFB", self.corrected_ttfb), ("lag", self.lag))
        )
        console.print(terminal_table(("times in ms", *QUANTILES), times))
        if self.verdict.valid:
            console.print("verdict: [bold green]valid[/]")
        else:
            console.print("verdict: [bold red]invalid[/]")
            for reason in self.verdict.reasons:
                console.print(f"  - {escape(reason)}")
        for each in self.thresholds:
            mark = "[bold green]passed[/]" if each.passed else "[bold red]failed[/]"
            console.print(f"threshold {escape(each.threshold.text)}: {mark}, {escape(each.written)}")
        for log in self.logs:
            console.print(f"log: {escape(clean(str(log)))}", soft_wrap=True)

    def _cell(self, value: float | None) -> str:
        ms = self._ms(value)
        return "—" if ms is None else ms if isinstance(ms, str) else f"{ms:.3f}"

    def _quantiles_ms(self, histogram: Histogram) -> dict[str, float | str | None]:
        return {name: self._ms(histogram.quantile_us(q)) for name, q in QUANTILES.items()}

    def _ms(self, value: float | None) -> float | str | None:
        if value is None:
            return None
        return f"> {self.timeout}" if value == BEYOND else value / 1000


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
