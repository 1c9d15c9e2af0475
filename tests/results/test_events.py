"""Receipts into the database, and the account of every event."""

from __future__ import annotations

import re
import sqlite3
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.log.blocks import encode
from tests.results.logs import header, line, served, whole_log
from workload_generator.base.clock import NS_PER_MS, Anchor, parse_rfc3339, rfc3339
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind
from workload_generator.results.extract_summary import print_tables
from workload_generator.results.ingest.extract import ExtractionReport, extract

START = Anchor(wall_ns=1_739_182_272_000_000_000, mono_ns=0)
OURS = "event_id,timestamp,trigger,instance,attempt,sequence\n"


def stamp(ns: int) -> str:
    return f"{rfc3339(ns)[:20]}{ns % 1_000_000_000:09d}Z"


def receipt(seq: int, trigger: str = "a", ms: int = 5, instance: str = "i-0", attempt: int = 1) -> str:
    """Of an event that is sent each millisecond, `ms` after its sending."""
    return f"run-1-{seq},{stamp(START.wall_ns + seq * NS_PER_MS + 20_000 + ms * NS_PER_MS)},{trigger},{instance},{attempt},{seq}\n"  # noqa: E501


def write_log(
    folder: Path,
    events: int = 10,
    failed: tuple[int, ...] = (),
    clock: dict[str, Any] | None = None,
    triggers: int = 2,
) -> None:
    encoder = log_format.ResultEncoder(["http://sink"], START, "run-1-")
    rows = [
        served(seq)._replace(status=0, ttfb_ns=None, total_ns=None, error=ErrorKind.RESET, message="it was")
        if seq in failed
        else served(seq)
        for seq in range(events)
    ]
    head = header(targets=["http://sink"], prefix=f"eventing-scenario-2_{triggers}triggers_1000rps") | {
        "events": {"id_prefix": "run-1-", "clock": clock}
    }
    lines = [line("run_started", head), *(encode(encoder, row, row.error is None) for row in rows)]
    (folder / f"eventing-scenario-2_{triggers}triggers_1000rps_2025-02-10_10-11-12.log").write_bytes(b"".join(lines))


def ask(db: Path, sql: str) -> list[dict[str, Any]]:
    connection = sqlite3.connect(db)
    connection.row_factory = sqlite3.Row
    try:
        return [dict(row) for row in connection.execute(sql)]
    finally:
        connection.close()


def account(folder: Path, receipts: str, **log: Any) -> tuple[ExtractionReport, dict[str, dict[str, Any]]]:
    write_log(folder, **log)
    (folder / "events.csv").write_text(receipts)
    report = extract(folder, folder / "b.db")
    return report, {row["trigger"]: row for row in ask(folder / "b.db", "SELECT * FROM event_accounts")}


def test_everything_delivered_once_is_nothing_to_account_for(tmp_path: Path) -> None:
    report, by = account(tmp_path, OURS + "".join(receipt(seq) for seq in range(10)))
    assert report.receipts == 10 and by.keys() == {"a"}
    assert any("1 of 2 triggers delivered events" in warning for warning in report.warnings)
    wanted = {"sent": 10, "acknowledged": 10, "once": 10, "lost": 0, "duplicated": 0, "reordered": 0}
    assert {name: by["a"][name] for name in wanted} == wanted
    assert by["a"]["delay_p50"] == by["a"]["delay_max"] == by["a"]["drain"] == pytest.approx(5, abs=0.001)
    assert by["a"]["delay_error"] is None, "nobody measured the clocks"


def test_a_loss_and_a_duplicate_on_two_triggers_do_not_cancel_out(tmp_path: Path) -> None:
    rows = [receipt(seq, "a") for seq in range(10) if seq != 3] + [receipt(seq, "b") for seq in range(10)]
    rows.append(receipt(7, "b", 9))
    _, by = account(tmp_path, OURS + "".join(rows))
    assert len(rows) == 20, "as many as there should be"
    assert (by["a"]["lost"], by["a"]["duplicated"], by["b"]["lost"], by["b"]["duplicated"]) == (1, 0, 0, 1)
    db = tmp_path / "b.db"
    assert [(row["trigger"], row["event_id"]) for row in ask(db, "SELECT * FROM lost_events")] == [("a", "run-1-3")]
    assert [(row["trigger"], row["event_id"]) for row in ask(db, "SELECT * FROM duplicated_events")] == [
        ("b", "run-1-7")
    ]
    assert by["a"]["delay_max"] == pytest.approx(5, abs=0.001) and by["a"]["delay_p99"] == float("inf")
    console = Console(width=80, record=True, file=open("/dev/null", "w"))
    print_tables(db, console, [1])
    console.file.close()
    shown = console.export_text()
    assert "Events by trigger" in shown and "lost" in shown and max(map(len, shown.splitlines())) <= 80


