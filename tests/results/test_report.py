"""`kn-bench report` as a user runs it: page, tables, conclusions and errors."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.results.campaign import Reported
from tests.results.logs import NAME, failed, header, line, request_lines, rows_of, served, trailer, whole_log
from tests.results.test_answers import database, printed
from tests.results.test_store import ORIGINAL, make
from workload_generator.base.clock import NS_PER_S
from workload_generator.commands import kn_bench
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind, Phase, Result
from workload_generator.results.ingest.extract import extract
from workload_generator.results.report.answers import Answers, ask
from workload_generator.results.report.conclusions import summarise
from workload_generator.results.report.nodes_and_pods import quantity, service_of
from workload_generator.results.report.report import MOST_BYTES, write_report
from workload_generator.results.report.request_rows import known, wall_us
from workload_generator.results.report.sections import make_tables
from workload_generator.results.report.table import MS, Table, merged, write_csv, written


def run(*argv: str | Path) -> int:
    return kn_bench.main([str(word) for word in argv])


def report_of(folder: Path, results: Sequence[Result]) -> list[str]:
    """The headline and the conclusions of a database of one run."""
    summary = summarise(ask(database(folder, results)))
    return [summary.headline, *(each.text for each in summary.conclusions)]


@pytest.mark.parametrize(("changes", "warned"), [({"seed": 8}, False), ({"coldStart": {"gap": "1s"}, "seed": 8}, True)])
def test_a_seed_alone_does_not_make_another_configuration(
    tmp_path: Path, changes: dict[str, Any], warned: bool
) -> None:
    for number, more in enumerate(({"seed": 7}, changes)):
        head = header(run_id=f"run-{number}", prefix="serving-scenario-1_1000rps_go")
        head["experiment"]["config"] |= more
        head["experiment"]["sha256"] = f"{number}" * 64
        results = [served(0)]
        lines = [line(log_format.RUN_STARTED, head), *request_lines(results), trailer(results)]
        (tmp_path / f"serving-scenario-1_1000rps_go_2025-02-10_10-11-{number:02}.log").write_bytes(b"".join(lines))
    assert not extract(tmp_path, tmp_path / "x.db").skipped
    words = [each.text for each in summarise(ask(tmp_path / "x.db")).conclusions]
    assert any("have 2 configurations" in text for text in words) is warned, words


class Reader(HTMLParser):
    """Checks that elements close in order, and collects links and ids."""

    VOID = frozenset({"meta", "link", "input", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name in ("src", "href") and value:
                self.links.append(value)
            if name == "id" and value:
                self.ids.append(value)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_self_contained(reported: Reported) -> None:
    page = reported.page.read_text()
    assert len(page.encode()) < MOST_BYTES
    reader = Reader()
    reader.feed(page)
    assert not reader.open
    assert len(reader.ids) == len(set(reader.ids))
    inner = {link[1:] for link in reader.links if link.startswith("#")}
    assert inner <= set(reader.ids)
    assert {link for link in reader.links if not link.startswith("#")} == {"data:,"}
    assert "default-src 'none'" in page


def test_the_terminal_has_the_tables_and_the_verdict(reported: Reported) -> None:
    assert "131 of 133 runs are valid; 1 invalid, 1 incomplete." in reported.text
    assert "Cold starts by language" in reported.text
    assert f"report: {reported.page}" in reported.text
    assert re.search(r"1\d tables as CSV", reported.text)


def test_csv_has_what_the_tables_have(campaign: Path, answers: Answers, reported: Reported) -> None:
    assert {path.stem for path in reported.csv.iterdir()} == {
        table.key for own in make_tables(answers).values() for table in own
    }
    with (reported.csv / "ttfb_runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    go = [row for row in rows if (row["run"], row["temperature"]) == ("2", "all")]
    assert [row["reading"] for row in go] == ["all", "answered"]
    (view,) = rows_of(campaign, "SELECT * FROM ttfb_quantiles WHERE experiment_id = 2")
    for name in ("min", "p25", "p50", "p75", "p90", "p99", "max"):
        assert float(go[0][f"{name}_ms"]) == view[name]
    with (reported.csv / "throughput_by_second.csv").open() as file:
        seconds = [row for row in csv.DictReader(file) if row["run"] == "2"]
    assert [int(row["ok"]) for row in seconds] == [100, 100]


def test_lost_arrivals_rank_above_all_others_in_one_of_two_readings(tmp_path: Path) -> None:
    db = database(tmp_path, [*(served(n, ms=n + 1) for n in range(98)), failed(98), failed(99, ErrorKind.DROPPED)])
    report = write_report(db, tmp_path / "r.html", csv=tmp_path)
    with (tmp_path / "ttfb_runs.csv").open() as file:
        rows = {row["reading"]: row for row in csv.DictReader(file) if row["temperature"] == "all"}
    assert (rows["all"]["p99_ms"], rows["answered"]["p99_ms"]) == ("inf", "98.0")
    assert (rows["all"]["arrivals"], rows["answered"]["arrivals"]) == ("100", "98")
    table = next(table for table in report.tables if table.key == "ttfb")
    assert any("> 30s" in text for text in table.texts(0))


def test_only_the_measure_phase_counts(tmp_path: Path) -> None:
    results = [served(-1, phase=Phase.PING), *(served(n, ms=900, phase=Phase.RAMP) for n in range(50))]
    answers = ask(database(tmp_path, [*results, *(served(n, ms=1) for n in range(50, 60))]))
    assert sum(sample.arrivals for sample in answers.data[0].samples if sample.temperature == "all") == 10
    assert answers.data[0].samples[0].ttfb.all["max"] == 1
    assert answers.data[0].timelines[0].ok.sum() == 60, "the ramp is drawn"


def test_one_run_is_not_ranked(tmp_path: Path) -> None:
    words = report_of(tmp_path, [served(n, ms=2) for n in range(200)])
    assert words[0] == "The run is valid."
    assert any("p50 2 ms, p99 2 ms (1 run, 199 arrivals)" in text for text in words)
    assert any("a single run each, which is not evidence about another run" in text for text in words)


def test_events_without_a_receipt_are_reported(tmp_path: Path) -> None:
    words = report_of(tmp_path, [served(n, event_id=f"event-{n}") for n in range(5)])
    assert any("sent 5 events, but the database has no receipt of them" in text for text in words)


def events_with_receipts(folder: Path, statuses: Sequence[int], delivered: Sequence[int], triggers: int = 2) -> Path:
    """A database of one run with an event for each status; each trigger delivered the events `delivered`."""
    stamps = [f"event-{n},2025-02-10T10:11:13Z,trigger-{t},i-0,1,{n}\n" for n in delivered for t in range(triggers)]
    (folder / "events.csv").write_text("event_id,timestamp,trigger,instance,attempt,sequence\n" + "".join(stamps))
    return database(folder, [served(n, status=code, event_id=f"event-{n}") for n, code in enumerate(statuses)])


@pytest.mark.parametrize(
    ("statuses", "delivered", "kind", "account", "failures"),
    [
        ([202] * 8, range(8), "good", "of 8 acknowledged events every one was delivered exactly once", None),
        (
            [500] * 8, range(8), "warn", "none of 8 events was acknowledged; 8 were delivered unacknowledged.",
            "100.0% of arrivals failed (status 500: 8).",
        ),
        ([500] * 8, range(5), "warn", "none of 8 events was acknowledged; 5 were delivered unacknowledged.", None),
        (
            [202] * 6 + [500, 503], range(7), "warn",
            "of 6 acknowledged events every one was delivered exactly once through each of 2 triggers; "
            "1 was delivered unacknowledged.",
            "28.6% of arrivals failed (status 500: 1, status 503: 1).",  # of 7 warm ones
        ),
        (
            [202] * 6 + [500, 500], [0, 1, 2, 3, 6], "warn",
            "of 6 acknowledged events, expected once through each of 2 triggers, 4 (33.33%) were lost; "
            "1 was delivered unacknowledged.",
            None,
        ),
    ],
)  # fmt: skip
def test_an_event_is_lost_only_if_it_was_acknowledged(
    statuses: list[int], delivered: Sequence[int], kind: str, account: str, failures: str | None, tmp_path: Path
) -> None:
    conclusions = summarise(ask(events_with_receipts(tmp_path, statuses, delivered))).conclusions
    (found,) = [each for each in conclusions if each.section == "eventing"]
    assert account in found.text and found.kind == kind, found
    texts = [each.text for each in conclusions if each.section == "failures"]
    assert not any("lost" in text for text in texts)
    assert failures is None or failures in "".join(texts), texts


def test_events_that_were_delivered_unacknowledged_have_a_column(tmp_path: Path) -> None:
    db = events_with_receipts(tmp_path, [500] * 8, range(5))
    report = write_report(db, tmp_path / "r.html")
    (table,) = [table for table in report.tables if table.key == "delivery"]
    at = [column.name for column in table.columns].index("delivered unacknowledged")
    assert [row[at] for row in table.rows] == [5, 5]
    assert re.search(r" unacked\b", printed(db))


def test_python_and_ts_without_a_difference(answers: Answers) -> None:
    words = [each.text for each in summarise(answers).conclusions]
    (cold,) = [text for text in words if "cold starts, p50" in text]
    assert re.search(r"springboot 1,0\d\d ms < ts 1,1\d\d ms < go .* ≈ rust .* < python .* < quarkus", cold)
    assert cold.endswith("No difference shown at this sample size: go and rust.")
    assert any("springboot" in text and "a wait of whole seconds" in text for text in words)
    assert any(text.startswith("serving-scenario-1, python: the knee lies between 200 and 400 rps") for text in words)
    assert "Run 98 is incomplete: the log has no trailer: the run was killed or is still running." in words


def test_the_number_of_runs_needed_is_reported(campaign: Path) -> None:
    few = ask(campaign, experiments=[2, 3, 12, 13])  # two runs of go and of quarkus
    assert len(few.rankings) == 2
    words = [each.text for each in summarise(few).conclusions]
    assert any("2 runs of a language; at least 4 runs of each are needed" in text for text in words)


def test_an_invalid_run_is_shown_but_not_compared(campaign: Path, tmp_path: Path) -> None:
    (broken,) = rows_of(campaign, "SELECT id FROM experiments WHERE verdict = 'invalid'")
    report = write_report(campaign, tmp_path / "r.html", experiments=[broken["id"]])
    assert report.summary.kind == "bad"
    assert report.answers.nothing_valid and not report.answers.rankings
    assert any("lag p99" in each.text for each in report.summary.conclusions)


def test_the_report_of_the_originals_database(tmp_path: Path) -> None:
    report = write_report(make(tmp_path / "x.db", ORIGINAL), tmp_path / "r.html")
    assert "The 2 runs have no verdict" in report.summary.headline
    assert any("whole milliseconds" in each.text for each in report.summary.conclusions)


def test_empty_tables_have_no_chart(tmp_path: Path) -> None:
    db = database(tmp_path, [served(n) for n in range(5)])
    connection = sqlite3.connect(db)
    connection.executescript(
        "CREATE TABLE node_metrics (id INTEGER, node_name TEXT, cpu_usage TEXT, memory_usage TEXT, timestamp TEXT);"
        "CREATE TABLE pod_metrics (id INTEGER, pod_name TEXT, timestamp TEXT);"
    )
    connection.close()
    write_report(db, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert 'id="machines"' not in page and 'id="eventing"' not in page and 'id="distribution"' in page


def test_markup_in_names_is_escaped(tmp_path: Path) -> None:
    db = database(tmp_path, [served(n) for n in range(5)])
    evil = "</script><script>alert(1)</script><!--"
    connection = sqlite3.connect(db)
    connection.execute("UPDATE experiments SET scenario = ?, reasons = ?", (evil, json.dumps([evil])))
    connection.commit()
    connection.close()
    write_report(db, tmp_path / "r.html", csv=tmp_path)
    page = (tmp_path / "r.html").read_text()
    assert "<script>alert" not in page
    reader = Reader()
    reader.feed(page)
    assert not reader.open


EVIL = "[red]a[/] \x1b]0;title\x07\x1b[2J :bomb: \u202eb"
SHOWN = "[red]a[/] \\x1b]0;title\\x07\\x1b[2J :bomb: \\u202eb"


@pytest.mark.parametrize("command", ["report", "compare", "compare --force", "extract"])
def test_nothing_of_a_file_steers_the_terminal(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "500")
    sides = []
    for name, platform in (("a", "host"), ("b", EVIL)):
        (tmp_path / name).mkdir()
        sides.append(database(tmp_path / name, [served(n, status=503 if n % 2 else 200) for n in range(9)]))
        with sqlite3.connect(sides[-1]) as connection:
            columns = ("scenario", "language", "version", "timeout")
            marks = ", ".join(f"{column} = ?" for column in (*columns, "platform", "reasons", "verdict"))
            values = (*([EVIL] * len(columns)), platform, json.dumps([EVIL]), "invalid")
            connection.execute(f"UPDATE experiments SET {marks}", values)
        connection.close()
    if command == "report":
        assert run("report", "--db", sides[1], "--out", tmp_path / "r.html") == 0
    elif command == "extract":
        sys.stdout.write(printed(sides[1]))
    else:
        words = [*command.split(), *sides, "--include-invalid"]
        assert run(*words) == (4 if "--force" in words else 2)
    shown = "".join(capsys.readouterr())
    assert SHOWN in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202e]", shown) and "💣" not in shown


def test_a_name_cannot_leave_its_place_in_the_pages_style(tmp_path: Path) -> None:
    db = database(tmp_path, [served(n) for n in range(5)])
    with sqlite3.connect(db) as connection:
        connection.execute("UPDATE experiments SET language = 'x, red); position: fixed; inset: 0; --y: (z'")
    connection.close()
    write_report(db, tmp_path / "r.html")
    styles = re.findall(r'style="(--swatch[^"]*)"', (tmp_path / "r.html").read_text())
    assert styles == ["--swatch: var(--lang-x--red---position--fixed--inset--0----y---z, var(--lang-unknown))"]


def test_a_large_report_gets_coarser_charts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [served(n, ms=1 + n % 7, due_ns=n * NS_PER_S, start_ns=n * NS_PER_S) for n in range(120)]
    db = database(tmp_path, results)
    whole = write_report(db, tmp_path / "whole.html").size
    most = whole - 1_000
    monkeypatch.setattr("workload_generator.results.report.report.MOST_BYTES", most)
    assert write_report(db, tmp_path / "less.html").size < most


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "there is no database"),
        ("not sqlite", "file is not a database"),
        ("", "has no runs: extract logs into it first"),
        ("CREATE TABLE birds (id INTEGER);", "is not a benchmark database"),
    ],
)
def test_a_missing_or_foreign_database_is_an_error(
    script: str | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    db = tmp_path / "x.db"
    if script == "not sqlite":
        db.write_text(script * 1000)
    elif script is not None:
        make(db, script)
    assert run("report", "--db", db, "--out", tmp_path / "r.html") == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_a_database_without_measured_requests_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = database(tmp_path, [served(0, phase=Phase.RAMP)])
    assert run("report", "--db", db, "--out", tmp_path / "r.html") == 1
    assert "has no measured requests" in capsys.readouterr().err


@needs.mark(needs.NOT_ROOT)
def test_a_read_only_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    db = database(tmp_path, [served(0)])
    assert run("report", "--db", db, "--out", folder / "r.html") == 1
    assert "cannot write the report" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["missing/r.html", "folder", "x.db"])
def test_an_impossible_path_is_an_error(out: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = database(tmp_path, [served(0)])
    (tmp_path / "folder").mkdir()
    before = db.read_bytes()
    assert run("report", "--db", db, "--out", tmp_path / out) == 1
    assert "report" in capsys.readouterr().err
    assert db.read_bytes() == before


def test_a_file_in_place_of_the_csv_folder_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    db = database(tmp_path, [served(0)])
    (tmp_path / "csv").write_text("mine")
    assert run("report", "--db", db, "--out", tmp_path / "r.html", "--csv", tmp_path / "csv") == 1
    assert "cannot write the tables" in capsys.readouterr().err


def test_a_report_replaces_the_last_one(tmp_path: Path) -> None:
    db = database(tmp_path, [served(n) for n in range(5)])
    out = tmp_path / "r.html"
    out.write_text("old")
    write_report(db, out)
    assert out.read_text().startswith("<!doctype html>")
    assert not list(tmp_path.glob(".r.html*"))
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# Parts


def test_timestamps() -> None:
    texts = ["2025-02-09 10:11:13.5+00:00", "2025-02-09T10:11:13.567891234Z", None, "bäd", "2025-02-09T11:11:13+01:00",
             "2025-02-09T10:11:13Z", "2025-02-10T00:00:00.000001Z", "2025-13-09T10:11:13Z"]  # fmt: skip
    found = wall_us(texts)
    base = 1_739_095_873_000_000
    assert known(found).tolist() == [True, True, False, False, True, True, True, False]
    assert [at - base for at in found[known(found)].tolist()] == [500_000, 567_891, 0, 0, 49_727_000_001]
    assert wall_us(texts[:2] + texts[4:7]).tolist() == found[known(found)].tolist()


@pytest.mark.parametrize(
    ("text", "value"),
    [("183632734n", 0.183632734), ("250m", 0.25), ("2", 2), ("2663656Ki", 2663656 * 1024), ("1Gi", 2**30), (3, 3)],
)
def test_quantities(text: object, value: float) -> None:
    assert quantity(text) == pytest.approx(value)


@pytest.mark.parametrize("text", [None, "", "fast", "1.2.3Ki"])
def test_invalid_quantities(text: object) -> None:
    assert quantity(text) != quantity(text)


@pytest.mark.parametrize(
    ("pod", "service"),
    [
        ("empty-go-http-0-00001-deployment-7d9f6c5b8-x4k2p", "empty-go-http-0"),
        ("controller-7d9f6c5b8-x4k2p", "controller"),
        ("node-1", "node-1"),
    ],
)
def test_services_of_pods(pod: str, service: str) -> None:
    assert service_of(pod) == service


def test_values_as_text() -> None:
    values = [None, float("nan"), 1.4824, 250.04, 12_345.6, float("inf")]
    assert [written(value, MS) for value in values] == ["—", "—", "1.482", "250.0", "12,346", "> 30s"]


def test_an_interval_follows_its_figure(tmp_path: Path) -> None:
    table = Table("t", "T", "", MS("p50", "p50 low", "p50 high", "max"))
    table.add(2.0, 1.0, float("inf"), 9.0, beyond="> 5s")
    table.add(2.0, None, None, 9.0, beyond="> 5s")
    columns, rows = merged(table)
    assert [column.name for column in columns] == ["p50", "max"]
    assert rows == [["2.000 [1.000, > 5s]", "9.000"], ["2.000", "9.000"]]
    write_csv([table], tmp_path)
    assert (tmp_path / "t.csv").read_text() == "p50_ms,p50_low_ms,p50_high_ms,max_ms\n2.0,1.0,inf,9.0\n2.0,,,9.0\n"


def test_a_copied_database_has_the_same_report(campaign: Path, answers: Answers, tmp_path: Path) -> None:
    """The page does not depend on the path of the database, nor on the date."""
    (tmp_path / "other").mkdir()
    copy = Path(shutil.copy(campaign, tmp_path / "other" / "benchmark.db"))
    one_of_each = {(run.condition.scenario, run.state): run.id for run in answers.runs}.values()
    write_report(campaign, tmp_path / "a.html", experiments=one_of_each)
    write_report(copy, tmp_path / "b.html", experiments=one_of_each)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("missing", ["numpy", "vl_convert", "jinja2"])
def test_without_the_extra_only_the_report_fails(missing: str, tmp_path: Path) -> None:
    """The base install has none of the extra's libraries."""
    (tmp_path / NAME).write_bytes(whole_log([served(n) for n in range(3)]))
    db, page = tmp_path / "x.db", tmp_path / "r.html"
    script = f"""
import sys; sys.modules[{missing!r}] = None
from workload_generator.commands import kn_bench
assert kn_bench.main(["extract", "--logs", {str(tmp_path)!r}, "--db", {str(db)!r}]) == 0
sys.exit(kn_bench.main(["report", "--db", {str(db)!r}, "--out", {str(page)!r}]))
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert rows_of(db, "SELECT count(*) AS n FROM results") == [{"n": 3}]
    assert (ran.returncode, page.exists()) == (1, False)
    assert f"the extra `results` is not installed ({missing} is missing)" in ran.stderr
