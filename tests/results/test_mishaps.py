"""Logs and receipts as they come out of clusters: each bad line costs that line, each bad file that file."""

from __future__ import annotations

import gzip
import json
import os
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.results.logs import NAME, failed, header, line, request_lines, rows_of, served, trailer, whole_log
from tests.results.test_events import OURS, receipt, write_log
from tests.results.test_extract import OLD_LOG, OLD_NAME, Folder
from tests.results.test_original import SUCCESS
from workload_generator.base.histogram import Histogram
from workload_generator.commands import kn_bench
from workload_generator.log import format as log_format
from workload_generator.results.ingest.extract import ExtractionReport

RESULTS = [served(0), served(1), failed(2)]
REQUEST = request_lines([served(9)])[0]
COLD_START: dict[str, Any] = {
    "seq": 0, "time": "2025-02-10T10:11:12.000020Z", "target": "http://a", "source": "local", "zero": True,
    "zero_for": 10.0, "waited": 20.0, "instance": "pod-1", "cold": True, "proven": True, "reason": "",
    "points": {"created": 1.0, "first_byte": 9.0}, "error": 0.1, "grid": [], "clock": None,
}  # fmt: skip
COLD_BURST: dict[str, Any] = {
    **{key: COLD_START[key] for key in ("seq", "time", "target", "source", "zero", "zero_for", "waited")},
    "requests": 2,
    "instances": [{"instance": "pod-1", "created": 1.0, "ready": 5.0, "gone": None, "error": 0.1}],
}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def changed(fields: dict[str, Any], event: str, **changes: Any) -> bytes:
    return line(event, fields | changes)


def bad_trailer(key: str, value: str) -> bytes:
    return re.sub(
        rb'"%s":(\{.*?\}\}|\{.*?\}|\[.*?\])' % key.encode(), f'"{key}":{value}'.encode(), trailer(RESULTS), count=1
    )


def command(folder: Folder, *flags: str) -> int:
    return kn_bench.main(["extract", "--logs", str(folder.logs), "--db", str(folder.db), *flags])


def stored(report: ExtractionReport) -> tuple[int, int]:
    """New results, and lines that were skipped."""
    return report.rows, sum(skip.count for skip in report.skipped)


BAD_LINES = {
    "segments past 64 bits": REQUEST.replace(b'"stamp"', b'"segments":18446744073709551615,"stamp"'),
    "seq far below zero": REQUEST.replace(b'"seq":9', b'"seq":-99999999999999999999'),
    "a status that is none": REQUEST.replace(b'"status":200', b'"status":1000'),
    "a negative duration": REQUEST.replace(b'"ttfb":1.500', b'"ttfb":-3.5'),
    "a duration beyond all numbers": REQUEST.replace(b'"ttfb":1.500', b'"ttfb":1e999'),
    "NaN": REQUEST.replace(b'"ttfb":1.500', b'"ttfb":NaN'),
    "a time that is none": REQUEST.replace(b"2025-02-10T", b"2025-13-45T"),
    "a day that is none": REQUEST.replace(b"2025-02-10T", b"2025-02-30T"),
    "a time without its zone": REQUEST.replace(b"020Z", b"0200"),
    "yesterday": re.sub(rb'"time":"[^"]*"', b'"time":"yesterday"', REQUEST),
    "a nested value": REQUEST.replace(b'"pod-1"', nested(300).encode()),
    "a bottomless value": REQUEST.replace(b'"seq"', f'"x":{nested(100_000)},"seq"'.encode()),
    "half a character": REQUEST.replace(b"pod-1", b"\\ud800"),
    "no UTF-8": REQUEST.replace(b"pod-1", b"\xff\xfe"),
    "NULs": b"\0" * 5000 + b"\n",
    "a heartbeat of too many": line("progress", {
        "time": COLD_START["time"], "measure": {"planned": 2**64 - 1, "started": 2**63},
    }),
    "a heartbeat at no time": line("progress", {"time": "soon", "measure": {"planned": 1, "started": 1}}),
    "a cold start of another shape": changed(COLD_START, "cold_start", points=[1]),
    "a cold start with a nested grid": changed(COLD_START, "cold_start", grid=[[1]]),
    "a cold start that waited too little": changed(COLD_START, "cold_start", waited=-1.0),
    "a cold start at no time": changed(COLD_START, "cold_start", time="2025-02-10"),
    "a burst with an instance twice": changed(COLD_BURST, "cold_burst", instances=COLD_BURST["instances"] * 2),
    "a burst of too many": changed(COLD_BURST, "cold_burst", requests=2**64 - 1),
    "reasons in brackets": bad_trailer("reasons", nested(300)),
    "resources in brackets": bad_trailer("resources", nested(300)),
    "histograms in brackets": bad_trailer("histograms", nested(300)),
    "histograms as text": bad_trailer("histograms", '"none"'),
    "counts beyond all numbers": trailer(RESULTS).replace(b'"cancelled":0', b'"cancelled":1e999'),
    "counts of nothing": bad_trailer("counts", "[]"),
    "counts that do not add up": trailer(RESULTS).replace(b'"sent":3', b'"sent":4'),
    "cold counts of another shape": re.sub(rb'"cold":\{"true":1.*?\}', b'"cold":[1]', trailer(RESULTS)),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_LINES.values(), ids=BAD_LINES.keys())
