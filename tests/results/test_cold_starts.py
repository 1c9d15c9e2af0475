"""Phases of cold starts: the view, the tables and the sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.results.logs import GO, NAME, header, line, request_lines, rows_of, served, trailer
from workload_generator.log import format as log_format
from workload_generator.results.database import open_store
from workload_generator.results.extract_summary import proof_lines
from workload_generator.results.ingest.extract import extract
from workload_generator.results.report.answers import ask
from workload_generator.results.report.cold_starts import phases_table
from workload_generator.results.report.conclusions import summarise

SEEN = {
    "scale": 60.0, "created": 107.0, "scheduled": 127.0, "started": 577.0, "queue_ready": 1100.2, "ready": 1103.4,
    "first_byte": 601.25,
}  # fmt: skip
"""On a real node: the activator's probe succeeds half a second before Kubernetes writes ready."""
ERRORS = {name: number + 1.5 for number, name in enumerate(SEEN)} | {"first_byte": 0.0}


def database(
    folder: Path, points: dict[str, float], source: str = "kubernetes", errors: dict[str, float] | None = None
) -> Path:
    """One proven cold start with these points."""
    result = served(0, points["first_byte"], cold=True)
    fields: dict[str, Any] = {
        "seq": 0, "time": "2025-02-10T10:11:12.000020Z", "target": GO,
        "source": source, "zero": True, "zero_for": 500.0, "waited": 0.0, "instance": "pod-1", "cold": True,
        "proven": True, "reason": "", "points": points, "error": 21.5, "grid": [], "clock": None,
    }  # fmt: skip
    start = fields if errors is None else fields | {"errors": errors}
    head = header() | {"experiment": header()["experiment"] | {"mode": "cold-start"}}
    whole = [line("run_started", head), *request_lines([result]), line(log_format.COLD_START, start), trailer([result])]
    (folder / NAME).write_bytes(b"".join(whole))
    assert not extract(folder, folder / "x.db").skipped
    return folder / "x.db"


def phases(db: Path) -> list[tuple[Any, ...]]:
    rows = rows_of(db, 'SELECT phase, begin, "end", error, ready FROM cold_start_phases ORDER BY number')
    return [tuple(row.values()) for row in rows]


def test_in_a_cluster_the_last_phase_is_application_start_and_probe_with_ready_beside_it(tmp_path: Path) -> None:
    db = database(tmp_path, SEEN, errors=ERRORS)
    assert phases(db) == [
        ("scale", 0, 60, 1.5, None),
        ("created", 60, 107, 2.5, None),
        ("scheduled", 107, 127, 3.5, None),
        ("started", 127, 577, 4.5, None),
        ("application_start_and_probe", 577, 601.25, 0, 1103.4),
    ]
    table = phases_table(ask(db).group_starts())
    names = [column.name for column in table.columns]
    shown = {row[names.index("phase")]: row for row in map(table.texts, range(len(table.rows)))}
    assert list(shown) == [
        "scale decision", "instance created", "scheduled", "containers started", "application start and probe",
    ]  # fmt: skip
    last, started = shown["application start and probe"], shown["containers started"]
    of = {"p50": "24.2", "error": "0.0", "ready": "1,103.4"}
    assert {name: last[names.index(name)] for name in of} == of, "one decimal"
    assert started[names.index("error")] == "4.5" and started[names.index("ready")] == "—"
    with open_store(db) as store:
        assert proof_lines(store)[1].endswith("application start and probe 24.2 (ready at 1,103.4)")


def test_a_point_that_was_not_seen_before_the_first_byte_makes_no_phase(tmp_path: Path) -> None:
    late = {"scale": 60.0, "created": 107.0, "started": 700.0, "first_byte": 601.25}
    found = phases(database(tmp_path, late, errors=dict.fromkeys(late, 50.0) | {"first_byte": 0.0}))
    assert [(name, begin, end) for name, begin, end, *_ in found] == [
        ("scale", 0, 60), ("created", 60, 107), ("application_start_and_probe", 107, 601.25),
    ]  # fmt: skip
    text = next(each.text for each in summarise(ask(tmp_path / "x.db")).conclusions if each.section == "cold")
    assert text.endswith("their longest phase (82%) is: application start and probe.")


@pytest.mark.parametrize("started", [577.0, 640.0])
def test_a_point_within_its_error_of_the_first_byte_was_seen(tmp_path: Path, started: float) -> None:
    points = SEEN | {"started": started}
    found = phases(database(tmp_path, points, errors=ERRORS | {"started": 50.0}))
    assert ("started", 127, min(started, 601.25), 50, None) in found


def test_the_embedded_platform_waits_for_ready_itself(tmp_path: Path) -> None:
    points = {"scale": 1.0, "created": 2.0, "listening": 300.0, "ready": 305.0, "first_byte": 310.0}
    found = phases(database(tmp_path, points, source="local"))
    assert [name for name, *_ in found] == list(points) and {row[3:] for row in found} == {(21.5, None)}, "an older log"
