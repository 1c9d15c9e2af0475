"""All numbers of a report, read from a database once: its tables, charts and conclusions are made from them.

Rules:
- only the measure phase counts; the ramp is read for the charts over time, where it is shaded
- invalid and incomplete runs are in `runs` and `data`, but in `groups` only on request, or when there are no others:
  then `nothing_valid` is true, and nothing is ranked
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from workload_generator.base.errors import BenchError
from workload_generator.results.database import Store, columns_of, open_store
from workload_generator.results.report import autoscaling, cold_starts, comparison, deliveries, modes, nodes_and_pods
from workload_generator.results.report.request_rows import read_columns
from workload_generator.results.report.run_tables import Connections, read_connections
from workload_generator.results.report.runs import RecordedRun, RunThresholds, read_runs, read_thresholds
from workload_generator.results.report.samples import RunData, analyse

RANKED = ("p50", "p99")

Progress = Callable[[int, int], None]
"""Called with the number of runs read and the number of all runs."""


@dataclass(frozen=True, slots=True)
class Answers:
    """The content of a report.

    `usage_columns` are the columns of the tables of usage that the database has. `unreceipted` are the runs that sent
    events of which the database has no receipt, with the number of events. Mappings are by the id of a run.
    """

    db: Path
    runs: list[RecordedRun]
    data: list[RunData]
    groups: list[comparison.RunGroup]
    nothing_valid: bool
    include_invalid: bool
    rankings: list[comparison.Ranking]
    knees: list[comparison.Knee]
    shapes: list[modes.GroupShape]
    connections: list[Connections]
    thresholds: list[RunThresholds]
    deliveries: list[deliveries.Delivery]
    unreceipted: list[tuple[RecordedRun, int]]
    usage: Mapping[int, list[nodes_and_pods.TimeSeries]]
    usage_columns: Mapping[str, set[str]]
    scaling: Mapping[int, list[nodes_and_pods.TimeSeries]]
    conditions: Mapping[int, list[tuple[float, autoscaling.ConditionChange]]]
    starts: list[cold_starts.LanguageStarts]
    bursts: list[cold_starts.RunBursts]

    def compares(self, run: RecordedRun) -> bool:
        """Whether the comparisons include the run."""
        return run.counts_in or self.include_invalid or self.nothing_valid

    def group_starts(self) -> list[cold_starts.LanguageStarts]:
        """The observed cold starts of the compared runs."""
        return cold_starts.group_starts(each for each in self.starts if self.compares(each.runs[0]))


def ask(
    db: Path,
    *,
    include_invalid: bool = False,
    experiments: Iterable[int] | None = None,
    progress: Progress = lambda _done, _all: None,
) -> Answers:
    """Read the runs with the ids `experiments`, or all. Raises BenchError when nothing was measured."""
    data: list[RunData] = []
    with _opened(db) as store:
        runs = _runs(store, experiments)
        connections: list[Connections] = []
        for number, run in enumerate(runs):
            progress(number, len(runs))
            data.append(analyse(run, read_columns(store, run)))
            connections += read_connections(store, run)
        progress(len(runs), len(runs))
        if not any(each.samples for each in data):
            raise BenchError(f"{db} has no measured requests: its runs ({len(runs)}) have none in the measure phase")
        thresholds = [judged for run in runs if (judged := read_thresholds(store, run)) is not None]
        sent = deliveries.sent_events(store)
        delivered = [each for run in runs if run.id in sent for each in deliveries.read_deliveries(store, run)]
        starts = [each for run in runs for each in cold_starts.read_starts(store, run)]
        bursts = [each for run in runs for each in cold_starts.read_bursts(store, run)]
        nodes, pods = (nodes_and_pods.read_usage(store, table) for table in ("node_metrics", "pod_metrics"))
        usage_columns = {table: set(columns_of(store, table)) for table in ("node_metrics", "pod_metrics")}
        recorded = autoscaling.read_scaling(store)
    comparable = [each for each in data if include_invalid or each.run.counts_in]
    nothing_valid = not any(each.samples for each in comparable)
    groups = comparison.make_groups(
        sample for each in (data if nothing_valid else comparable) for sample in each.samples
    )
    received = {each.run.id for each in delivered}
    return Answers(
        db=db,
        runs=runs,
        data=data,
        groups=groups,
        nothing_valid=nothing_valid,
        include_invalid=include_invalid,
        rankings=[] if nothing_valid else [each for name in RANKED for each in comparison.rank(groups, name)],
        knees=comparison.find_knees(groups),
        shapes=modes.find_shapes(groups),
        connections=connections,
        thresholds=thresholds,
        deliveries=delivered,
        unreceipted=[(run, sent[run.id]) for run in runs if run.id in sent and run.id not in received],
        usage={each.run.id: series for each in data if (series := nodes_and_pods.usage_series(each, nodes, pods))},
        usage_columns=usage_columns,
        scaling={each.run.id: series for each in data if (series := autoscaling.scaling_series(each, recorded))},
        conditions={each.run.id: list(autoscaling.condition_changes(each, recorded)) for each in data},
        starts=starts,
        bursts=bursts,
    )


def read_data(db: Path, experiments: Iterable[int] | None = None) -> list[RunData]:
    """Only the measurements of the runs, for a comparison. Raises BenchError."""
    with _opened(db) as store:
        return [analyse(run, read_columns(store, run)) for run in _runs(store, experiments)]


def _opened(db: Path) -> Store:
    if not db.is_file():
        raise BenchError(f"there is no database {db}: kn-bench extract makes one from logs")
    return open_store(db)


def _runs(store: Store, experiments: Iterable[int] | None) -> list[RecordedRun]:
    wanted = None if experiments is None else set(experiments)
    runs = read_runs(store, wanted)
    if missing := (wanted or set()) - {run.id for run in runs}:
        raise BenchError(f"{store.path} has no experiment {', '.join(map(str, sorted(missing)))}")
    if not runs:
        raise BenchError(
            f"{store.path} has no runs: extract logs into it first (kn-bench extract --logs DIR --db {store.path})"
        )
    return runs