def test_a_bad_line_costs_that_line(folder: Folder, bad: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    lines = whole_log(RESULTS).splitlines(keepends=True)
    assert bad.endswith(b"\n") and bad not in lines
    folder.write(b"".join([*lines[:3], bad, *lines[3:]]))
    folder.write(whole_log([served(0)], run_id="other"), "other.log")
    assert command(folder) == 0
    (named,) = [each for each in capsys.readouterr().out.splitlines() if each.startswith("skipped")]
    assert named.startswith(f"skipped {NAME}:4: not a line of a workload-generator log: ")
    assert [row["rows"] for row in rows_of(folder.db, "SELECT rows FROM shards ORDER BY file")] == [1, 3]
    assert {row["complete"] for row in rows_of(folder.db, "SELECT complete FROM experiments")} == {1}
    assert folder.extract() == ExtractionReport(logs=2, experiments=(1, 2)), "again"


def test_a_doubled_first_line_costs_that_line(folder: Folder) -> None:
    first, *others = whole_log(RESULTS).splitlines(keepends=True)
    folder.write(b"".join([first, first, *others]))
    report = folder.extract()
    assert stored(report) == (3, 1) and str(report.skipped[0]).endswith(": the first line once more")
    assert folder.experiment()["complete"] == 1


@pytest.mark.parametrize("events", ["cold_start", "cold_burst"])
def test_a_doubled_line_of_a_cold_start_is_one(folder: Folder, events: str) -> None:
    lines = whole_log(RESULTS).splitlines(keepends=True)
    cold = line(events, COLD_START if events == "cold_start" else COLD_BURST)
    folder.write(b"".join([*lines[:3], cold, cold, *lines[3:]]))
    report = folder.extract()
    assert stored(report) == (3, 1) and "in the database already" in str(report.skipped[0])
    assert rows_of(folder.db, f"SELECT count(*) AS n FROM {events}s") == [{"n": 1}]


def test_a_doubled_result_is_one_also_in_a_later_extraction(folder: Folder) -> None:
    lines = whole_log([served(n) for n in range(50)]).splitlines(keepends=True)
    part = [*lines[:20], lines[7], lines[8], *lines[20:30]]
    folder.write(b"".join(part))
    report = folder.extract()
    assert stored(report) == (28, 2)
    assert [skip.line for skip in report.skipped] == [21, 22]
    folder.write(b"".join([*part, lines[5], *lines[30:]]))
    assert stored(folder.extract()) == (22, 1)
    assert [row["seq"] for row in rows_of(folder.db, "SELECT seq FROM results ORDER BY seq")] == list(range(50))
    run = folder.experiment()
    assert (run["complete"], run["ok"], run["verdict"]) == (1, 50, "valid")


def test_a_trailer_that_contradicts_its_results_is_not_believed(folder: Folder) -> None:
    rows = [served(0), failed(1), failed(2)]
    log = [line("run_started", header()), *request_lines(rows), trailer([served(0), served(1), served(2)])]
    folder.write(b"".join(log))
    report = folder.extract()
    reason = "its trailer contradicts its results: 2 failed, not 0"
    assert report.warnings == (f"{NAME}: {reason}; 0 requests started without a result",)
    run = folder.experiment()
    assert (run["ok"], run["failed"], run["complete"], run["verdict"]) == (1, 2, 0, None)
    assert json.loads(run["reasons"]) == [reason]


def test_histograms_that_are_none_do_not_end_the_tables(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    good = Histogram().to_json()
    for number, value in enumerate(("", "x", "AAAA", good["hdr"][:-9], None, 5)):
        log = whole_log([served(0)], run_id=str(number))
        (at,) = re.finditer(rb'"hdr":"[^"]*"', log)
        folder.write(log.replace(at[0], b'"hdr":' + json.dumps(value).encode()), f"{number}.log")
    assert command(folder) == 0
    assert capsys.readouterr().out.count("1.500") >= 6, "counted from the rows"


def test_a_reason_is_one_line_of_a_terminal_or_a_few(folder: Folder) -> None:
    folder.write(whole_log(RESULTS).replace(b'"schema":1', b'"schema":' + b"9" * 4000))
    (skip,) = folder.extract().skipped
    assert len(str(skip)) < 400 and str(skip).endswith("999…")


# The original's


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (SUCCESS.replace("status=200", "status=99999999999999999999"), "status 99999999999999999999"),
        (SUCCESS.replace("TTFB=1.482ms", "TTFB=-1.482ms"), "-1.482ms is negative"),
        (SUCCESS.replace("TTFB=1.482ms", f"TTFB={'9' * 400}ms"), "is not a duration"),
        (SUCCESS.replace("2025-02-09T", "2025-13-45T"), "month must be in 1..12"),
        (SUCCESS.replace("time=2025-02-09T10:11:13.5Z", "time=0001-01-01T00:00:00+01:00"), "date value out of range"),
        (SUCCESS.replace(" status=200", ""), "no status"),
    ],
)
def test_a_bad_line_of_the_original_costs_that_line(folder: Folder, bad: str, reason: str) -> None:
    folder.write(OLD_LOG + bad + "\n" + SUCCESS + "\n", OLD_NAME)
    report = folder.extract()
    assert stored(report) == (4, 1)
    assert report.skipped[0].line == 6 and reason in report.skipped[0].reason


