"""Everything that a report says, as numbers: what it draws, tabulates and concludes comes from here.

Rules:
- only what was measured counts; the ramp is read for the pictures over time, where it is shaded
- invalid and incomplete runs are in `runs` and `data`, but in `cells` only when asked for, or when there are no others:
  then `nothing_valid` says so, and nothing is ranked
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from workload_generator.base.errors import BenchError
from workload_generator.results.database import Store, columns_of, open_store
from workload_generator.results.report import delivery, machines, modes, scaling
from workload_generator.results.report.cells import Cell, Ranking, make_cells, rank
from workload_generator.results.report.intervals import Values
from workload_generator.results.report.knee import Knee, find_knees
from workload_generator.results.report.machines import Line
from workload_generator.results.report.runs import Condition, Run, read_runs
from workload_generator.results.report.samples import COLD_WORD, RunData, analyse
from workload_generator.results.report.scaling import Change
from workload_generator.results.report.scan import batches, read_columns
from workload_generator.results.report.starts import Bursts, Starts, read_bursts, read_starts
from workload_generator.results.report.thresholds import Demands, read_demands

CONNECTIONS_SQL = """SELECT target, dns_time, connect_time, tls_time FROM requests
WHERE experiment_id = :id AND (dns_time > 0 OR connect_time > 0 OR tls_time > 0)"""

RANKED = ("p50", "p99")

Progress = Callable[[int, int], None]
"""Runs read, runs in all."""


@dataclass(frozen=True, slots=True)
class Connections:
    """The new connections of one run and language: ranked times in ms of what was paid for."""

    run: Run
    language: str
    dns: Values
    connect: Values
    tls: Values


@dataclass(frozen=True, slots=True)
class Found:
    """The shape of one cell's answered times."""

    cell: Cell
    shape: modes.Shape


@dataclass(frozen=True, slots=True)
class Answers:
    """What a database says of its runs.

    `usage_columns` are those of the tables of usage, as far as they are there. `unreceipted` are the runs that sent so
    many events and of which no receipt is there, though others' are.
    """

    db: Path
    runs: list[Run]
    data: list[RunData]
    cells: list[Cell]
    nothing_valid: bool
    include_invalid: bool
    rankings: list[Ranking]
    knees: list[Knee]
    shapes: list[Found]
    connections: list[Connections]
    demands: list[Demands]
    deliveries: list[delivery.Delivery]
    unreceipted: list[tuple[Run, int]]
    machines: dict[int, list[Line]]
    scaling: dict[int, list[Line]]
    conditions: dict[int, list[tuple[float, Change]]]
    usage_columns: dict[str, set[str]]
    starts: list[Starts]
    bursts: list[Bursts]

    def starts_of(self) -> dict[tuple[Condition, str], list[Starts]]:
        """The watched cold starts of the runs that may be compared, by condition and language."""
        counted = [each for each in self.starts if each.run.counts_in or self.include_invalid or self.nothing_valid]
        found: dict[tuple[Condition, str], list[Starts]] = {}
        for each in sorted(counted, key=lambda each: (each.run.condition.order, each.language)):
            found.setdefault((each.run.condition, each.language), []).append(each)
        return found

    @property
    def left_out(self) -> list[Run]:
        """The runs that no comparison has."""
        if self.include_invalid:
            return []
        return [run for run in self.runs if not run.counts_in]


