"""The summary of a report in sentences: the verdict on its runs, then conclusions, the most important first."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from workload_generator.results.report.answers import Answers
from workload_generator.results.report.cold_starts import LAST_IN_CLUSTER, PHASE_NAMES, phases_of
from workload_generator.results.report.comparison import Ranking, RunGroup
from workload_generator.results.report.runs import INCOMPLETE, INVALID, UNJUDGED, UNKNOWN, VALID, RecordedRun

GOOD, WARN, BAD, PLAIN = "good", "warn", "bad", "plain"

_LOST = 0.01
_LATE = 1.1
_MOST = 8


@dataclass(frozen=True, slots=True)
class Conclusion:
    """One sentence; `kind` is its mark, `section` the section of the page with the details."""

    kind: str
    text: str
    section: str


@dataclass(frozen=True, slots=True)
class ReportSummary:
    """The top of a report: `headline` is the verdict, `facts` are scenarios, languages, platforms and versions."""

    kind: str
    headline: str
    facts: tuple[tuple[str, str], ...]
    conclusions: tuple[Conclusion, ...]


def summarise(answers: Answers) -> ReportSummary:
    """The verdict and all conclusions."""
    conclusions = (
        *_invalid_runs(answers),
        *_thresholds(answers),
        *(each for ranking in answers.rankings if (each := _ranking(ranking)) is not None),
        *_unranked(answers),
        *_repeats(answers),
        *_losses(answers),
        *_knees(answers),
        *_shapes(answers),
        *_starts(answers),
        *_bursts(answers),
        *_lateness(answers),
        *_deliveries(answers),
        *_different_repeats(answers),
    )
    return ReportSummary(*_verdict(answers), tuple(_facts(answers)), conclusions)


def _verdict(answers: Answers) -> tuple[str, str]:
    states = Counter(run.state for run in answers.runs)
    count = len(answers.runs)
    if states[VALID] == count:
        return GOOD, {1: "The run is valid.", 2: "Both runs are valid."}.get(count, f"All {count} runs are valid.")
    rest = ", ".join(f"{states[word]} {word}" for word in (INVALID, INCOMPLETE, UNJUDGED) if states[word])
    if not states[VALID] and not states[UNJUDGED]:
        return BAD, f"No run is valid ({rest}): the figures measure the generator as much as the system."
    if states[UNJUDGED] == count:
        return WARN, f"{_n(count, 'The run has', 'The {n} runs have')} no verdict: the original's logs have none."
    return WARN, f"{states[VALID]} of {count} runs are valid; {rest}."


def _facts(answers: Answers) -> Iterable[tuple[str, str]]:
    runs = answers.runs
    yield "scenarios", _distinct(run.condition.scenario for run in runs)
    languages = [sample.language for data in answers.data for sample in data.samples]
    yield "languages", _distinct([name for name in languages if name != UNKNOWN] or languages)
    by_rate = sorted(runs, key=lambda run: run.condition.rate or 0.0)
    yield "rates", _distinct(run.condition.rate_label for run in by_rate)
    arrivals = sum(sample.arrivals for data in answers.data for sample in data.samples if sample.temperature == "all")
    yield "measured arrivals", f"{arrivals:,} in {_n(len(runs), '1 run', '{n} runs')}"
    started = sorted(run.started for run in runs if run.started)
    if started:
        first, last = started[0][:16].replace("T", " "), started[-1][:16].replace("T", " ")
        yield "when", f"{first} UTC" if first == last else f"{first} to {last} UTC"
    yield "platform", _distinct(str(run.row["platform"] or UNKNOWN) for run in runs)
    versions = (f"version {run.row['version']}" if run.row["version"] else "the original" for run in runs)
    yield "generator", _distinct(versions)
    yield "database", answers.db.name


def _invalid_runs(answers: Answers) -> Iterable[Conclusion]:
    bad = [run for run in answers.runs if run.state in (INVALID, INCOMPLETE)]
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in bad:
        reasons.setdefault((run.state, "; ".join(run.reasons)), []).append(str(run.id))
    for (state, reason), ids in list(reasons.items())[:_MOST]:
        who = f"Run {ids[0]} is" if len(ids) == 1 else f"Runs {', '.join(ids)} are"
        yield Conclusion(BAD if state == INVALID else WARN, f"{who} {state}: {reason}.", "runs")
    if len(reasons) > _MOST:
        yield Conclusion(WARN, f"{len(reasons) - _MOST} more reasons are in the table of runs.", "runs")
    if bad and answers.nothing_valid:
        text = "No valid run, so nothing is ranked; charts and tables show the invalid and incomplete runs."
        yield Conclusion(BAD, text, "runs")
    elif bad and answers.include_invalid:
        yield Conclusion(WARN, "Invalid and incomplete runs are compared too (--include-invalid).", "runs")
    elif bad:
        text = f"{_n(len(bad), 'It is', 'They are')} in the charts over time, but in no comparison."
        yield Conclusion(PLAIN, text, "runs")


def _thresholds(answers: Answers) -> Iterable[Conclusion]:
    judged = [(each.run, one) for each in answers.thresholds for one in each.judged or ()]
    failed = [(run, one) for run, one in judged if not one.passed]
    for run, one in failed[:_MOST]:
        yield Conclusion(BAD, f"Run {run.id} failed its threshold {one.threshold.text}: {one.value_text}.", "runs")
    if len(failed) > _MOST:
        yield Conclusion(BAD, f"{len(failed) - _MOST} more thresholds failed.", "runs")
    if judged and not failed:
        yield Conclusion(GOOD, _n(len(judged), "The threshold passed.", "All {n} thresholds passed."), "runs")


def _ranking(ranking: Ranking) -> Conclusion | None:
    if ranking.quantile != "p50" and not any(pair.shown for pair in ranking.pairs):
        return None
    shown = {(pair.a.language, pair.b.language) for pair in ranking.pairs if pair.shown}
    text = f"{ranking.groups[0].where}, {ranking.quantile}:"
    before: RunGroup | None = None
    for group in ranking.groups:
        if before is not None:
            text += " <" if (before.language, group.language) in shown else " ≈"
        text += f" {group.language} {_ms(group, ranking.quantile)}"
        before = group
    if not shown:
        least = min(len(group.samples) for group in ranking.groups)
        text += ". No difference shown at this sample size"
        if least < ranking.runs_needed:
            runs = _n(least, "1 run", "{n} runs")
            text += f": {runs} of a language; at least {ranking.runs_needed} runs of each are needed"
        return Conclusion(WARN, f"{text}.", "compare")
    equal = [f"{pair.a.language} and {pair.b.language}" for pair in ranking.pairs if not pair.shown]
    if equal:
        text += f". No difference shown at this sample size: {', '.join(equal[:_MOST])}"
        text += " and others" if len(equal) > _MOST else ""
    return Conclusion(GOOD, f"{text}.", "compare")


def _unranked(answers: Answers) -> Iterable[Conclusion]:
    """The figures of groups without another language to compare with."""
    ranked = {group.label for ranking in answers.rankings for group in ranking.groups}
    for group in [group for group in answers.groups if group.home and group.label not in ranked][:_MOST]:
        counts = f"{_n(len(group.samples), '1 run', '{n} runs')}, {group.arrivals:,} arrivals"
        text = f"{group.where}, {group.language}: p50 {_ms(group, 'p50')}, p99 {_ms(group, 'p99')} ({counts})."
        yield Conclusion(PLAIN, text, "compare")


def _repeats(answers: Answers) -> Iterable[Conclusion]:
    homes = [group for group in answers.groups if group.home]
    single = sum(len(group.samples) == 1 for group in homes)
    if single and not answers.nothing_valid:
        which = "The figures come" if single == len(homes) else f"{single} of {len(homes)} figures come"
        text = f"{which} from a single run each, which is not evidence about another run. Repeat the runs."
        yield Conclusion(WARN, text, "compare")


def _losses(answers: Answers) -> Iterable[Conclusion]:
    shares = [(1 - group.served / group.arrivals, group) for group in answers.groups if group.arrivals]
    lost = sorted((each for each in shares if each[0] > _LOST), key=lambda each: -each[0])
    for share, group in lost[:_MOST]:
        outcomes: Counter[str] = Counter()
        for data in answers.data:
            if data.run.condition == group.condition:
                outcomes.update(data.outcomes.get(group.language, {}))
        failures = [each for each in outcomes.most_common() if not each[0].startswith("2")]
        how = ", ".join(f"{'status ' * name.isdigit()}{name}: {number:,}" for name, number in failures[:3])
        text = f"{group.where}, {group.language}: {share:.1%} of arrivals failed ({how})."
        yield Conclusion(BAD if share > 0.05 else WARN, text, "failures")
    if len(lost) > _MOST:
        more = _n(len(lost) - _MOST, "1 more group", "{n} more groups")
        yield Conclusion(WARN, f"In {more} over 1 % failed: see the table of outcomes.", "failures")


def _knees(answers: Answers) -> Iterable[Conclusion]:
    for knee in answers.knees:
        who = f"{knee.condition.scenario}, {knee.language}"
        if knee.off is None:
            yield Conclusion(GOOD, f"{who}: no knee up to {knee.rates[-1]:,g} rps.", "load")
        elif knee.on is None:
            yield Conclusion(BAD, f"{who}: off its plateau even at {knee.off:,g} rps ({knee.reason}).", "load")
        else:
            text = f"{who}: the knee lies between {knee.on:,g} and {knee.off:,g} rps ({knee.reason})."
            yield Conclusion(WARN, text, "load")


def _shapes(answers: Answers) -> Iterable[Conclusion]:
    for group, shape in answers.shapes:
        if shape.odd:
            text = f"{group.where}, {group.language}: {shape.sentence()}."
            yield Conclusion(WARN, text, "cold" if group.temperature == "cold" else "distribution")
    whole = [str(data.run.id) for data in answers.data if data.whole_ms]
    if whole:
        text = f"The times of {_n(len(whole), 'run', 'runs')} {_some(whole)} are whole milliseconds, as in their logs."
        yield Conclusion(WARN, text, "distribution")


def _starts(answers: Answers) -> Iterable[Conclusion]:
    """The share of proven cold starts, and their longest phase."""
    for group in answers.group_starts()[:_MOST]:
        counts = group.proofs
        who = f"{group.condition.label}, {group.language}"
        text = f"{who}: {counts['proven']} of {counts['requests']} cold starts are proven"
        text += f", {counts['refuted']} are refuted" if counts["refuted"] else ""
        if counts["skipped"]:
            text += f", {counts['skipped']} were not sent, since the target did not scale to zero"
        phases = phases_of(group.starts)
        mean = sum(phase.mean for phase in phases)
        if phases and mean:
            longest = max(phases, key=lambda phase: phase.mean)
            text += f"; the mean of the proven ones is {mean:,.0f} ms, and their longest phase"
            verb = "is" if longest.name == LAST_IN_CLUSTER else "ends with"
            text += f" ({longest.mean / mean:.0%}) {verb}: {PHASE_NAMES[longest.name]}"
        yield Conclusion(GOOD if counts["proven"] == counts["requests"] else WARN, f"{text}.", "cold")


def _bursts(answers: Answers) -> Iterable[Conclusion]:
    """The waits of bursts at zero, and the instances that answered no request."""
    for each in answers.bursts[:_MOST]:
        requests, waiting, started, needed = map(each.total, ("requests", "waiting", "started", "needed"))
        text = f"Run {each.run.id}, {each.language}: of {requests:,.0f} requests in "
        text += f"{_n(len(each.costs), 'a burst', '{n} bursts')} at zero {waiting:,.0f} waited"
        text += f", for {each.waits[-1]:,.0f} ms at most" if len(each.waits) else ""
        text += f"; {needed:,.0f} of {started:,.0f} started instances answered a request"
        yield Conclusion(WARN if started > needed else PLAIN, f"{text}.", "cold")


def _lateness(answers: Answers) -> Iterable[Conclusion]:
    late = []
    for data in answers.data:
        for sample in data.samples:
            if sample.temperature == "all" and sample.corrected is not None:
                plain, corrected = sample.ttfb.answered["p99"], sample.corrected.answered["p99"]
                if corrected > _LATE * plain and corrected - plain > 1:
                    late.append(str(data.run.id))
    if late:
        who = f"{_n(len(late), 'Run', 'Runs')} {_some(late)}"
        text = f"{who}: corrected p99 is over 10 % above p99: requests were sent late. Use the corrected figures."
        yield Conclusion(WARN, text, "tables")
    for data in answers.data:
        planned, achieved = data.rates()
        if data.run.counts_in and planned and achieved is not None and achieved < 0.99 * planned:
            text = f"Run {data.run.id} achieved {achieved:,.5g} of {planned:,.5g} rps."
            yield Conclusion(WARN, text, "load")


def _deliveries(answers: Answers) -> Iterable[Conclusion]:
    for _, group in groupby(answers.deliveries, key=lambda each: each.run.id):
        own = list(group)
        yield _account(own[0].run, [each.account for each in own])
    for run, sent in answers.unreceipted:
        text = f"Run {run.id} ({run.condition.label}) sent {sent:,} events, but the database has no receipt of them."
        yield Conclusion(WARN, text, "eventing")


def _account(run: RecordedRun, accounts: Sequence[Mapping[str, Any]]) -> Conclusion:
    """The account of one run over its triggers; each trigger is judged separately."""
    triggers = sum(account["copies"] for account in accounts)
    sent, acknowledged = (accounts[0][key] for key in ("sent", "acknowledged"))
    unacknowledged = max(account["delivered_unacknowledged"] for account in accounts)
    through = _n(triggers, "its trigger", "each of {n} triggers")
    expected = acknowledged * triggers
    wrong = []
    for key, word in (("lost_deliveries", "lost"), ("extra_deliveries", "duplicated")):
        if number := sum(account[key] for account in accounts):
            wrong.append(f"{number:,} ({number / expected:.2%}) were {word}" if expected else f"{number:,} were {word}")
    text = f"Run {run.id} ({run.condition.label}): of {acknowledged:,} acknowledged events"
    if not acknowledged:
        text = "; ".join([f"Run {run.id} ({run.condition.label}): none of {sent:,} events was acknowledged", *wrong])
    elif wrong:
        text += f", expected once through {through}, {' and '.join(wrong)}"
    else:
        text += f" every one was delivered exactly once through {through}"
    if (unaccounted := accounts[0]["unaccounted"]) and any(account["lost"] for account in accounts):
        text += f"; up to {unaccounted:,} of the lost ones may be the receivers' losses, not the broker's"
    if unacknowledged:
        text += f"; {_n(unacknowledged, '1 was', f'{unacknowledged:,} were')} delivered unacknowledged"
    is_clean = acknowledged and not wrong and not unacknowledged
    return Conclusion(GOOD if is_clean else WARN, f"{text}.", "eventing")


def _different_repeats(answers: Answers) -> Iterable[Conclusion]:
    """Groups whose runs have different versions of the generator or different configurations."""
    for group in (group for group in answers.groups if group.home):
        versions = {sample.run.row["version"] for sample in group.samples}
        configurations = {_without_seed(sample.run.config) for sample in group.samples}
        for values, what in ((versions, "versions of the generator"), (configurations, "configurations")):
            if len(values) > 1:
                text = f"{group.label}: its runs have {len(values)} {what}, and are repeats all the same."
                yield Conclusion(WARN, text, "runs")


def _without_seed(config: Mapping[str, Any]) -> str:
    """The configuration without its seed, which a scenario makes different for each run."""
    return json.dumps({key: value for key, value in config.items() if key != "seed"}, sort_keys=True)


def _ms(group: RunGroup, quantile: str) -> str:
    value = group.estimate(quantile).value
    if math.isinf(value):
        return group.beyond
    return f"{value:,.0f} ms" if value >= 1000 else f"{value:.3g} ms"


def _distinct(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def _some(words: Sequence[str]) -> str:
    return ", ".join(words[:_MOST]) + (f" and {len(words) - _MOST} more" if len(words) > _MOST else "")


def _n(number: int, one: str, many: str) -> str:
    return one if number == 1 else many.format(n=number)
