"""The recorder: what it writes, what it answers, and a disk that fills up."""

import errno
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from tests.log.blocks import packed
from workload_generator.base.quantities import format_bytes
from workload_generator.log import format as log_format
from workload_generator.log import recorder as recorder_module
from workload_generator.log import wire
from workload_generator.log import writer as log_module
from workload_generator.log.recorder import LogFile, Recorder
from workload_generator.log.records import ErrorKind, Phase, Result, Stamp

SERVED = Result(
    seq=0, phase=Phase.MEASURE, target=0, due_ns=0, start_ns=1000, status=200, dns_ns=0, connect_ns=0, tls_ns=0,
    ttfb_ns=2_000_000, total_ns=2_100_000, bytes_read=5, cold=False, reused=True, retries=0, stamp=Stamp.USER,
    segments=1, instance="pod", event_id=None, error=None, message=None,
)  # fmt: skip
START = {
    "targets": ["http://a"],
    "expected": [[200]],
    "start": {"wall_ns": 10**18, "mono_ns": 0},
    "progress": "none",
    "view": {"title": "t", "total_ns": 10**9, "timeout": "30s"},
    "header": {"schema": log_format.SCHEMA, "run_id": "r"},
}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "a.log"


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.fixture
def generator(ends: tuple[socket.socket, socket.socket]) -> socket.socket:
    """The generator's end of the recorder's socket."""
    return ends[0]


@pytest.fixture
def recorder(log: Path, ends: tuple[socket.socket, socket.socket]) -> Recorder:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    return Recorder(LogFile(descriptor, wire.shared_counts(os.memfd_create("counts")), ends[1]))


def events_of(log: Path) -> list[str]:
    return [log_format.decode(line)["event"] for line in log.read_bytes().splitlines()]


def test_lines_totals_and_trailer(log: Path, recorder: Recorder) -> None:
    assert recorder.handle(wire.START, orjson.dumps(START)) is None
    dropped = SERVED._replace(seq=2, status=0, ttfb_ns=None, total_ns=None, error=ErrorKind.DROPPED, message="full")
    unexpected = SERVED._replace(seq=1, status=503)
    assert recorder.handle(wire.RESULTS, packed([SERVED, unexpected, dropped])) is None
    beat = {"line": {"time": "t", "started": 2}, "elapsed_ns": 1, "in_flight": 0, "phase": "measure"}
    assert recorder.handle(wire.HEARTBEAT, orjson.dumps(beat)) is None
    ((kind, payload),) = wire.FrameReader().feed(recorder.handle(wire.DRAIN, b"") or b"")
    counts = orjson.loads(payload)["counts"]["measure"]
    assert kind == wire.TOTALS
    assert (counts["sent"], counts["ok"], counts["failed"], counts["dropped"]) == (2, 1, 1, 1)
    assert counts["statuses"] == {"200": 1, "503": 1}
    ttfb = orjson.loads(payload)["histograms"]["ttfb"]
    assert (ttfb["served"], ttfb["beyond"]) == (1, 2), "a 503 and a drop are slower than any limit"
    answer = recorder.handle(wire.FINISH, orjson.dumps({"verdict": "valid"})) or b""
    assert [kind for kind, _ in wire.FrameReader().feed(answer)] == [wire.DONE]
    docs = [log_format.decode(line) for line in log.read_bytes().splitlines()]
    assert [doc["event"] for doc in docs] == ["run_started", *["request"] * 3, "progress", "run_finished"]
    assert [doc["seq"] for doc in docs if doc["event"] == "request"] == [0, 1, 2]