def ask(
    db: Path,
    *,
    include_invalid: bool = False,
    experiments: Iterable[int] | None = None,
    progress: Progress = lambda _done, _all: None,
) -> Answers:
    """Read the runs with the ids `experiments`, or all. Raises BenchError when there is nothing to say."""
    with _opened(db) as store:
        runs = _runs(store, experiments)
        data, connections = _read(store, runs, progress)
        if not any(each.samples for each in data):
            raise BenchError(f"{db} has no measured requests: its runs ({len(runs)}) have none in the measure phase")
        demands = [own for run in runs if (own := read_demands(store, run)) is not None]
        sent = delivery.sent_events(store)
        deliveries = [found for run in runs if run.id in sent for found in delivery.read_deliveries(store, run)]
        came = {found.run.id for found in deliveries}
        starts = [found for run in runs for found in read_starts(store, run)]
        bursts = [found for run in runs for found in read_bursts(store, run)]
        nodes, pods = machines.read_usage(store, "node_metrics"), machines.read_usage(store, "pod_metrics")
        usage_columns = {table: set(columns_of(store, table)) for table in ("node_metrics", "pod_metrics")}
        autoscaling = scaling.read_scaling(store)
    lines = {each.run.id: machines.lines_of(each, nodes, pods) for each in data}
    comparable = [each for each in data if include_invalid or each.run.counts_in]
    nothing_valid = not any(each.samples for each in comparable)
    cells = make_cells(sample for each in (data if nothing_valid else comparable) for sample in each.samples)
    return Answers(
        db=db,
        runs=runs,
        data=data,
        cells=cells,
        nothing_valid=nothing_valid,
        include_invalid=include_invalid,
        rankings=[] if nothing_valid else [ranking for quantile in RANKED for ranking in rank(cells, quantile)],
        knees=find_knees(cells),
        shapes=_shapes(cells),
        connections=connections,
        demands=demands,
        deliveries=deliveries,
        unreceipted=[(run, sent[run.id]) for run in runs if run.id in sent and run.id not in came],
        machines={run: found for run, found in lines.items() if found},
        starts=starts,
        bursts=bursts,
        scaling={each.run.id: found for each in data if (found := scaling.scaling_of(each, autoscaling))},
        conditions={each.run.id: list(scaling.conditions_of(each, autoscaling)) for each in data},
        usage_columns=usage_columns,
    )


def read_data(db: Path, experiments: Iterable[int] | None = None) -> list[RunData]:
    """Only what the runs measured, for a comparison. Raises BenchError."""
    with _opened(db) as store:
        return [analyse(run, read_columns(store, run)) for run in _runs(store, experiments)]


def _opened(db: Path) -> Store:
    if not db.is_file():
        raise BenchError(f"there is no database {db}: kn-bench extract makes one from logs")
    return open_store(db)


def _runs(store: Store, experiments: Iterable[int] | None) -> list[Run]:
    wanted = None if experiments is None else set(experiments)
    runs = read_runs(store, wanted)
    if wanted is not None and wanted - {run.id for run in runs}:
        missing = ", ".join(str(each) for each in sorted(wanted - {run.id for run in runs}))
        raise BenchError(f"{store.path} has no experiment {missing}")
    if not runs:
        raise BenchError(
            f"{store.path} has no runs: extract logs into it first (kn-bench extract --logs DIR --db {store.path})"
        )
    return runs


def _read(store: Store, runs: list[Run], progress: Progress) -> tuple[list[RunData], list[Connections]]:
    data: list[RunData] = []
    connections: list[Connections] = []
    for number, run in enumerate(runs):
        progress(number, len(runs))
        data.append(analyse(run, read_columns(store, run)))
        connections += _connections(store, run)
    progress(len(runs), len(runs))
    return data, connections


def _connections(store: Store, run: Run) -> list[Connections]:
    paid: dict[str, tuple[list[float], list[float], list[float]]] = {}
    for rows in batches(store, CONNECTIONS_SQL, {"id": run.id}):
        for target, *times in rows:
            lists = paid.setdefault(run.language_of(target), ([], [], []))
            for values, time in zip(lists, times, strict=True):
                if time:
                    values.append(time)
    ranked = {language: [np.sort(np.array(values)) for values in lists] for language, lists in sorted(paid.items())}
    return [Connections(run, language, *lists) for language, lists in ranked.items()]


def _shapes(cells: list[Cell]) -> list[Found]:
    """Of each cell, from at most some thousand of its answered times, as many of each run as it has in proportion."""
    found = []
    for cell in cells:
        picked = np.concatenate([sample.picked for sample in cell.samples])
        shape = modes.shape_of(picked)
        if shape is not None and (cell.temperature == COLD_WORD or shape.odd):
            found.append(Found(cell, shape))
    return found
