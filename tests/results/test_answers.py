"""What the views and the tables say, against answers counted by hand or by the obvious means."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from tests.results import logs
from tests.results.logs import NAME, failed, header, line, rows_of, served, whole_log
from tests.results.test_extract import OLD_LOG, OLD_NAME
from tests.results.test_store import ORIGINAL, make
from workload_generator.base.histogram import BEYOND
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind, Phase, Result
from workload_generator.results.database import open_store
from workload_generator.results.extract_summary import print_tables, ttfb_us
from workload_generator.results.ingest.extract import extract


def database(folder: Path, results: Sequence[Result], trailer: bool = True) -> Path:
    log = whole_log(results)
    if not trailer:
        log = b"".join([line(log_format.RUN_STARTED, header()), *logs.request_lines(results)])
    (folder / NAME).write_bytes(log)
    extract(folder, folder / "x.db")
    return folder / "x.db"


def printed(db: Path, experiments: Sequence[int] | None = None) -> str:
    out = io.StringIO()
    print_tables(db, Console(width=200, file=out), experiments)
    return out.getvalue()


def test_status_shares(tmp_path: Path) -> None:
    db = database(
        tmp_path,
        [served(0, phase=Phase.RAMP), served(1), served(2), served(3, status=503), failed(4, ErrorKind.RESET)],
    )
    assert rows_of(db, "SELECT status, error_kind, arrivals, share FROM status_shares") == [
        {"status": 0, "error_kind": "reset", "arrivals": 1, "share": 0.25},
        {"status": 200, "error_kind": None, "arrivals": 2, "share": 0.5},
        {"status": 503, "error_kind": None, "arrivals": 1, "share": 0.25},
    ]


def test_a_quantile_among_failures_is_infinite(tmp_path: Path) -> None:
    results = [served(n, ms=n + 1) for n in range(95)]
    results += [served(95, ms=0.1, status=503), *(failed(n, ErrorKind.DROPPED) for n in range(96, 100))]
    db = database(tmp_path, results)
    (row,) = rows_of(db, "SELECT * FROM ttfb_quantiles")
    assert row == {
        "experiment_id": 1, "arrivals": 100, "served": 95, "min": 1, "p25": 25, "p50": 50, "p75": 75, "p90": 90,
        "p99": math.inf, "p999": math.inf, "max": math.inf,
    }  # fmt: skip


@settings(deadline=None, max_examples=40)
@given(st.lists(st.none() | st.integers(0, 2000), min_size=1, max_size=40), st.booleans())
def test_quantiles_are_nearest_ranks(times_us: list[int | None], trailer: bool) -> None:
    rows = [
        failed(seq) if us is None else served(seq, ttfb_ns=us * 1000, total_ns=us * 1000)
        for seq, us in enumerate(times_us)
    ]
    ranked = sorted(math.inf if us is None else us for us in times_us)
    shares = {"min": 0, "p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
    expected = {name: ranked[max(1, -(-len(ranked) * share // 1000)) - 1] for name, share in shares.items()}
    with tempfile.TemporaryDirectory() as name:
        db = database(Path(name), rows, trailer)
        (view,) = rows_of(db, 'SELECT min, p50, p90, p99, p999 AS "p99.9", max FROM ttfb_quantiles')
        with open_store(db) as store:
            shown = ttfb_us(store, 1)
    assert {key: value * 1000 for key, value in view.items()} == pytest.approx(expected)
    assert shown == pytest.approx(expected, abs=1 if trailer else 1e-6)


def test_cold_starts(tmp_path: Path) -> None:
    results = [
        served(0, ms=1000, cold=True),
        served(1, ms=1200, cold=True),
        served(2, ms=1, cold=False),
        served(3, ms=2, cold=None),
        served(4, ms=1, cold=True, status=503),
        failed(5),
    ]
    db = database(tmp_path, results)
    rows = rows_of(db, "SELECT is_cold, requests, min, p50, p90, max, mean FROM ttfb_by_cold ORDER BY is_cold")
    assert [tuple(row.values()) for row in rows] == [
        (None, 1, 2.0, 2.0, 2.0, 2.0, 2.0),
        (0, 1, 1.0, 1.0, 1.0, 1.0, 1.0),
        (1, 2, 1000.0, 1000.0, 1200.0, 1200.0, 1100.0),
    ]


def test_throughput_by_second(tmp_path: Path) -> None:
    results = [served(0), served(1, status=500), failed(2, ErrorKind.DROPPED), served(1000), failed(1001)]
    db = database(tmp_path, results)
    rows = rows_of(db, "SELECT second, sent, ok, failed, dropped, cold FROM throughput_by_second ORDER BY second")
    assert [tuple(row.values()) for row in rows] == [
        ("2025-02-10T10:11:12", 2, 1, 1, 1, 1),
        ("2025-02-10T10:11:13", 2, 1, 1, 0, 0),
    ]


def test_views_hold_only_the_measure_phase(tmp_path: Path) -> None:
    db = database(tmp_path, [served(-1, phase=Phase.PING), served(0, phase=Phase.RAMP)], trailer=False)
    for view in ("requests", "status_shares", "ttfb_quantiles", "ttfb_by_cold", "throughput_by_second"):
        assert rows_of(db, f"SELECT * FROM {view}") == []


def test_the_tables_of_a_run(tmp_path: Path) -> None:
    text = printed(database(tmp_path, [served(0, ms=1.5), *(served(n, ms=2) for n in range(1, 9)), failed(9)]))
    words = [row.split() for row in text.splitlines()]
    assert ["1", "serving-scenario-1", "go", "2000", "host", "valid"] in words
    assert ["1", "10", "10", "9", "1", "0", "0"] in words
    assert ["1", "1.500", "2.000", "2.000", *(">", "30s") * 3, "1"] in words


def test_the_tables_of_what_is_not_whole(tmp_path: Path) -> None:
    (tmp_path / OLD_NAME).write_text(OLD_LOG)
    text = printed(database(tmp_path, [served(0)], trailer=False))
    assert "incomplete" in text
    assert "the log has no trailer" in text
    assert "—" in text  # what the original's log does not tell


def test_only_the_runs_asked_for(tmp_path: Path) -> None:
    (tmp_path / OLD_NAME).write_text(OLD_LOG)
    db = database(tmp_path, [served(0)])
    assert "2000" in printed(db)
    assert len(printed(db, [1]).splitlines()) == len(printed(db).splitlines()) - 3
    assert printed(db, []).strip() == "no runs yet"


def test_the_tables_of_a_migrated_database(tmp_path: Path) -> None:
    text = printed(make(tmp_path / "x.db", ORIGINAL))
    assert "serving-scenario-2" in text and " 1300.0 " in text


def test_a_run_without_a_measured_arrival(tmp_path: Path) -> None:
    db = database(tmp_path, [served(0, phase=Phase.RAMP)], trailer=False)
    with open_store(db) as store:
        assert set(ttfb_us(store, 1).values()) == {None}
    assert "—" in printed(db)


def test_a_broken_histogram_is_counted_from_the_rows(tmp_path: Path) -> None:
    db = database(tmp_path, [served(0, ms=1.5), failed(1)])
    with open_store(db) as store:
        store.execute("UPDATE shards SET histograms = '{}'")
        assert list(ttfb_us(store, 1).values()) == [1500, 1500, BEYOND, BEYOND, BEYOND, BEYOND]


def test_the_tables_fit_a_terminal_of_80_columns(tmp_path: Path) -> None:
    db = database(tmp_path, [served(0, ms=29999), *(served(n, ms=999.999) for n in range(1, 9))])
    with open_store(db) as store:
        store.execute("UPDATE experiments SET planned = 9999999, sent = 9999999, ok = 9999999, language = 'springboot'")
    out = io.StringIO()
    print_tables(db, Console(width=80, file=out))
    assert "…" not in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_the_page_on_the_database_is_true(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "database.md").read_text("utf-8")
    db = database(tmp_path, [served(0)])
    for row in rows_of(db, "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view')"):
        assert f"| `{row['name']}` |" in page
    examples = page.partition("```sql\n")[2].partition("```")[0]
    statements = [statement for statement in examples.split(";\n") if statement.strip()]
    assert len(statements) == 5
    for statement in statements:
        assert rows_of(db, statement)


def test_names_with_brackets_are_shown_as_they_are(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(whole_log([served(0)], prefix="x", name="[red]mine[/]"))
    extract(tmp_path, tmp_path / "x.db")
    assert "[red]mine[/]" in printed(tmp_path / "x.db")