@pytest.mark.parametrize("digits", [20, 400])
def test_numbers_of_the_original_that_are_too_long_are_unknown(folder: Folder, digits: int) -> None:
    number = "9" * digits
    config = f'config="{{RequestsPerSecond:{number} MaxIdleConns:{number} Timeout:{number}}}"'
    log = re.sub(r'config="[^"]*"', config, OLD_LOG)
    assert log != OLD_LOG
    name = f"eventing-scenario-2_{number}triggers_{number}rps"[:200] + "_2025-02-09_10-11-12.log"
    folder.write(log, name)
    assert stored(folder.extract()) == (3, 0)
    run = folder.experiment()
    assert [run[key] for key in ("rps", "triggers", "requests_per_second", "max_idle_conns")] == [None] * 4


def test_a_file_of_the_original_from_before_all_times_costs_that_file(folder: Folder) -> None:
    folder.write("time=0001-01-01T00:00:00.5+01:00 level=INFO msg=Success target=http://a status=200\n", "a.log")
    folder.write(OLD_LOG, OLD_NAME)
    report = folder.extract()
    assert [str(skip) for skip in report.skipped] == ["a.log: its first line: date value out of range"]
    assert report.rows == 3


# Receipts


@pytest.mark.parametrize("year", ["0001", "2263", "2300", "9999"])
@pytest.mark.parametrize("form", ["x,{year}-01-01T00:00:00Z,a,i-0,1,\n", "x,{year}-01-01T00:00:00+01:00\n"])
@pytest.mark.parametrize("first", [True, False])
def test_a_receipt_of_a_year_that_the_database_cannot_count(tmp_path: Path, year: str, form: str, first: bool) -> None:
    folder = Folder(tmp_path)
    write_log(folder.logs)
    good, bad = [receipt(seq) for seq in range(3)], form.format(year=year)
    folder.write(OURS + "".join([bad, *good] if first else [*good, bad]), "events.csv")
    report = folder.extract()
    assert report.receipts == 3
    assert [(skip.file, skip.line) for skip in report.skipped] == [("events.csv", 2 if first else 5)]
    assert folder.extract().skipped == ()


@pytest.mark.parametrize(
    "bad",
    [
        "i-0,2263-01-01T00:00:00Z,1,0,1,,",
        "i-0,2025-02-10T10:11:13Z,-1,0,1,,",
        f"i-0,2025-02-10T10:11:13Z,{2**63},0,1,,",
        "i-0,2025-02-10T10:11:13Z,1,0,1,0,-5",
        "i-0,now,1,0,1,,",
        "i-0",
    ],
)
def test_a_bad_report_costs_that_report(folder: Folder, bad: str) -> None:
    good = "i-0,2025-02-10T10:11:14Z,2,0,2,0,100000"
    folder.write(f"{bad}\n{good}\n", "instances.csv")
    (skip,) = folder.extract().skipped
    assert str(skip).startswith("instances.csv:1: not a receiver's report: ")
    assert rows_of(folder.db, "SELECT instance, received FROM receivers") == [{"instance": "i-0", "received": 2}]


