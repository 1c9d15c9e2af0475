"""The path of requests in a cluster: from `…_environment.jsonl` into the database, the report and `compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.results import logs
from tests.results.logs import GO, NAME, TS, header, rows_of, served, whole_log
from workload_generator.base.clock import NS_PER_MS, rfc3339
from workload_generator.commands import kn_bench
from workload_generator.results.database import open_store
from workload_generator.results.ingest.extract import extract
from workload_generator.results.report.answers import ask
from workload_generator.results.report.runs import read_runs
from workload_generator.results.report.sections import make_tables

FILE = "s_environment.jsonl"
GO_SERVICE, TS_SERVICE = "empty-go-http-0", "empty-ts-http-0"
Change = tuple[float, str, str | None]


def observed(ms: float, service: str | None, path: str | None, run_id: str = "run-1", **more: Any) -> bytes:
    """A line, `ms` after the start."""
    time = rfc3339(logs.START.wall_ns + int(ms * NS_PER_MS))
    doc = {"event": "path", "time": time, "run_id": run_id, "service": service, "path": path}
    return json.dumps(doc | more).encode() + b"\n"


def test_observations_are_rows_and_a_bad_line_costs_that_line(tmp_path: Path) -> None:
    db, file = tmp_path / "b.db", tmp_path / FILE
    first = observed(0, GO_SERVICE, "activator", revision="r-1", mode="Proxy", endpoints="activator")
    unknown = observed(1, None, None, why="forbidden")
    bad = [
        b"{\n",
        observed(2, GO_SERVICE, "sideways"),
        observed(2, GO_SERVICE, "direct").replace(b"2025-02-10", b"2025-02-30"),
        observed(2, GO_SERVICE, "direct").replace(b'"path", "time"', b'"weather", "time"'),
    ]
    last = observed(3, GO_SERVICE, "direct", revision="r-1", mode="Serve", endpoints="pods")
    file.write_bytes(first + b"".join(bad) + unknown + last[:-9])
    report = extract(tmp_path, db)
    assert [skip.line for skip in report.skipped] == [2, 3, 4, 5, 7]
    assert all("not an observation of a cluster" in skip.reason for skip in report.skipped[:4])
    assert (report.files, report.logs, report.read) == (1, 0, 0)
    file.write_bytes(first + b"".join(bad) + unknown + last)
    for _ in range(2):
        extract(tmp_path, db)
    (tmp_path / f"copy_{FILE}").write_bytes(file.read_bytes())
    (copied,) = extract(tmp_path, db).skipped
    assert "a copy of" in copied.reason
    (tmp_path / f"copy_{FILE}").write_bytes(b"{}\n" + file.read_bytes())
    extract(tmp_path, db)
    columns = ("run_id", "event", "service", "revision", "mode", "endpoints", "path", "why")
    assert [tuple(row[name] for name in columns) for row in rows_of(db, "SELECT * FROM environment ORDER BY time")] == [
        ("run-1", "path", GO_SERVICE, "r-1", "Proxy", "activator", "activator", None),
        ("run-1", "path", None, None, None, None, None, "forbidden"),
        ("run-1", "path", GO_SERVICE, "r-1", "Serve", "pods", "direct", None),
    ]


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ([], None),
        ([(-9, GO_SERVICE, None)], None),
        ([(-9, TS_SERVICE, "direct")], None),
        ([(-9, GO_SERVICE, "activator"), (-8, TS_SERVICE, "direct")], "activator"),
        ([(-9, GO_SERVICE, "activator"), (-5, GO_SERVICE, "direct"), (-2, GO_SERVICE, None)], "direct"),
        ([(-9, GO_SERVICE, "activator"), (3, GO_SERVICE, "direct")], "activator → direct"),
        ([(-9, GO_SERVICE, "direct"), (3, GO_SERVICE, None), (4, GO_SERVICE, "direct")], "direct"),
        ([(2, GO_SERVICE, "direct"), (3, GO_SERVICE, "activator")], "direct → activator"),
    ],
)
def test_the_report_has_the_path_of_the_targets_since_the_first_measured_request(
    changes: list[Change], path: str | None, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(whole_log([served(n) for n in range(9)]))
    (tmp_path / FILE).write_bytes(b"".join(observed(*change) for change in changes))
    extract(tmp_path, tmp_path / "b.db")
    (table,) = (
        each for tables in make_tables(ask(tmp_path / "b.db")).values() for each in tables if each.key == "runs"
    )
    place = [column.name for column in table.columns].index("path")
    assert (table.rows[0][place], table.texts(0)[place]) == (path, path or "—")


def test_targets_with_different_paths_have_both(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(whole_log([served(0)], targets=[GO, TS]))
    lines = [
        observed(-9, TS_SERVICE, "direct"),
        observed(-9, GO_SERVICE, "activator"),
        observed(2, GO_SERVICE, "direct"),
    ]
    (tmp_path / FILE).write_bytes(b"".join(lines))
    extract(tmp_path, tmp_path / "b.db")
    with open_store(tmp_path / "b.db") as store:
        assert [run.path for run in read_runs(store)] == ["activator → direct, direct"]


def runs(folder: Path, path: str | None, mode: str) -> Path:
    folder.mkdir()
    lines = []
    for number in range(4):
        head = header(run_id=f"{folder.name}-{number}")
        head["experiment"]["mode"] = mode
        results = [served(n) for n in range(20)]
        log = [logs.line("run_started", head), *logs.request_lines(results), logs.trailer(results)]
        (folder / f"run_{number}.log").write_bytes(b"".join(log))
        lines.append(observed(-9, GO_SERVICE, path, run_id=head["run_id"]))
    (folder / FILE).write_bytes(b"".join(lines))
    extract(folder, folder / "x.db")
    return folder / "x.db"


@pytest.mark.parametrize(
    ("paths", "mode", "refused"),
    [
        (("activator", "direct"), "open", True),
        (("activator", "activator"), "open", False),
        (("activator", None), "open", False),
        (("activator", "direct"), "cold-start", False),
    ],
)
def test_different_known_paths_of_warm_requests_are_compared_only_by_force(
    paths: tuple[str, str | None], mode: str, refused: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = (runs(tmp_path / name, path, mode) for name, path in zip("ab", paths, strict=True))
    assert kn_bench.main(["compare", str(a), str(b)]) == (2 if refused else 0)
    assert (f"path: activator in {a}, direct in {b}" in capsys.readouterr().err) == refused
    assert kn_bench.main(["compare", str(a), str(b), "--force"]) == 0
