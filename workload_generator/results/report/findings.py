"""What a database says, in sentences: the verdict on its runs, then what was found, the most telling first."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from workload_generator.results.report.answer_tables import rates
from workload_generator.results.report.answers import Answers
from workload_generator.results.report.cells import Cell, Ranking
from workload_generator.results.report.runs import INCOMPLETE, INVALID, UNJUDGED, UNKNOWN, VALID, Condition, Run
from workload_generator.results.report.specs import phase_word
from workload_generator.results.report.starts import Proofs, phases_of

GOOD, WARN, BAD, PLAIN = "good", "warn", "bad", "plain"

_LOST = 0.01
_LATE = 1.1
_MOST = 8


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence; `kind` is how it is marked, `section` where the page shows more."""

    kind: str
    text: str
    section: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The top of a report: `headline` is the verdict, `facts` what was run, where and with which versions."""

    kind: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    findings: tuple[Finding, ...]


def summarise(answers: Answers) -> Summary:
    """Everything that is said in words."""
    kind, headline = _verdict(answers)
    findings = [
        *_state_of_runs(answers),
        *_thresholds(answers),
        *(finding for ranking in answers.rankings if (finding := _ranking(ranking)) is not None),
        *_alone(answers),
        *_repeats(answers),
        *_losses(answers),
        *_knees(answers),
        *_shapes(answers),
        *_starts(answers),
        *_bursts(answers),
        *_lateness(answers),
        *_deliveries(answers),
        *_differing(answers),
    ]
    return Summary(kind, headline, tuple(_facts(answers)), tuple(findings))


def _verdict(answers: Answers) -> tuple[str, str]:
    states = Counter(run.state for run in answers.runs)
    whole = len(answers.runs)
    if states[VALID] == whole:
        who = {1: "The run", 2: "Both runs"}.get(whole, f"All {whole} runs")
        return GOOD, f"{who} measured the system."
    rest = ", ".join(f"{states[word]} {word}" for word in (INVALID, INCOMPLETE, UNJUDGED) if states[word])
    if not states[VALID] and not states[UNJUDGED]:
        return BAD, f"No run measured the system ({rest}): these figures are the generator's as much as the system's."
    if states[UNJUDGED] == whole:
        return WARN, f"Nobody judged {_n(whole, 'this run', 'these {n} runs')}: the original's logs have no verdict."
    return WARN, f"{states[VALID]} of {whole} runs measured the system; {rest}."


def _facts(answers: Answers) -> Iterable[tuple[str, str]]:
    runs = answers.runs
    yield "scenarios", _listed(run.condition.scenario for run in runs)
    languages = [sample.language for data in answers.data for sample in data.samples]
    yield "languages", _listed([name for name in languages if name != UNKNOWN] or languages)
    yield "rates", _listed(run.condition.rate_label for run in sorted(runs, key=lambda run: run.condition.rate or 0.0))
    arrivals = sum(sample.arrivals for data in answers.data for sample in data.samples if sample.temperature == "all")
    yield "measured arrivals", f"{arrivals:,} in {_n(len(runs), '1 run', '{n} runs')}"
    started = sorted(run.started for run in runs if run.started)
    if started:
        first, last = started[0][:16].replace("T", " "), started[-1][:16].replace("T", " ")
        yield "when", f"{first} UTC" if first == last else f"{first} to {last} UTC"
    yield "platform", _listed(str(run.row["platform"] or UNKNOWN) for run in runs)
    yield (
        "generator",
        _listed(f"version {run.row['version']}" if run.row["version"] else "the original" for run in runs),
    )
    yield "database", answers.db.name


def _state_of_runs(answers: Answers) -> Iterable[Finding]:
    bad = [run for run in answers.runs if run.state in (INVALID, INCOMPLETE)]
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in bad:
        reasons.setdefault((run.state, "; ".join(run.reasons)), []).append(str(run.id))
    for (state, reason), ids in list(reasons.items())[:_MOST]:
        who = f"Run {ids[0]} is" if len(ids) == 1 else f"Runs {', '.join(ids)} are"
        yield Finding(BAD if state == INVALID else WARN, f"{who} {state}: {reason}.", "runs")
    if len(reasons) > _MOST:
        yield Finding(WARN, f"{len(reasons) - _MOST} more reasons against runs are in the table of runs.", "runs")
    if not bad:
        return
    if answers.nothing_valid:
        yield Finding(BAD, "No run may be compared, so nothing is ranked; the pictures show what there is.", "runs")
    elif answers.include_invalid:
        yield Finding(WARN, "Invalid and incomplete runs are compared too, as asked for (--include-invalid).", "runs")
    else:
        left = _n(len(bad), "It is", "They are")
        yield Finding(PLAIN, f"{left} in the pictures over time, and in no comparison.", "runs")


def _thresholds(answers: Answers) -> Iterable[Finding]:
    judged = [(each.run, one) for each in answers.demands for one in each.judged or ()]
    failed = [(run, one) for run, one in judged if not one.passed]
    for run, one in failed[:_MOST]:
        yield Finding(BAD, f"Run {run.id} missed its threshold {one.threshold.text}: {one.written}.", "runs")
    if len(failed) > _MOST:
        yield Finding(BAD, f"{len(failed) - _MOST} more thresholds were missed.", "runs")
    if judged and not failed:
        kept = _n(len(judged), "The threshold is", "All {n} thresholds are")
        yield Finding(GOOD, f"{kept} kept.", "runs")


def _ranking(ranking: Ranking) -> Finding | None:
    if ranking.quantile != "p50" and not any(pair.shown for pair in ranking.pairs):
        return None
    shown = {(pair.a.language, pair.b.language) for pair in ranking.pairs if pair.shown}
    parts = []
    for index, cell in enumerate(ranking.cells):
        if index:
            parts.append("<" if (ranking.cells[index - 1].language, cell.language) in shown else "≈")
        parts.append(f"{cell.language} {ms(cell, ranking.quantile)}")
    where = f"{_where(ranking.condition, ranking.temperature)}, {ranking.quantile}"
    text = f"{where}: {' '.join(parts)}."
    if not shown:
        least = min(len(cell.samples) for cell in ranking.cells)
        why = "no difference shown at this sample size"
        if not ranking.enough:
            why += (
                f": {_n(least, '1 run', '{n} runs')} of a language, and {ranking.runs_needed} is the least that could"
            )
        return Finding(WARN, f"{text} {_cap(why)}.", "compare")
    alike = [(p.a.language, p.b.language) for p in ranking.pairs if not p.shown]
    if alike:
        pairs = ", ".join(f"{a} and {b}" for a, b in alike[:_MOST]) + (" and others" if len(alike) > _MOST else "")
        text += f" No difference shown at this sample size: {pairs}."
    return Finding(GOOD, text, "compare")


def _alone(answers: Answers) -> Iterable[Finding]:
    """The figures of what has nothing to be ranked against."""
    ranked = {cell.label for ranking in answers.rankings for cell in ranking.cells}
    for cell in [cell for cell in answers.cells if cell.home and cell.label not in ranked][:_MOST]:
        runs = len(cell.samples)
        text = (
            f"{_where(cell.condition, cell.temperature)}, {cell.language}: p50 {ms(cell, 'p50')}, p99 {ms(cell, 'p99')}"
        )
        yield Finding(PLAIN, f"{text} ({_n(runs, '1 run', '{n} runs')}, {cell.arrivals:,} arrivals).", "compare")


def _repeats(answers: Answers) -> Iterable[Finding]:
    homes = [cell for cell in answers.cells if cell.home]
    single = sum(len(cell.samples) == 1 for cell in homes)
    if single and not answers.nothing_valid:
        whole = len(homes)
        which = "The figures come" if single == whole else f"{single} of {whole} figures come"
        text = f"{which} from a single run each: what another run would give is not known. Repeat the runs."
        yield Finding(WARN, text, "compare")


def _losses(answers: Answers) -> Iterable[Finding]:
    lost = [(1 - cell.served / cell.arrivals, cell) for cell in answers.cells if cell.arrivals]
    lost = sorted((each for each in lost if each[0] > _LOST), key=lambda each: -each[0])
    for share, cell in lost[:_MOST]:
        endings: Counter[str] = Counter()
        for data in answers.data:
            if data.run.condition == cell.condition:
                for outcome, number in data.outcomes.get(cell.language, Counter()).items():
                    if not str(outcome).startswith("2"):
                        endings[str(outcome)] += number
        how = ", ".join(f"{name} {number:,}" for name, number in endings.most_common(3))
        text = f"{_where(cell.condition, cell.temperature)}, {cell.language}: {share:.1%} were lost ({how})."
        yield Finding(BAD if share > 0.05 else WARN, text, "failures")
    if len(lost) > _MOST:
        text = f"{len(lost) - _MOST} more cells lost over 1 %: see how the arrivals ended."
        yield Finding(WARN, text, "failures")


def _knees(answers: Answers) -> Iterable[Finding]:
    for knee in answers.knees:
        what = f"{knee.condition.scenario}, {knee.language}"
        if knee.off is None:
            text = f"{what}: no knee up to {knee.rates[-1]:,g} rps."
            yield Finding(GOOD, text, "load")
        elif knee.on is None:
            yield Finding(BAD, f"{what}: off its plateau even at {knee.off:,g} rps ({knee.reason}).", "load")
        else:
            text = f"{what}: the knee lies between {knee.on:,g} and {knee.off:,g} rps ({knee.reason})."
            yield Finding(WARN, text, "load")


def _shapes(answers: Answers) -> Iterable[Finding]:
    for found in answers.shapes:
        if found.shape.odd:
            cell = found.cell
            where = f"{_where(cell.condition, cell.temperature)}, {cell.language}"
            section = "cold" if cell.temperature == "cold" else "distribution"
            yield Finding(WARN, f"{where}: {found.shape.sentence()}.", section)
    whole = [str(data.run.id) for data in answers.data if data.whole_ms]
    if whole:
        text = (
            f"The times of {_n(len(whole), 'run', 'runs')} {_some(whole)} are whole milliseconds: their log cut them."
        )
        yield Finding(WARN, text, "distribution")


def _starts(answers: Answers) -> Iterable[Finding]:
    """How many cold starts are proven, and what they mostly are."""
    for (condition, language), found in list(answers.starts_of().items())[:_MOST]:
        whole = sum((each.proofs for each in found), Proofs())
        who = f"{condition.label}, {language}: "
        text = f"{who}{whole.proven} of {whole.requests} cold starts are proven"
        for number, word in ((whole.refuted, "were none"), (whole.skipped, "were not sent, without zero")):
            text += f", {number} {word}" if number else ""
        phases = phases_of([start for each in found for start in each.starts])
        mean = sum(phase.mean for phase in phases)
        if phases and mean:
            most = max(phases, key=lambda phase: phase.mean)
            text += f"; of their {mean:,.0f} ms on average the longest phase ({most.mean / mean:.0%}) ends with: "
            text += phase_word(most.name)
        yield Finding(GOOD if whole.proven == whole.requests else WARN, f"{text}.", "cold")


def _bursts(answers: Answers) -> Iterable[Finding]:
    """What bursts at zero waited for, and what was started for them in vain."""
    for each in answers.bursts[:_MOST]:
        total = {
            name: sum(cost[name] or 0 for cost in each.costs) for name in ("requests", "waiting", "started", "needed")
        }
        text = f"Run {each.run.id}, {each.language}: of {total['requests']:,.0f} requests in "
        text += f"{_n(len(each.costs), 'a burst', '{n} bursts')} at zero {total['waiting']:,.0f} waited"
        text += f", for {each.waits[-1]:,.0f} ms at most" if len(each.waits) else ""
        text += f"; {total['started']:,.0f} instances were started and {total['needed']:,.0f} of them answered any"
        yield Finding(WARN if total["started"] > total["needed"] else PLAIN, f"{text}.", "cold")


def _lateness(answers: Answers) -> Iterable[Finding]:
    late = []
    for data in answers.data:
        for sample in data.samples:
            if sample.temperature == "all" and sample.corrected is not None:
                plain, corrected = sample.ttfb.answered["p99"], sample.corrected.answered["p99"]
                if corrected > _LATE * plain and corrected - plain > 1:
                    late.append(str(data.run.id))
    if late:
        who = f"{_n(len(late), 'Run', 'Runs')} {_some(late)}"
        text = f"{who}: corrected p99 is over 10 % above p99, so requests left late; read the corrected figures."
        yield Finding(WARN, text, "tables")
    for data in answers.data:
        planned, achieved = rates(data)
        if data.run.counts_in and planned and achieved is not None and achieved < 0.99 * planned:
            text = f"Run {data.run.id} achieved {achieved:,.5g} of {planned:,.5g} rps."
            yield Finding(WARN, text, "load")


def _deliveries(answers: Answers) -> Iterable[Finding]:
    for _, group in groupby(answers.deliveries, key=lambda each: each.run.id):
        own = list(group)
        yield _account(own[0].run, [each.account for each in own])
    for run, sent in answers.unreceipted:
        text = f"Run {run.id} ({run.condition.label}) sent {sent:,} events, and no receipt of them is in the database."
        yield Finding(WARN, text, "eventing")


def _account(run: Run, accounts: Sequence[Mapping[str, Any]]) -> Finding:
    """The account of one run over its triggers, in a sentence; each trigger is judged by itself."""
    triggers = sum(account["copies"] for account in accounts)
    acknowledged = accounts[0]["acknowledged"]
    who = f"Run {run.id} ({run.condition.label}): of {acknowledged:,} acknowledged events"
    through = _n(triggers, "its trigger", "each of {n} triggers")
    expected = acknowledged * triggers
    wrong = []
    for key, word in (("lost_deliveries", "lost"), ("extra_deliveries", "duplicated")):
        if number := sum(account[key] for account in accounts):
            wrong.append(f"{number:,} ({number / expected:.2%}) were {word}" if expected else f"{number:,} were {word}")
    if not wrong:
        return Finding(GOOD, f"{who} every one was delivered exactly once through {through}.", "eventing")
    text = f"{who}, expected once through {through}, {' and '.join(wrong)}"
    if (unaccounted := accounts[0]["unaccounted"]) and any(account["lost"] for account in accounts):
        text += f"; of the lost up to {unaccounted:,} may be the receivers' and not the broker's"
    return Finding(WARN, f"{text}.", "eventing")


def _differing(answers: Answers) -> Iterable[Finding]:
    """Repeats that are none: other versions, or another configuration."""
    for cell in answers.cells:
        if not cell.home:
            continue
        versions = {sample.run.row["version"] for sample in cell.samples}
        configurations = {_but_for_its_seed(sample.run.config) for sample in cell.samples}
        for found, what in ((versions, "versions of the generator"), (configurations, "configurations")):
            if len(found) > 1:
                text = f"{cell.label}: its runs have {len(found)} {what}; they are put together all the same."
                yield Finding(WARN, text, "runs")


def _but_for_its_seed(config: Mapping[str, Any]) -> str:
    """A repeat has the same of all else; a scenario gives each run a seed of its own."""
    return json.dumps({key: value for key, value in config.items() if key != "seed"}, sort_keys=True)


def ms(cell: Cell, quantile: str) -> str:
    """A figure of a cell for people."""
    estimate = cell.estimate(quantile)
    if estimate is None:
        return "—"
    if math.isinf(estimate.value):
        return f"> {cell.samples[0].run.timeout}"
    return f"{estimate.value:,.0f} ms" if estimate.value >= 1000 else f"{estimate.value:.3g} ms"


def _where(condition: Condition, temperature: str) -> str:
    cold = "" if temperature in condition.variant or temperature == UNKNOWN else f", {temperature}"
    return f"{condition.label}{cold}"


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:_MOST]) + (f" and {len(words) - _MOST} more" if len(words) > _MOST else "")


def _n(number: int, one: str, many: str) -> str:
    return one if number == 1 else many.format(n=number)


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]