def test_receipts_in_a_file_whose_name_is_not_utf8(folder: Folder) -> None:
    name = os.fsdecode(b"events-caf\xe9.csv")
    try:
        folder.write(OURS + receipt(0) + "bad\n", name)
    except OSError:
        pytest.skip(needs.BYTE_NAMES.reason)
    report = folder.extract()
    assert (report.receipts, report.skipped[0].file) == (1, log_format.clean(name))


def test_a_pipe_that_is_named_as_receipts_is_not_waited_for(folder: Folder) -> None:
    os.mkfifo(folder.logs / "events.csv")
    assert [str(skip) for skip in folder.extract().skipped] == ["events.csv: not a file"]


# Forms


@pytest.mark.parametrize(
    "form",
    [
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n"),
    ],
    ids=["mark", "CRLF", "both"],
)
def test_a_byte_order_mark_and_carriage_returns(folder: Folder, form: Callable[[bytes], bytes]) -> None:
    folder.write(form(whole_log(RESULTS)))
    folder.write(form(OLD_LOG.encode()), OLD_NAME)
    folder.write(form((OURS + receipt(0)).encode()), "events.csv")
    report = folder.extract()
    assert (report.rows, report.receipts, report.skipped) == (6, 1, ())
    assert folder.extract().read == 0


def test_rotated_and_compressed_files_are_named(folder: Folder) -> None:
    for name in (f"{NAME}.1", f"{NAME}.2.gz", "a.log.gz", "events.csv.1", "a.log-20250210", "others.csv.gz", "x.gz"):
        folder.write(gzip.compress(whole_log(RESULTS)), name)
    folder.write(whole_log(RESULTS))
    report = folder.extract()
    assert report.rows == 3
    assert [skip.file for skip in report.skipped] == sorted(
        [f"{NAME}.1", f"{NAME}.2.gz", "a.log.gz", "events.csv.1", "a.log-20250210"]
    )
    assert {skip.reason.partition(":")[0] for skip in report.skipped} == {"a rotated or compressed file"}


def test_a_line_without_an_end_in_sight(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workload_generator.results.ingest.files.LONGEST_LINE", 4096)
    lines = whole_log(RESULTS).splitlines(keepends=True)
    folder.write(b"".join([*lines[:3], b"\0" * 100_000 + b"\n", *lines[3:]]))
    report = folder.extract()
    assert stored(report) == (3, 1) and "it has 100,001 bytes" in str(report.skipped[0])
    assert rows_of(folder.db, "SELECT offset FROM shards") == [{"offset": (folder.logs / NAME).stat().st_size}]


# On the terminal


def test_nothing_in_a_file_steers_the_terminal(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    steer = "\x1b[2J\x1b]0;title\x07\u202e[bold]x[/][/nothing]\x9b"
    fields = header(prefix=f"p{steer}", name=steer, targets=[f"http://{steer}"])
    fields |= {"platform": steer, "version": steer}
    log = [line("run_started", fields), *request_lines(RESULTS), line("x", {"y": steer})]
    log.append(trailer(RESULTS, steer, [f"because {steer}"]))
    folder.write(b"".join(log), "a\x1b[31m[red]\n.log")
    folder.write(f"time={steer.encode('unicode_escape').decode()} level=INFO msg=Success\n", "old.log")
    folder.write(f"{steer},now\n", "events.csv")
    assert command(folder) == 0
    out, err = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err)
    assert r"because \x1b[2J\x1b]0;title\x07\u202e[bold]x[/][/nothing]\x9b" in out
    assert r"a\x1b[31m[red]\n.log:5" in out
    assert kn_bench.main(["report", "--db", str(folder.db), "--out", str(folder.logs / "r.html")]) == 0
    out, err = capsys.readouterr()
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", out + err)


# The exit code


@pytest.mark.parametrize(
    ("write", "lenient", "strict"),
    [
        (lambda folder: None, 1, 1),
        (lambda folder: folder.write(whole_log(RESULTS), "a.log"), 0, 0),
        (lambda folder: folder.write(whole_log(RESULTS) + b"garbage\n", "a.log"), 0, 1),
        (lambda folder: folder.write(b"garbage\n", "a.log"), 0, 1),
        (lambda folder: folder.write(whole_log(RESULTS), "p_2001-01-01_00-00-00.log"), 0, 0),
    ],
    ids=["nothing", "good", "bad line", "bad file", "too old"],
)
def test_a_bad_file_is_an_error_if_asked_for(
    folder: Folder, write: Callable[[Folder], object], lenient: int, strict: int
) -> None:
    write(folder)
    assert command(folder, "--hours=24", "--strict") == strict
    assert command(folder) == lenient
    assert folder.db.is_file() and not folder.db.with_name("benchmark.db-wal").exists()
    with sqlite3.connect(folder.db) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()
