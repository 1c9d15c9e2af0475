"""Logs into the database: what is stored, joined, left out and said."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests import needs
from tests.log.blocks import encode
from tests.results import logs
from tests.results.logs import (
    GO,
    NAME,
    START,
    TS,
    everything,
    failed,
    header,
    heartbeat,
    line,
    rows_of,
    served,
    whole_log,
)
from tests.results.test_original import FAILURE, SUCCESS
from tests.results.test_store import ORIGINAL, make
from workload_generator.base.errors import BenchError
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind, Phase
from workload_generator.results.ingest.extract import ExtractionReport, extract
from workload_generator.results.ingest.files import Skip

OLD_NAME = "serving-scenario-1_2000rps_go_2025-02-09_10-11-12.log"
OLD_LOG = (
    'time=2025-02-09T10:11:12.123456789Z level=INFO msg="Loaded configuration" config="{Targets:[{URL:http://a}] '
    'Rate:{RequestsPerSecond:2000 Duration:10m0s Timeout:30s}}"\n'
    f"{SUCCESS}\n"
    "time=2025-02-09T10:11:13.6Z level=INFO msg=Warming\n"
    f"{SUCCESS.replace('status=200', 'status=503').replace('isCold=false', 'isCold=true')}\n"
    f"{FAILURE}\n"
)


class Folder:
    """A folder of logs and its database."""

    def __init__(self, path: Path) -> None:
        self.logs = path / "logs"
        self.logs.mkdir()
        self.db = path / "benchmark.db"

    def write(self, content: bytes | str, name: str = NAME) -> Path:
        path = self.logs / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def extract(self, hours: float | None = None) -> ExtractionReport:
        return extract(self.logs, self.db, hours)

    def experiment(self) -> dict[str, Any]:
        (row,) = rows_of(self.db, "SELECT * FROM experiments")
        return row


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def reasons(report: ExtractionReport) -> list[str]:
    return [str(skip) for skip in report.skipped]


# What is stored


def test_a_whole_log(folder: Folder) -> None:
    results = [
        served(-1, phase=Phase.PING),
        served(0, phase=Phase.RAMP),
        served(1, cold=True),
        served(2, event_id="ev-2", cold=None),
        served(3, status=503),
        failed(4),
        failed(5, ErrorKind.DROPPED),
    ]
    folder.write(whole_log(results))
    assert folder.extract() == ExtractionReport(logs=1, read=1, rows=7, experiments=(1,), skipped=(), warnings=())
    run = folder.experiment()
    assert {key: run[key] for key in ("language", "scenario", "rps", "requests_per_second", "duration", "timeout")} == {
        "language": "go",
        "scenario": "serving-scenario-1",
        "rps": 2000,
        "requests_per_second": 1000,
        "duration": "10m",
        "timeout": "30s",
    }
    assert {key: run[key] for key in ("planned", "sent", "ok", "failed", "dropped", "missing", "cold", "complete")} == {
        "planned": 5,
        "sent": 4,
        "ok": 2,
        "failed": 2,
        "dropped": 1,
        "missing": 0,
        "cold": 1,
        "complete": 1,
    }
    assert (run["run_id"], run["verdict"], run["reasons"], run["seed"]) == ("run-1", "valid", "[]", 7)
    assert json.loads(run["config"])["rate"]["maxIdleConns"] == 100
    assert [row["phase"] for row in rows_of(folder.db, "SELECT phase FROM results ORDER BY id")] == [
        "ping", "ramp", *["measure"] * 5,
    ]  # fmt: skip
    assert rows_of(folder.db, "SELECT * FROM requests WHERE seq IN (2, 4) ORDER BY id") == [
        {
            "id": 4, "experiment_id": 1, "timestamp": "2025-02-10T10:11:12.002020Z", "status": 200, "ttfb": 1.5,
            "total_time": 1.53, "is_cold": None, "dns_time": 0.0, "connect_time": 0.0, "tls_time": 0.0,
            "error_message": None, "event_id": "ev-2", "target": GO, "seq": 2, "phase": "measure", "lag": 0.02,
            "error_kind": None, "reused": 1, "retries": 0, "bytes": 5, "stamp": "kernel", "segments": 1,
            "instance": "pod-1", "shard": 0, "ok": 1,
        },
        {
            "id": 6, "experiment_id": 1, "timestamp": "2025-02-10T10:11:12.004020Z", "status": 0, "ttfb": None,
            "total_time": None, "is_cold": None, "dns_time": None, "connect_time": None, "tls_time": None,
            "error_message": "it was timeout", "event_id": None, "target": GO, "seq": 4, "phase": "measure",
            "lag": 0.02, "error_kind": "timeout", "reused": 1, "retries": 0, "bytes": 0, "stamp": None,
            "segments": None, "instance": None, "shard": 0, "ok": 0,
        },
    ]  # fmt: skip
    (shard,) = rows_of(folder.db, "SELECT * FROM shards")
    assert (shard["host"], shard["python"], shard["cpu_limit"], shard["file"]) == ("host-0", "3.11.7", 2.0, NAME)
    assert (shard["offset"], shard["lines"], shard["rows"]) == ((folder.logs / NAME).stat().st_size, 10, 7)
    assert json.loads(shard["counts"])["ramp"]["sent"] == 1
    assert json.loads(shard["resources"]) == {"cpu_user_s": 1.0}


def test_a_rate_below_one_stays_a_fraction(folder: Folder) -> None:
    folder.write(whole_log([served(0)], prefix="serving-scenario-2_all", rps=0.016, targets=(GO, TS)))
    folder.extract()
    run = folder.experiment()
    assert (run["requests_per_second"], run["rps"], run["language"]) == (0.016, 0.016, "all")


@pytest.mark.parametrize(
    ("changes", "scenario", "language"),
    [
        ({"prefix": "workload-generator"}, "serving-scenario-1", "go"),
        ({"prefix": "workload-generator", "name": "mine"}, "mine", "go"),
        ({"prefix": "serving-scenario-1_all"}, "serving-scenario-1", "all"),
        ({"prefix": "x_rust", "name": "serving-scenario-3-10rps-go"}, "serving-scenario-3", "rust"),
        ({"prefix": "x", "name": "mine", "targets": (TS,)}, "mine", "ts"),
        ({"prefix": "x", "name": "mine", "targets": (GO, TS)}, "mine", "all"),
        ({"prefix": "x", "name": "mine", "targets": ("http://127.0.0.1",)}, "mine", None),
    ],
)
def test_the_prefix_then_the_experiment_then_the_hosts_tell_the_run(
    folder: Folder, changes: dict[str, Any], scenario: str, language: str | None
) -> None:
    folder.write(whole_log([served(0)], **changes))
    folder.extract()
    run = folder.experiment()
    assert (run["scenario"], run["language"]) == (scenario, language)


def test_ok_is_what_the_log_says(folder: Folder) -> None:
    encoder = log_format.ResultEncoder((GO,), START)
    cut = served(4, error=ErrorKind.BODY, message="cut")
    said = [(served(0), True), (served(1), False), (served(2, status=404), True), (served(3, status=404), False)]
    lines = [encode(encoder, result, ok) for result, ok in [*said, (cut, False)]]
    folder.write(line(log_format.RUN_STARTED, header()) + b"".join(lines))
    folder.extract()
    run = folder.experiment()
    assert (run["ok"], run["failed"], run["sent"]) == (2, 3, 5)
    stored = rows_of(folder.db, "SELECT ok FROM requests ORDER BY seq")
    assert [row["ok"] for row in stored] == [1, 0, 1, 0, 0]


# Runs that did not end


def test_a_killed_run_knows_what_is_missing(folder: Folder) -> None:
    lines = logs.request_lines([served(0), served(1), failed(2, ErrorKind.DROPPED), served(20)])
    beat = heartbeat(10, planned=11, started=8, dropped=1)
    folder.write(b"".join([line(log_format.RUN_STARTED, header()), heartbeat(1, 2, 2), *lines[:3], beat, lines[3]]))
    report = folder.extract()
    run = folder.experiment()
    # Two of the eight that had started by then have results; what came after the heartbeat is not among the eight.
    assert {key: run[key] for key in ("planned", "sent", "ok", "failed", "dropped", "missing", "complete")} == {
        "planned": 11,
        "sent": 9,
        "ok": 3,
        "failed": 0,
        "dropped": 1,
        "missing": 6,
        "complete": 0,
    }
    assert run["verdict"] is None
    assert json.loads(run["reasons"]) == ["the log has no trailer: the run was killed or is still running"]
    assert report.warnings == (
        f"{NAME}: the log has no trailer: the run was killed or is still running; 6 requests started without a result",
    )


def test_only_the_measured_part_is_missing(folder: Folder) -> None:
    ramp = logs.request_lines([served(0, phase=Phase.RAMP)])
    fields = {"planned": 5, "started": 5, "finished": 1, "dropped": 0}
    beat = line(
        log_format.PROGRESS,
        {"time": "2025-02-10T10:11:13.000000Z", **fields, "measure": {**fields, "planned": 3, "started": 2}},
    )
    folder.write(b"".join([line(log_format.RUN_STARTED, header()), *ramp, beat]))
    folder.extract()
    run = folder.experiment()
    assert (run["planned"], run["sent"], run["missing"]) == (3, 2, 2)


def test_extracting_during_a_run_and_after_it(folder: Folder) -> None:
    results = [served(n) for n in range(10)]
    log = whole_log(results)
    lines = log.splitlines(keepends=True)
    folder.write(b"".join(lines[:5]))
    folder.extract()
    run = folder.experiment()
    assert (run["complete"], run["ok"], run["sent"], run["missing"]) == (0, 3, 12, 9)
    folder.write(log)
    assert folder.extract() == ExtractionReport(logs=1, read=1, rows=7, experiments=(1,), skipped=(), warnings=())
    run = folder.experiment()
    assert (run["complete"], run["ok"], run["sent"], run["missing"], run["verdict"]) == (1, 10, 10, 0, "valid")


def test_a_header_alone_is_a_run_that_has_begun(folder: Folder) -> None:
    folder.write(line(log_format.RUN_STARTED, header()))
    report = folder.extract()
    assert (report.logs, report.rows) == (1, 0)
    run = folder.experiment()
    assert (run["complete"], run["planned"], run["sent"], run["missing"], run["cold"]) == (0, 0, 0, 0, None)


# Again


def test_two_extractions_equal_one(folder: Folder) -> None:
    folder.write(whole_log([served(0), failed(1)]))
    folder.write(OLD_LOG, OLD_NAME)
    first = folder.extract()
    before = everything(folder.db)
    second = folder.extract()
    assert (first.read, first.rows) == (2, 5)
    assert second == ExtractionReport(logs=2, read=0, rows=0, experiments=first.experiments, skipped=(), warnings=())
    assert everything(folder.db) == before


def test_a_copy_under_another_name_is_left_out(folder: Folder) -> None:
    folder.write(whole_log([served(0)]), "b.log")
    folder.write(whole_log([served(0)]), "c.log")
    folder.write(OLD_LOG, "x.log")
    folder.write(OLD_LOG, "y.log")
    report = folder.extract()
    assert (report.logs, report.read, report.rows) == (4, 2, 4)
    assert reasons(report) == [
        "c.log: a copy of b.log, which was read before",
        "y.log: a copy of x.log, which was read before",
    ]
    folder.extract()
    assert len(rows_of(folder.db, "SELECT * FROM results")) == 4


@pytest.mark.parametrize(("early", "late"), [("a.log", "b.log"), ("b.log", "a.log")])
def test_an_early_copy_beside_its_log_counts_once(folder: Folder, early: str, late: str) -> None:
    log = whole_log([served(n) for n in range(5)])
    folder.write(log[: len(log) // 2], early)
    folder.write(log, late)
    for _ in range(2):
        folder.extract()
        assert [row["seq"] for row in rows_of(folder.db, "SELECT seq FROM results ORDER BY id")] == [0, 1, 2, 3, 4]
        assert folder.experiment()["complete"] == 1


def test_a_file_that_moved_to_another_folder_is_the_same(folder: Folder, tmp_path: Path) -> None:
    log = whole_log([served(n) for n in range(5)])
    folder.write(log[:-10])
    folder.extract()
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / NAME
    path.write_bytes(log)
    report = extract(path, folder.db)  # a file may be given instead of its folder
    assert (report.read, report.rows, report.skipped) == (1, 0, ())
    assert folder.experiment()["complete"] == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda log: log[:-10], "truncated or replaced: .* bytes, fewer than the .* that were read"),
        (lambda log: log.replace(b"0.020", b"0.021") + b"more\n", "it has the identity of .* but other content"),
        (lambda log: log.replace(b"0.020", b"0.021"), "it has the identity of .* but other content"),
    ],
)
def test_a_file_that_was_replaced_is_left_out(folder: Folder, change: Callable[[bytes], bytes], reason: str) -> None:
    log = whole_log([served(n) for n in range(3)])
    folder.write(log)
    folder.extract()
    before = everything(folder.db)
    folder.write(change(log))
    (skip,) = folder.extract().skipped
    assert (skip.file, skip.line) == (NAME, 0)
    assert re.fullmatch(reason, skip.reason)
    assert everything(folder.db) == before


# Shards


def shard_log(index: int, of: int, **changes: Any) -> bytes:
    return whole_log([served(n) for n in range(index, 8, of)], shard=index, shards=of, **changes)


def test_all_shards_of_a_run_are_one_experiment(folder: Folder) -> None:
    for index in range(2):
        folder.write(shard_log(index, 2), f"p_2025-02-10_10-11-12_s{index}.log")
    report = folder.extract()
    assert (report.rows, report.experiments, report.warnings) == (8, (1,), ())
    run = folder.experiment()
    assert (run["shards"], run["planned"], run["ok"], run["complete"], run["verdict"]) == (2, 8, 8, 1, "valid")
    assert rows_of(folder.db, "SELECT shard, count(*) AS n FROM requests GROUP BY shard") == [
        {"shard": 0, "n": 4},
        {"shard": 1, "n": 4},
    ]
    assert [row["host"] for row in rows_of(folder.db, "SELECT host FROM shards ORDER BY shard")] == ["host-0", "host-1"]


def test_shards_that_are_missing_are_named(folder: Folder) -> None:
    folder.write(shard_log(1, 4), "p_s1.log")
    report = folder.extract()
    assert report.warnings == ("run run-1: no log of shards 0, 2, 3 of 4",)
    run = folder.experiment()
    assert (run["complete"], run["verdict"], json.loads(run["reasons"])) == (0, None, ["no log of shards 0, 2, 3 of 4"])
    for index in (0, 2, 3):
        folder.write(shard_log(index, 4), f"p_s{index}.log")
    assert folder.extract().warnings == ()
    run = folder.experiment()
    assert (run["complete"], run["verdict"], run["ok"]) == (1, "valid", 8)


def test_one_invalid_shard_makes_the_run_invalid(folder: Folder) -> None:
    folder.write(shard_log(0, 2), "p_s0.log")
    results = [served(1)]
    invalid = b"".join(
        [
            line(log_format.RUN_STARTED, header(shard=1, shards=2)),
            *logs.request_lines(results),
            logs.trailer(results, "invalid", ["lag p99 is too high"]),
        ]
    )
    folder.write(invalid, "p_s1.log")
    folder.extract()
    run = folder.experiment()
    assert (run["verdict"], json.loads(run["reasons"])) == ("invalid", ["shard 1: lag p99 is too high"])


def test_a_run_id_with_another_experiment_is_refused(folder: Folder) -> None:
    folder.write(shard_log(0, 2), "p_s0.log")
    fields = header(shard=1, shards=2)
    fields["experiment"]["sha256"] = "cd" * 32
    folder.write(line(log_format.RUN_STARTED, fields), "p_s1.log")
    report = folder.extract()
    assert reasons(report) == [
        "p_s1.log: run run-1 is in the database with another experiment or number of shards",
    ]


def test_another_log_that_claims_to_be_the_same_shard_is_refused(folder: Folder) -> None:
    folder.write(whole_log([served(0), served(1)]), "a.log")
    folder.write(whole_log([served(0, ms=9), served(1), served(2)]), "b.log")
    report = folder.extract()
    assert reasons(report) == ["b.log: it has the identity of a.log, which was read before, but other content"]
    assert report.rows == 2


# What cannot be read


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b'{"event":"run_started","schema":1', "its first line is incomplete"),
        (b"\n", "neither a log of this generator nor of the original"),
        (b"hello\nworld\n", "neither a log of this generator nor of the original"),
        (b"\x00" * 5000 + b"\n", "neither a log of this generator nor of the original"),
        (bytes(range(256)), "neither a log of this generator nor of the original"),
        (b'{"event":"something"}\n', "neither a log of this generator nor of the original"),
        (
            b'{"event":"run_started","schema":1}\n',
            "its run_started is incomplete: Object missing required field `run_id`",
        ),
        (
            b'{"event":"run_started","schema":99}\n',
            "its schema 99 is newer than 1: update this program",
        ),
        (heartbeat(1, 1, 1), "its first line is progress, not run_started: the header is missing"),
        (
            b"time=2025-02-09T10:11:12Z level=INFO msg=listening port=8080\n",
            "a log of the original without a result yet",
        ),
        (b"time=now level=INFO msg=Success\n", "its first line: 'now' is not a time"),
    ],
)
def test_files_that_are_no_logs(folder: Folder, content: bytes, reason: str) -> None:
    folder.write(content, "odd.log")
    folder.write(whole_log([served(0)]))
    report = folder.extract()
    assert report.skipped == (Skip("odd.log", 0, reason),)
    assert (report.logs, report.rows) == (1, 1)
    assert len(rows_of(folder.db, "SELECT * FROM experiments")) == 1


def test_a_folder_without_a_log_gives_an_empty_report(folder: Folder) -> None:
    folder.write("a,b\n", "others.csv")
    (folder.logs / "deeper.log").mkdir()
    report = folder.extract()
    assert (report.logs, report.rows, reasons(report)) == (0, 0, ["deeper.log: not a file"])


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="cannot read the logs in .*nowhere: No such file"):
        extract(tmp_path / "nowhere", tmp_path / "benchmark.db")
    assert not (tmp_path / "benchmark.db").exists()


def test_garbage_lines_are_named_and_counted(folder: Folder) -> None:
    lines = whole_log([served(n) for n in range(3)]).splitlines(keepends=True)
    good = logs.request_lines([served(9)])[0]
    garbage = [
        b"hello\n",
        b'{"event":"other"}\n',
        b'{"event":"request"}\n',
        b'{"event":"progress"}\n',
        b'{"event":"run_finished"}\n',
        good.replace(b'"seq":9', b'"seq":18446744073709551615'),
        good.replace(b'"measure"', b'"party"'),
    ]
    folder.write(b"".join([*lines[:2], *garbage, *lines[2:]]))
    report = folder.extract()
    assert report.rows == 3
    assert [(skip.line, skip.count) for skip in report.skipped] == [(3, 1), (4, 1), (5, 1), (6, 1), (7, 1), (8, 2)]
    assert all(skip.file == NAME for skip in report.skipped)
    assert "not a line of a workload-generator log: JSON is malformed" in str(report.skipped[0])
    assert "first of 2 more skipped lines" in str(report.skipped[5])
    assert rows_of(folder.db, "SELECT skipped_lines, rows, lines FROM shards") == [
        {"skipped_lines": 7, "rows": 3, "lines": len(lines) + 7}
    ]


def test_times_without_decimals_are_times(folder: Folder) -> None:
    log = whole_log([served(0)])
    folder.write(log.replace(b'"ttfb":1.500', b'"ttfb":2').replace(b"0.000", b"0"))
    assert folder.extract().skipped == ()
    assert rows_of(folder.db, "SELECT ttfb, typeof(dns_time) AS kind FROM requests") == [{"ttfb": 2.0, "kind": "real"}]


def test_results_that_the_trailer_counts_and_the_file_lacks_are_said(folder: Folder) -> None:
    lines = whole_log([served(n) for n in range(3)]).splitlines(keepends=True)
    del lines[3]
    folder.write(b"".join(lines))
    assert folder.extract().warnings == (f"{NAME}: its trailer counts 3 results, but only 2 could be read",)


def test_a_second_run_in_a_file_is_left_out(folder: Folder) -> None:
    folder.write(whole_log([served(0)]) + whole_log([served(1)], run_id="run-2"))
    for rows in (1, 0):
        report = folder.extract()
        assert report.rows == rows
        assert reasons(report) == [f"{NAME}:5: another run begins here: the rest of the file is skipped"]


def test_a_torn_last_line_is_left_for_later(folder: Folder) -> None:
    log = whole_log([served(0), served(1)])
    torn = log[: log.rindex(b"\n", 0, -1) + 20]
    folder.write(torn)
    for rows in (2, 0):
        report = folder.extract()
        assert report.rows == rows
        assert reasons(report) == [f"{NAME}:5: incomplete line: the next extraction reads it"]
    folder.write(log)
    assert folder.extract().skipped == ()
    assert folder.experiment()["complete"] == 1


def test_a_file_that_cannot_be_read_is_named_and_not_half_stored(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.write(whole_log([served(n) for n in range(9)], run_id="a"), "a.log")
    folder.write(whole_log([served(0)], run_id="b"), "b.log")
    monkeypatch.setattr("workload_generator.results.ingest.files._BLOCK_BYTES", 500)
    real = Path.open

    def open_broken(path: Path, mode: str = "r", **options: Any) -> Any:
        file = real(path, mode, **options)
        return _Broken(file) if path.name == "a.log" else file

    monkeypatch.setattr(Path, "open", open_broken)
    report = folder.extract()
    assert reasons(report) == ["a.log: cannot be read: Input/output error"]
    assert report.rows == 1
    assert [row["run_id"] for row in rows_of(folder.db, "SELECT run_id FROM experiments")] == ["b"]
    assert len(rows_of(folder.db, "SELECT * FROM results")) == 1
    monkeypatch.undo()
    assert folder.extract().rows == 9


class _Broken:
    """A file on a disk that fails after the first lines."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._lines = 0

    def __enter__(self) -> _Broken:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def readline(self, size: int) -> bytes:
        self._lines += 1
        if self._lines > 5:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        line: bytes = self._file.readline(size)
        return line