def test_a_receipt_that_was_sent_twice_is_one(tmp_path: Path) -> None:
    _, by = account(tmp_path, OURS + "".join(receipt(seq) + receipt(seq, attempt=2) for seq in range(10)))
    assert (by["a"]["once"], by["a"]["duplicated"]) == (10, 0)


def test_what_the_sink_refused_is_not_lost(tmp_path: Path) -> None:
    _, by = account(tmp_path, OURS + "".join(receipt(seq) for seq in range(10) if seq != 2), failed=(1, 2))
    assert (by["a"]["sent"], by["a"]["acknowledged"], by["a"]["lost"]) == (10, 8, 0)
    assert by["a"]["delivered_unacknowledged"] == 1


def test_what_overtook_another_is_reordered(tmp_path: Path) -> None:
    rows = [receipt(seq, ms=20 if seq == 4 else 1) for seq in range(10)]
    _, by = account(tmp_path, OURS + "".join(rows))
    assert by["a"]["reordered"] == 1 and by["a"]["once"] == 10


@pytest.mark.parametrize("head", ["", "event_id,timestamp\n"])
def test_the_originals_form_is_read(tmp_path: Path, head: str) -> None:
    rows = "".join(f"run-1-{seq},2025-02-10T11:11:13.5+01:00\n" for seq in range(10))
    report, by = account(tmp_path, head + rows, triggers=1)
    assert report.receipts == 10 and by[""]["once"] == 10
    (first,) = ask(tmp_path / "b.db", "SELECT * FROM events WHERE event_id = 'run-1-0'")
    assert list(first.values())[:2] == ["run-1-0", "2025-02-10T11:11:13.5+01:00"]
    assert first["received_ns"] == START.wall_ns + 1_500 * NS_PER_MS


def test_receipts_without_triggers_are_expected_once_for_each(tmp_path: Path) -> None:
    """The original's fan-out: of two triggers one lost event 3, one doubled event 7, and both lost event 5."""
    copies = {3: 1, 5: 0, 7: 3}
    rows = [receipt(seq, "", ms) for seq in range(10) for ms in range(copies.get(seq, 2))]
    report, by = account(tmp_path, OURS + "".join(rows))
    assert not any("delivered events" in warning for warning in report.warnings)
    wanted = {"copies": 2, "once": 7, "lost": 2, "lost_deliveries": 3, "duplicated": 1, "extra_deliveries": 1}
    assert {name: by[""][name] for name in wanted} == wanted
    assert {row["event_id"] for row in ask(tmp_path / "b.db", "SELECT * FROM lost_events")} == {"run-1-3", "run-1-5"}
    assert by[""]["delay_max"] < 1 and by[""]["delay_p99"] == float("inf"), "one came nowhere, one came once"


def test_named_triggers_beside_nameless_receipts(tmp_path: Path) -> None:
    rows = [receipt(seq, trigger) for seq in range(10) for trigger in ("a", "")]
    _, by = account(tmp_path, OURS + "".join(rows))
    assert {(trigger, row["copies"], row["once"]) for trigger, row in by.items()} == {("a", 1, 10), ("", 1, 10)}


