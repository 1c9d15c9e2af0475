"""A log in pieces is the log at once, and no line of any content is fatal."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.log.blocks import encode
from tests.results import logs
from tests.results.logs import (
    NAME,
    START,
    everything,
    failed,
    header,
    heartbeat,
    is_ok,
    line,
    rows_of,
    served,
    whole_log,
)
from tests.results.test_extract import OLD_LOG
from tests.strategies import results
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind
from workload_generator.results.database import open_store
from workload_generator.results.ingest.extract import ExtractionReport, extract

OURS = whole_log([served(0), failed(1), served(2, event_id="ev"), failed(3, ErrorKind.DROPPED), served(4, status=503)])
KILLED = b"".join([*OURS.splitlines(keepends=True)[:5], heartbeat(9, 9, 8), OURS.splitlines(keepends=True)[5]])
LOGS = [OURS, KILLED, OLD_LOG.encode()]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)


def in_pieces(pieces: Sequence[bytes], folder: Path) -> dict[str, Any]:
    """What the database holds after an extraction of each of the states of a growing file."""
    folder.mkdir()
    for piece in pieces:
        (folder / NAME).write_bytes(piece)
        extract(folder, folder / "x.db")
    return everything(folder / "x.db")


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(LOGS), st.lists(st.integers(0, 3000), max_size=6))
def test_a_growing_file_in_any_cuts_equals_the_whole_at_once(log: bytes, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as name:
        at_once = in_pieces([log], Path(name) / "once")
        assert in_pieces([*(log[:cut] for cut in sorted(cuts)), log], Path(name) / "cut") == at_once


def at_every_byte(log: bytes, folder: Path) -> Iterator[tuple[int, ExtractionReport, int]]:
    """Each state of a growing file: its size, the report of its extraction, how many results are stored then."""
    db = folder / "x.db"
    open_store(db).close()
    with closing(sqlite3.connect(db)) as reader:
        for end in range(len(log) + 1):
            (folder / NAME).write_bytes(log[:end])
            report = extract(folder, db)
            (stored,) = reader.execute("SELECT count(*) FROM results").fetchone()
            yield end, report, stored


def test_a_log_torn_at_every_byte_gives_its_whole_lines(tmp_path: Path) -> None:
    for end, report, stored in at_every_byte(OURS, tmp_path):
        whole = OURS[:end].splitlines(keepends=True)
        torn = bool(whole) and not whole[-1].endswith(b"\n")
        read = len(whole) - torn
        assert stored == sum(line.startswith(b'{"event":"request"') for line in whole[:read])
        assert len(report.skipped) == (torn or end == 0)
        if torn:
            assert report.skipped[0].line == (read + 1 if read else 0)


def test_the_originals_log_torn_at_every_byte_gives_its_whole_lines(tmp_path: Path) -> None:
    log = OLD_LOG.encode()
    for end, _, stored in at_every_byte(log, tmp_path):
        whole = log[:end].count(b"\n")
        assert stored == [0, 0, 1, 1, 2, 3][whole]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=60).map(lambda raw: raw.replace(b"\n", b"")), max_size=12), st.data())
def test_garbage_between_lines_costs_only_itself(garbage: list[bytes], data: st.DataObject) -> None:
    lines = OURS.splitlines(keepends=True)
    for raw in garbage:
        lines.insert(data.draw(st.integers(1, len(lines))), raw + b"\n")
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / NAME).write_bytes(b"".join(lines))
        report = extract(Path(name), Path(name) / "x.db")
    assert report.rows == 5
    assert sum(skip.count for skip in report.skipped) == len(garbage)


@settings(deadline=None, max_examples=60)
@given(st.lists(results, max_size=6, unique_by=lambda result: result.seq), st.text(st.characters(), max_size=40))
def test_every_result_is_stored_as_it_was(rows: list[Any], target: str) -> None:
    encoder = log_format.ResultEncoder([target], START)
    lines = [encode(encoder, row, is_ok(row)) for row in rows]
    log = b"".join([line(log_format.RUN_STARTED, header(targets=(log_format.clean(target),))), *lines])
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / NAME).write_bytes(log)
        report = extract(Path(name), Path(name) / "x.db")
        stored = rows_of(Path(name) / "x.db", "SELECT * FROM results ORDER BY id")
    assert report.rows == len(rows) and not report.skipped
    for row, raw, result in zip(stored, lines, rows, strict=True):
        doc = log_format.decode(raw)
        assert {
            "timestamp": doc["time"],
            "ttfb": doc["ttfb"],
            "total_time": doc["total"],
            "dns_time": doc["dns"],
            "connect_time": doc["connect"],
            "tls_time": doc["tls"],
            "is_cold": doc["cold"],
            "error_kind": doc.get("error"),
            "error_message": doc.get("message"),
            "event_id": doc.get("event_id"),
            "instance": doc.get("instance"),
            **{
                key: doc[key]
                for key in ("seq", "phase", "target", "status", "lag", "reused", "retries", "bytes", "stamp")
            },
            "ok": int(is_ok(result)),
        }.items() <= row.items()


@settings(deadline=None, max_examples=150)
@given(st.integers(0, len(OURS.splitlines()) - 1), st.data())
def test_a_line_with_one_wrong_value_is_stored_or_left_out_and_never_fatal(index: int, data: st.DataObject) -> None:
    lines = OURS.splitlines()
    doc = orjson.loads(lines[index])
    inner = doc
    while True:
        key = data.draw(st.sampled_from(sorted(inner)))
        if not isinstance(inner[key], dict) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    if data.draw(st.booleans()):
        inner[key] = data.draw(json_values)
    else:
        del inner[key]
    lines[index] = orjson.dumps(doc)
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / NAME).write_bytes(b"".join(raw + b"\n" for raw in lines))
        report = extract(Path(name), Path(name) / "x.db")
        stored = everything(Path(name) / "x.db")
    assert len(stored["results"]) == report.rows
    assert len(stored["experiments"]) == report.read == len(stored["shards"])
    requests = sum(raw.startswith(b'{"event":"request"') for raw in OURS.splitlines())
    assert report.rows >= requests - 1 or report.skipped


def test_a_large_log_is_read_in_blocks(tmp_path: Path) -> None:
    rows = [served(n) for n in range(6000)]
    (tmp_path / NAME).write_bytes(whole_log(rows))
    assert (tmp_path / NAME).stat().st_size > 1 << 20
    report = extract(tmp_path, tmp_path / "x.db")
    assert report.rows == 6000
    stored = rows_of(tmp_path / "x.db", "SELECT seq FROM requests ORDER BY id")
    assert [row["seq"] for row in stored] == list(range(6000))
    assert logs.rows_of(tmp_path / "x.db", "SELECT lines FROM shards") == [{"lines": 6003}]