def test_an_interrupted_extraction_stores_nothing_of_the_file(folder: Folder) -> None:
    folder.write(whole_log([served(n) for n in range(9)]))

    def interrupt(done: int, _whole: int, _name: str) -> None:
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(folder.logs, folder.db, on_progress=interrupt)
    assert everything(folder.db) == {"experiments": [], "results": [], "shards": []}
    assert folder.extract().rows == 9


def test_a_database_on_a_full_disk_keeps_what_it_had(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.write(whole_log([served(0)], run_id="a"), "a.log")
    folder.extract()
    before = everything(folder.db)
    folder.write(whole_log([served(n) for n in range(5000)], run_id="b"), "b.log")
    connect = sqlite3.connect

    def small(*values: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*values, **options)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    monkeypatch.setattr(sqlite3, "connect", small)
    with pytest.raises(BenchError, match="full"):
        folder.extract()
    monkeypatch.undo()
    assert everything(folder.db) == before


# Ages, names, progress


def test_hours_leaves_out_what_is_older_by_name(folder: Folder) -> None:
    now = datetime.now(UTC)
    for hours in (1, 30):
        name = f"p_{now - timedelta(hours=hours):%Y-%m-%d_%H-%M-%S}.log"
        folder.write(whole_log([served(0)], run_id=str(hours)), name)
    folder.write(whole_log([served(0)], run_id="undated"), "undated.log")
    report = folder.extract(hours=24)
    assert report.rows == 2
    (skip,) = report.skipped
    assert skip.reason == "older than 24 h, by the time in its name"
    assert folder.extract(hours=float("inf")).rows == 1


def test_a_name_that_is_not_utf8(folder: Folder) -> None:
    name = os.fsdecode(b"caf\xe9_2025-02-10_10-11-12.log")
    try:
        folder.write(whole_log([served(0)]), name)
    except OSError:
        pytest.skip(needs.BYTE_NAMES.reason)
    assert folder.extract().rows == 1
    (shard,) = rows_of(folder.db, "SELECT file FROM shards")
    assert shard["file"] == log_format.clean(name)


def test_progress_ends_at_the_whole(folder: Folder) -> None:
    sizes = [folder.write(whole_log([served(0)], run_id=str(n)), f"{n}.log").stat().st_size for n in range(3)]
    folder.write(b"foreign\n", "zz.log")
    seen: list[tuple[int, int, str]] = []
    extract(folder.logs, folder.db, on_progress=lambda *values: seen.append(values))
    whole = sum(sizes) + 8
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert {total for _, total, _ in seen} == {whole}
    assert seen[-1] == (whole, whole, "zz.log")


# The original's


def test_the_originals_log(folder: Folder) -> None:
    folder.write(OLD_LOG, OLD_NAME)
    report = folder.extract()
    assert report == ExtractionReport(logs=1, read=1, rows=3, experiments=(1,), skipped=(), warnings=())
    run = folder.experiment()
    known = ("timestamp", "language", "scenario", "rps", "requests_per_second", "duration", "timeout", "sent", "ok")
    assert {key: run[key] for key in known} == {
        "timestamp": "2025-02-09T10:11:12.123456Z",
        "language": "go",
        "scenario": "serving-scenario-1",
        "rps": 2000,
        "requests_per_second": 2000,
        "duration": "10m",
        "timeout": "30s",
        "sent": 3,
        "ok": 1,
    }
    unknown = ("run_id", "planned", "dropped", "missing", "complete", "verdict", "reasons")
    assert [run[key] for key in unknown] == [None] * len(unknown)
    assert (run["failed"], run["cold"]) == (2, 1)
    rows = rows_of(folder.db, "SELECT status, error_kind, phase, lag, seq FROM requests ORDER BY id")
    assert [row["status"] for row in rows] == [200, 503, 0]
    assert [row["error_kind"] for row in rows] == [None, None, "timeout"]
    assert {(row["phase"], row["lag"], row["seq"]) for row in rows} == {("measure", None, None)}


def test_the_originals_log_without_telling_name(folder: Folder) -> None:
    folder.write("\n".join([SUCCESS, SUCCESS.replace("-go-", "-rust-"), ""]), "run.log")
    folder.extract()
    assert folder.experiment()["language"] == "all"


def test_garbage_in_the_originals_log(folder: Folder) -> None:
    folder.write(
        OLD_LOG + f"panic: runtime error\n{SUCCESS.replace('status=200', 'status=')}\n{SUCCESS[:40]}", OLD_NAME
    )
    report = folder.extract()
    assert report.rows == 3
    assert [(skip.line, skip.reason.partition(":")[0]) for skip in report.skipped] == [
        (6, "not a line of the original's log"),
        (7, "not a line of the original's log"),
        (8, "incomplete line"),
    ]
    folder.write(OLD_LOG + f"panic: runtime error\n{SUCCESS.replace('status=200', 'status=')}\n{SUCCESS}\n", OLD_NAME)
    assert folder.extract().rows == 1


def test_lines_with_carriage_returns(folder: Folder) -> None:
    folder.write(OLD_LOG.replace("\n", "\r\n"), OLD_NAME)
    folder.write(whole_log([served(0)]).replace(b"\n", b"\r\n"))
    report = folder.extract()
    assert (report.rows, report.skipped) == (4, ())


def test_the_originals_database_as_target(folder: Folder) -> None:
    make(folder.db, ORIGINAL)
    folder.write(whole_log([served(0)]))
    report = folder.extract()
    assert (report.rows, report.experiments) == (1, (8,))
    assert [row["id"] for row in rows_of(folder.db, "SELECT id FROM requests ORDER BY id")] == [11, 12, 19, 20]


@pytest.mark.parametrize("moment", ["2025-02-09T10:11:12.123456789Z", "2025-02-09T09:00:00Z"])
def test_a_log_whose_run_came_with_the_originals_database_does_not_count_twice(folder: Folder, moment: str) -> None:
    make(folder.db, ORIGINAL)
    folder.write(OLD_LOG.replace("2025-02-09T10:11:12.123456789Z", moment), OLD_NAME)
    folder.write(OLD_LOG.replace("T10:11:12", "T11:11:12"), "serving-scenario-1_2000rps_rust_2025-02-09_11-11-12.log")
    report = folder.extract()
    assert reasons(report) == [
        f"{OLD_NAME}: this run is already in the database as experiment 3, from the original's own database; "
        "extract into a new database to read it from the log"
    ]
    assert report.rows == 3


def test_all_at_once(folder: Folder) -> None:
    """Everything in one folder: nothing is fatal, and everything that can be read is."""
    folder.write(whole_log([served(0)], run_id="a"), "a.log")
    folder.write(OLD_LOG, OLD_NAME)
    folder.write(b"\x00\xff" * 100, "b.log")
    folder.write(line(log_format.RUN_STARTED, header(run_id="c"))[:50], "c.log")
    folder.write(whole_log([served(0)], run_id="d")[:-5], "d.log")
    shutil.copy(folder.logs / "a.log", folder.logs / "e.log")
    os.mkfifo(folder.logs / "f.log")
    os.symlink("nowhere", folder.logs / "g.log")
    report = folder.extract()
    assert (report.logs, report.read, report.rows) == (4, 3, 5)
    assert [skip.file for skip in report.skipped] == ["b.log", "c.log", "d.log", "e.log", "f.log", "g.log"]