def test_done_is_sent_after_the_trailer_is_synced(
    log: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", lambda fd: synced.append(os.fstat(fd).st_size))
    recorder.handle(wire.START, orjson.dumps(START))
    answer = recorder.handle(wire.FINISH, orjson.dumps({"verdict": "valid"}))
    assert answer is not None and synced[-1:] == [log.stat().st_size]


async def test_a_line_is_written_after_earlier_results(log: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_FLUSH_S", 60.0)
    writer = log_module.Log(lambda: None)
    async with writer.opened([log]):
        writer.begin(START)
        writer.add(SERVED)
        writer.line(log_format.COLD_START, {"seq": 0})
        writer.add(SERVED)
        writer.heartbeat({"line": {"time": "t"}, "elapsed_ns": 1, "in_flight": 0, "phase": "measure"})
        await writer.finish({"verdict": "valid"})
    assert events_of(log) == ["run_started", "request", "cold_start", "request", "progress", "run_finished"]


def test_the_recorder_yields_its_core_unless_it_has_fallen_behind(
    log: Path, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered: list[int] = []
    monkeypatch.setattr(os, "sched_yield", lambda: offered.append(log.stat().st_size))
    recorder.handle(wire.START, orjson.dumps(START))
    before = log.stat().st_size
    recorder.handle(wire.RESULTS, packed([SERVED]))
    assert offered == []
    recorder.offers_core = True
    after = log.stat().st_size
    recorder.handle(wire.RESULTS, packed([SERVED]))
    assert before < after and offered == [after] * 3, "before it counts, formats and writes"


def test_frames_arrive_in_any_pieces() -> None:
    sent = [(wire.RESULTS, b"x" * 1000), (wire.DRAIN, b""), (wire.FINISH, b"{}")]
    stream = b"".join(wire.frame(kind, payload) for kind, payload in sent)
    reader = wire.FrameReader()
    got = [each for at in range(0, len(stream), 7) for each in reader.feed(stream[at : at + 7])]
    assert got == sent


def test_a_full_disk_leaves_whole_lines_and_is_reported_once(log: Path, recorder: Recorder) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    recorder.handle(wire.START, orjson.dumps(START))
    blocks = [packed([SERVED._replace(seq=n)] * 5) for n in range(10)]
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        answers = [recorder.handle(wire.RESULTS, each) for each in blocks]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    (answer,) = (each for each in answers if each)
    ((kind, payload),) = wire.FrameReader().feed(answer)
    assert kind == wire.FAILED
    data = log.read_bytes()
    assert data.endswith(b"\n") and 3000 < len(data) <= 5000
    assert all(log_format.decode(line) for line in data.splitlines())
    assert f"File too large; the log has {data.count(10)} lines, {format_bytes(len(data))}" == orjson.loads(payload)


@pytest.mark.parametrize("words", [[], ["1"], ["--help"], ["3", "4", "x"]])
def test_wrong_words_are_reported_in_one_line(words: list[str]) -> None:
    command = [sys.executable, "-m", "workload_generator.log.recorder", *words]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1) and "LOG_FD COUNTS_FD SOCKET_FD" in ran.stderr


def fill(monkeypatch: pytest.MonkeyPatch, failures: int) -> None:
    """The next writes fail for lack of space."""
    left = iter(range(failures))
    write = os.write

    def full(fd: int, data: bytes) -> int:
        if next(left, None) is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(recorder_module, "_RETRY_MS", 1)


def test_a_disk_that_was_full_loses_nothing(
    log: Path, recorder: Recorder, generator: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.handle(wire.START, orjson.dumps(START))
    fill(monkeypatch, 5)
    assert recorder.handle(wire.RESULTS, packed([SERVED, SERVED])) is None
    assert recorder.handle(wire.RESULTS, packed([SERVED])) is None
    assert list(wire.FrameReader().feed(generator.recv(1000))) == [(wire.STUCK, b'"No space left on device"')], "once"
    assert events_of(log) == ["run_started", *["request"] * 3]


def test_a_disk_that_stays_full_is_a_failure_once_the_generator_gives_up(
    log: Path, recorder: Recorder, generator: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder.handle(wire.START, orjson.dumps(START))
    fill(monkeypatch, 2**31)
    generator.close()
    ((kind, payload),) = wire.FrameReader().feed(recorder.handle(wire.RESULTS, packed([SERVED])) or b"")
    assert kind == wire.FAILED and b"No space left on device" in payload
    assert events_of(log) == ["run_started"]