def test_extraction_goes_on_where_it_ended(tmp_path: Path) -> None:
    write_log(tmp_path)
    path = tmp_path / "events.csv"
    path.write_text(OURS + receipt(0) + receipt(1)[:-5])
    assert [extract(tmp_path, tmp_path / "b.db").receipts for _ in range(2)] == [1, 0]
    path.write_text(OURS + "".join(receipt(seq) for seq in range(5)) + "bad\n" + "x,yesterday,a,i,1,\n")
    report = extract(tmp_path, tmp_path / "b.db")
    assert report.receipts == 4 and [(skip.line, skip.reason[:13]) for skip in report.skipped[:2]] == [
        (7, "not a receipt"), (8, "not a receipt"),
    ]  # fmt: skip
    (tmp_path / "events-copy.csv").write_bytes(path.read_bytes())
    report = extract(tmp_path, tmp_path / "b.db")
    assert report.receipts == 0 and "a copy of events.csv" in str(report.skipped)
    path.write_text(OURS + receipt(0) + receipt(9))
    (tmp_path / "events-copy.csv").unlink()
    assert "truncated or replaced" in str(extract(tmp_path, tmp_path / "b.db").skipped)


def test_receipts_bring_in_the_runs_that_they_belong_to(tmp_path: Path) -> None:
    write_log(tmp_path)
    db = tmp_path / "b.db"
    (sent,) = extract(tmp_path, db).experiments
    (log,) = tmp_path.glob("*.log")
    log.unlink()
    (tmp_path / "other.log").write_bytes(whole_log([served(0)], run_id="other"))
    (tmp_path / "events.csv").write_text(OURS + receipt(0))
    experiments = extract(tmp_path, db).experiments
    assert len(experiments) == 2 and sent in experiments


def test_a_receivers_death_is_told_from_a_brokers_loss(tmp_path: Path) -> None:
    rows = "instance,timestamp,received,refused,acknowledged,offset_ns,half_rtt_ns\n"
    rows += "i-0,2025-02-10T10:11:13Z,5,0,5,,\ni-0,2025-02-10T10:11:14Z,9,1,6,2000000,300000\n"
    rows += "i-1,2025-02-10T10:11:14Z,2,0,2,0,100000\n"
    (tmp_path / "instances.csv").write_text(rows + "torn,2025")
    own = [receipt(seq, instance="i-0") for seq in range(6)] + [receipt(seq, instance="i-1") for seq in (6, 7)]
    clock = {"url": "http://l", "offset_ns": 1_000_000, "half_rtt_ns": 200_000}
    _, by = account(tmp_path, OURS + "".join(own), clock=clock)
    assert (by["a"]["lost"], by["a"]["unaccounted"]) == (2, 2)
    found = {row["instance"]: row["unaccounted"] for row in ask(tmp_path / "b.db", "SELECT * FROM receiver_accounts")}
    assert found == {"i-0": 2, "i-1": 0}
    delays = {
        row["instance"]: (row["delay"], row["delay_error"])
        for row in ask(tmp_path / "b.db", "SELECT * FROM deliveries")
    }
    drift = pytest.approx(2 * 15e-3, abs=1e-3)  # of two seconds until the report
    assert (delays["i-0"][0], delays["i-0"][1] - 0.5) == (pytest.approx(4), drift), "its clock is 2 ms ahead, ours 1 ms"
    assert (delays["i-1"][0], delays["i-1"][1] - 0.3) == (pytest.approx(6), drift)


def report_line(at_s: float, offset_ms: float | str, half_rtt_ms: float = 0.1, instance: str = "i-0") -> str:
    """A report of a receiver, so many seconds after the first event arrived."""
    offset = f"{offset_ms * 1e6:.0f}" if isinstance(offset_ms, float) else ""
    half_rtt = f"{half_rtt_ms * 1e6:.0f}" if offset else ""
    return f"{instance},{stamp(START.wall_ns + 5_020_000 + int(at_s * 1e9))},9,0,9,{offset},{half_rtt}\n"


@pytest.mark.parametrize(
    ("reports", "delay", "error"),
    [
        ([], 5, None),
        ([(-30, "")], 5, None),
        ([(0, 2.0)], 3, 0.1),
        ([(-10, 2.0), (30, 6.0)], 2, 4.1),
        ([(-10, 2.0), (-5, 2.5), (30, 6.0), (40, 7.0)], 2, 3.6),
        ([(-10, 2.0), (-1, ""), (10, 2.0)], 3, 0.1),
        ([(-600, 2.0)], 3, 0.1 + 9),
        ([(600, 2.0)], 3, 0.1 + 9),
        ([(-3599, 2.0), (3601, 99.0)], 3, 0.1 + 53.985),
        ([(-3601, 2.0)], None, None),
        ([(3601, 2.0)], None, None),
        ([(-3601, 1.0), (3601, 2.0)], None, None),
    ],
)
def test_a_delay_goes_by_the_receivers_clock_around_it(
    tmp_path: Path, reports: list[tuple[float, float | str]], delay: float | None, error: float | None
) -> None:
    head = "instance,timestamp,received,refused,acknowledged,offset_ns,half_rtt_ns\n"
    (tmp_path / "instances.csv").write_text(head + "".join(report_line(*each) for each in reports))
    clock = {"offset_ns": 0, "half_rtt_ns": 0}
    _, by = account(tmp_path, OURS + receipt(0), events=1, clock=clock, triggers=1)
    (delivery,) = ask(tmp_path / "b.db", "SELECT delay, delay_error FROM deliveries")
    assert (delivery["delay"], delivery["delay_error"]) == (
        delay if delay is None else pytest.approx(delay, abs=1e-4),
        error if error is None else pytest.approx(error, abs=1e-3),
    )
    assert (by["a"]["sent"], by["a"]["once"], by["a"]["delay_p50"]) == (1, 1, delivery["delay"])


def test_a_later_run_does_not_change_the_delays_of_an_earlier_one(tmp_path: Path) -> None:
    (tmp_path / "instances.csv").write_text(report_line(1, 2.0))
    account(tmp_path, OURS + receipt(0), events=1, triggers=1)
    before = ask(tmp_path / "b.db", "SELECT * FROM deliveries")
    (tmp_path / "instances.csv").write_text(report_line(1, 2.0) + report_line(7200, 500.0))
    assert extract(tmp_path, tmp_path / "b.db").skipped == ()
    assert ask(tmp_path / "b.db", "SELECT * FROM deliveries") == before
    assert ask(tmp_path / "b.db", "SELECT offset_ns FROM receivers") == [{"offset_ns": 500_000_000}]


def test_deliveries_by_second(tmp_path: Path) -> None:
    account(tmp_path, OURS + "".join(receipt(seq, ms=1000 * (seq % 2)) for seq in range(10)))
    rows = ask(tmp_path / "b.db", "SELECT second, deliveries FROM deliveries_by_second ORDER BY second")
    assert [tuple(row.values()) for row in rows] == [("2025-02-10T10:11:12", 5), ("2025-02-10T10:11:13", 5)]


@pytest.mark.parametrize("version", [0, 2])
def test_the_originals_events_are_kept_and_joined(tmp_path: Path, version: int) -> None:
    db = tmp_path / "b.db"
    if version:
        connection = sqlite3.connect(db)
        schema = resources.files("workload_generator.results").joinpath("schema.sql").read_text("utf-8")
        schema = re.sub(r"\n.*clock_.*|\n.*give or take half a round trip.*", "", schema)
        connection.executescript(re.sub(r"(resources +TEXT),", r"\1", schema))
        connection.execute("PRAGMA user_version = 2")
    else:
        connection = sqlite3.connect(db)
    connection.execute("CREATE TABLE events (event_id TEXT, timestamp TEXT)")
    connection.executemany("INSERT INTO events VALUES (?, ?)", [("run-1-1", "2025-02-10T10:11:12.5Z"), ("x", "?")])
    connection.commit()
    connection.close()
    write_log(tmp_path, triggers=1)
    (tmp_path / "events.csv").write_text("run-1-1,2025-02-10T10:11:12.5Z\n")
    report = extract(tmp_path, db)
    assert "already in the database" in str(report.skipped)
    assert [row["event_id"] for row in ask(db, "SELECT * FROM events")] == ["run-1-1", "x"]
    (found,) = ask(db, "SELECT * FROM event_accounts")
    assert (found["once"], found["lost"]) == (1, 9)


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("1970-01-01T00:00:01Z", 10**9),
        ("1970-01-01T01:00:00.000000001+01:00", 1),
        ("1970-01-01T00:00:00.5Z", 5 * 10**8),
    ],
)
def test_times_are_read_to_the_nanosecond(text: str, ns: int) -> None:
    assert parse_rfc3339(text) == ns
    for bad in (text[:-1], "yesterday", "1970-13-01T00:00:00Z"):
        with pytest.raises(ValueError):
            parse_rfc3339(bad)
