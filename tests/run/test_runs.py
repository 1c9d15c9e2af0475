"""The command, run as a user runs it, against targets that behave and targets that do not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import socket
import time
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from tests.support import (
    BRIEF,
    OK,
    Answer,
    Generator,
    after,
    at_once,
    awaits,
    catches,
    children_of,
    one_result_each,
    target,
    valid_but_for_the_machine,
)

HEARTBEAT = "run.runner._HEARTBEAT_S"
GRACE = "run.signals.GRACE_S"


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    return Generator(tmp_path)


async def test_a_warm_run_from_ramp_to_trailer(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{HEARTBEAT: 0.2})
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 400, "duration": "1s", "rampUp": "500ms"})
        ran = await generator.run(f"--config={path}", "--prefix=a_b", "--seed=7", "--ping")
    valid_but_for_the_machine(ran)
    one_result_each(ran)
    start = ran.lines[0]
    assert (start["event"], start["prefix"], start["seed"]) == ("run_started", "a_b", 7)
    assert len(ran.requests("ping")) == 1 and len(ran.requests("ramp")) > 50
    assert len(ran.requests("measure")) == 400 == ran.summary["sent"] == ran.summary["ok"]
    assert ran.summary["verdict"] == ran.trailer["verdict"]
    assert all(doc["instance"] == "pod-1" and doc["cold"] is False for doc in ran.requests())
    assert all(doc["lag"] >= 0 for doc in ran.requests()), "never early"
    beats = [doc for doc in ran.lines if doc["event"] == "progress"]
    assert len(beats) >= 2
    assert all(beat["planned"] >= beat["started"] >= beat["finished"] for beat in beats)


async def test_ttfb_is_what_the_server_waits(generator: Generator) -> None:
    async def wait(writer: asyncio.StreamWriter) -> None:
        """Answer late, and say how long it took in the header that the log keeps."""
        begin = time.monotonic()
        await asyncio.sleep(0.1)
        writer.write(OK.replace(b"pod-1", b"%.3f" % ((time.monotonic() - begin) * 1000)))

    async with target(wait) as url:
        ran = await generator.run(f"--config={generator.experiment(url, rate={'duration': '200ms'})}")
    shares = sorted(doc["ttfb"] / float(doc["instance"]) for doc in ran.requests())
    assert shares[0] >= 1 and shares[len(shares) // 2] < 1.5, shares


async def test_a_slow_target_does_not_slow_the_schedule(generator: Generator) -> None:
    async with target(after(1)) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 1000, "duration": "1s"})
        ran = await generator.run(f"--config={path}")
    one_result_each(ran)
    assert ran.summary["sent"] == ran.summary["planned"] == 1000
    assert ran.summary["ok"] == 1000


async def test_past_max_in_flight_arrivals_are_dropped_and_counted(generator: Generator) -> None:
    async with target(after(5)) as url:
        path = generator.experiment(url, rate={**BRIEF, "maxInFlight": 10, "timeout": "1s"})
        ran = await generator.run(f"--config={path}")
    one_result_each(ran)
    assert ran.code == 3 and ran.summary["dropped"] == 90
    assert any("limit of 10" in reason for reason in ran.summary["reasons"])
    assert ran.summary["ttfb_ms"]["p50"] == "> 1s"


async def reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    writer.transport.abort()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.close()


async def talk_garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x00\xffnot http\r\n\r\n")


async def half_a_body(writer: asyncio.StreamWriter) -> None:
    writer.write(OK[:-2])
    writer.close()


async def never(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(reset, "reset"), (hang_up, "reset"), (talk_garbage, "protocol"), (half_a_body, "body"), (never, "timeout")],
)
async def test_each_failure_is_a_row_of_its_kind(generator: Generator, answer: Answer, kind: str) -> None:
    async with target(answer) as url:
        path = generator.experiment(url, rate={**BRIEF, "timeout": "500ms" if kind == "timeout" else "30s"})
        ran = await generator.run(f"--config={path}")
    one_result_each(ran)
    assert {doc["error"] for doc in ran.requests()} == {kind}, ran.requests()[0]
    assert ran.summary["errors"] == {kind: 100} and ran.summary["ok"] == 0


async def test_a_refusing_target_and_an_unknown_name(generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RES_OPTIONS", "timeout:1 attempts:1")  # a name server may not respond
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        urls = [f"http://127.0.0.1:{taken.getsockname()[1]}/", "http://no-such-host.invalid/"]
        ran = await generator.run(f"--config={generator.experiment(urls, rate=BRIEF)}")
    one_result_each(ran)
    kinds = {doc["target"]: doc["error"] for doc in ran.requests()}
    assert kinds == {urls[0]: "connect_refused", urls[1]: "dns"}


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_run_that_nobody_answered_is_valid_but_no_success(generator: Generator, processes: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        path = generator.experiment(f"http://127.0.0.1:{taken.getsockname()[1]}/", rate=BRIEF)
        process = await generator.start(f"--config={path}", "--progress=none", f"--processes={processes}")
        stdout, stderr = await process.communicate()
    line = b"workload-generator: nothing was answered (connect_refused 100 of 100): is the platform up?\n"
    assert process.returncode == 3 and stderr == line
    if processes == 1:
        trailer = generator.read_log()[-1]
        assert trailer["answered"] == 0
        assert trailer["verdict"] == "valid" or b"  - " in stdout, "the generator did its part"


async def test_unexpected_statuses_are_failures_with_their_status(generator: Generator) -> None:
    async def unavailable(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")

    async with target(unavailable) as url:
        ran = await generator.run(f"--config={generator.experiment(url, rate=BRIEF)}")
    assert ran.summary["statuses"] == {"503": 100} and ran.summary["failed"] == 100
    valid_but_for_the_machine(ran)
    assert ran.trailer["answered"] == ran.summary["answered"] == 100
    assert all("error" not in doc and doc["ttfb"] is not None and doc["cold"] is None for doc in ran.requests())


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
async def test_a_signal_ends_the_run_with_its_trailer(generator: Generator, number: int, code: int) -> None:
    async with target(after(0.2)) as url:
        path = generator.experiment(url, rate={"duration": "60s"})
        process = await generator.run_until_sending(f"--config={path}")
        process.send_signal(number)
        ran = await generator.finish(process)
    assert ran.code == code
    one_result_each(ran)
    assert {doc.get("error") for doc in ran.requests()} == {None}, "what was in flight got its time"
    assert "stopped by SIG" in ran.trailer["reasons"][0]


async def test_a_second_signal_does_not_wait(generator: Generator) -> None:
    asked = asyncio.Event()

    async def ask(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await never(writer)

    async with target(ask) as url:
        path = generator.experiment(url, rate={"duration": "60s"})
        process = await generator.start(f"--config={path}", "--output=json", "--progress=none")
        await asked.wait()
        process.send_signal(signal.SIGTERM)
        while awaits(process.pid, signal.SIGTERM):
            await asyncio.sleep(0.01)
        process.send_signal(signal.SIGINT)
        ran = await generator.finish(process)
    one_result_each(ran)
    assert ran.code == 143 and {doc["error"] for doc in ran.requests()} == {"cancelled"}
    assert {doc["message"] for doc in ran.requests()} == {"the run was stopped by SIGINT"}, "not by the end of its time"


async def test_a_killed_generator_loses_nothing_that_had_finished(generator: Generator) -> None:
    served = 0

    async def count(writer: asyncio.StreamWriter) -> None:
        nonlocal served
        served += 1
        writer.write(OK)

    async with target(count) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 500, "duration": "60s"})
        process = await generator.run_until_sending(f"--config={path}", requests=550)
        process.kill()
        await process.wait()
        await generator.wait_for_recorder()
        lines = generator.read_log()
    rows = [doc for doc in lines if doc["event"] == "request"]
    assert lines[-1]["event"] != "run_finished"
    assert served - 500 <= len(rows) <= served, "at most the last second is missing"


async def test_a_lost_terminal_does_not_end_the_run(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{HEARTBEAT: 0.2})
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"duration": "1s"})
        process = await generator.start(f"--config={path}", "--progress=plain")
        while not any(doc["event"] == "request" for doc in generator.read_log()):
            await asyncio.sleep(0.05)
        process.send_signal(signal.SIGHUP)
        process.stdout._transport.close()  # type: ignore[attr-defined]
        process.stderr._transport.close()  # type: ignore[attr-defined]
        code = await process.wait()
    lines = generator.read_log()
    assert code in (0, 3) and lines[-1]["event"] == "run_finished"
    assert sum(doc["event"] == "request" for doc in lines) == 100


async def test_a_signal_during_the_pings_ends_the_run_too(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{GRACE: 0.5})
    asked = asyncio.Event()

    async def ask(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await never(writer)

    async with target(ask) as url:
        path = generator.experiment([url + "a", url + "b"], rate={"duration": "60s"})
        process = await generator.start(f"--config={path}", "--ping", "--output=json", "--progress=none")
        await asked.wait()
        process.send_signal(signal.SIGTERM)
        ran = await generator.finish(process)
    one_result_each(ran)
    assert ran.code == 143
    assert [(doc["phase"], doc["error"]) for doc in ran.requests()] == [("ping", "cancelled")]


async def test_a_killed_recorder_ends_the_run_and_is_named(generator: Generator) -> None:
    async with target(after(0.1)) as url:
        path = generator.experiment(url, rate={"duration": "60s"})
        process = await generator.run_until_sending(f"--config={path}")
        (recorder,) = children_of(process.pid)
        os.kill(recorder, signal.SIGKILL)
        ran = await asyncio.wait_for(generator.finish(process), 30)
    assert ran.code == 1 and "recorder process ended (exit code -9)" in ran.stderr


async def test_a_terminal_that_takes_nothing_does_not_hold_up_the_log(generator: Generator) -> None:
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 65536)
    os.set_blocking(write_end, True)
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"duration": "1500ms"})  # past the first heartbeat
        process = await generator.start_cold(f"--config={path}", "--progress=plain", "--output=json", stderr=write_end)
        os.close(write_end)
        ran = await asyncio.wait_for(generator.finish(process), 40)
    os.close(read_end)
    one_result_each(ran)
    valid_but_for_the_machine(ran)
    assert len(ran.requests()) == 150


async def test_a_lack_of_descriptors_counts_against_the_generator(generator: Generator) -> None:
    def few_files() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (80, 80))

    async with target(after(1)) as url:
        path = generator.experiment(url, rate={**BRIEF, "maxInFlight": 1000})
        ran = await generator.run_cold(f"--config={path}", preexec_fn=few_files)
    one_result_each(ran)
    assert ran.code == 3 and any("no descriptor" in reason for reason in ran.summary["reasons"])


@pytest.mark.parametrize("delay", [0.0, 0.02, 0.1, 0.2, 0.3, 0.4, 0.6])
async def test_a_signal_while_it_starts_ends_it_without_a_traceback(generator: Generator, delay: float) -> None:
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"duration": "60s"})
        process = await generator.start_cold(f"--config={path}", "--progress=none", start_new_session=True)
        while process.returncode is None and not catches(
            process.pid, signal.SIGTERM
        ):  # the interpreter's own start cannot be guarded
            await asyncio.sleep(0.002)
        await asyncio.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)
        ran = await generator.finish(process)
    assert ran.code == 130 and "Traceback" not in ran.stderr


async def test_the_closed_loop_lasts_as_long_as_it_says(generator: Generator) -> None:
    async with target(after(0.01)) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 0, "connections": 2, "duration": "500ms"})
        ran = await generator.run(f"--config={path}")
    times = [datetime.fromisoformat(doc["time"]) for doc in ran.requests()]
    assert max(times) - min(times) <= timedelta(milliseconds=500)
    assert ran.summary["achieved_rps"] == pytest.approx(len(times) / 0.5)


async def test_the_achieved_rate_counts_the_time_that_it_took(generator: Generator) -> None:
    async with target(at_once) as url:
        rounds = {"rate": {"requestsPerSecond": 5, "duration": "200ms"}, "coldStart": {"gap": "400ms"}}
        ran = await generator.run(f"--config={generator.experiment([url, url], **rounds)}", "--cold-start")
    first, last = (datetime.fromisoformat(doc["time"]) for doc in ran.requests())
    took = (last - first).total_seconds()
    assert took >= 0.4, "the second target's turn comes after the planned end"
    assert ran.summary["achieved_rps"] == pytest.approx(2 / took, rel=0.05)


async def test_closed_standard_streams_do_not_mix_with_the_log(generator: Generator) -> None:
    def close_all() -> None:
        os.closerange(0, 3)

    async with target(at_once) as url:
        path = generator.experiment(url, rate=BRIEF)
        process = await generator.start_cold(f"--config={path}", stdout=None, stderr=None, preexec_fn=close_all)
        ran = await generator.finish(process)
    valid_but_for_the_machine(ran)
    one_result_each(ran)
    assert len(ran.requests()) == 100


async def test_a_full_disk_stops_the_run_and_says_what_was_saved(generator: Generator) -> None:
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 500, "duration": "60s"})
        ran = await generator.run_cold(f"--config={path}", preexec_fn=small_files)
    assert ran.code == 1
    assert "File too large" in ran.stderr and "lines" in ran.stderr
    assert ran.lines[-1]["event"] in ("request", "progress") and len(ran.requests()) > 30


async def test_a_second_run_is_refused_with_the_name_of_the_first(generator: Generator) -> None:
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"duration": "60s"})
        first = await generator.run_until_sending(f"--config={path}")
        second = await generator.start(f"--config={path}")
        _, stderr = await second.communicate()
        assert second.returncode == 2
        assert f"process {first.pid}".encode() in stderr
        first.terminate()
        await first.wait()


async def test_the_closed_loop_keeps_its_connections_busy(generator: Generator) -> None:
    active = most = 0

    async def count(writer: asyncio.StreamWriter) -> None:
        nonlocal active, most
        active += 1
        most = max(most, active)
        await asyncio.sleep(0.02)
        active -= 1
        writer.write(OK)

    async with target(count) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 0, "connections": 8, "duration": "300ms"})
        ran = await generator.run(f"--config={path}")
    one_result_each(ran)
    valid_but_for_the_machine(ran)
    assert most == 8
    assert sum(not doc["reused"] for doc in ran.requests()) == 8


async def test_connections_with_an_answer_too_many_are_counted_in_the_trailer(generator: Generator) -> None:
    async def twice(writer: asyncio.StreamWriter) -> None:
        writer.write(OK * 2)

    async with target(twice) as url:
        ran = await generator.run(f"--config={generator.experiment(url, rate=BRIEF)}")
    one_result_each(ran)
    assert ran.trailer["counts"]["unasked"] == len(ran.requests()) == 100
    assert {(doc["reused"], doc["address"], doc["retries"]) for doc in ran.requests()} == {(False, "127.0.0.1", 0)}


async def test_cold_starts_visit_targets_one_after_the_other(generator: Generator) -> None:
    active = 0

    async def alone(writer: asyncio.StreamWriter) -> None:
        nonlocal active
        active += 1
        assert active == 1
        await asyncio.sleep(0.1)
        active -= 1
        writer.write(OK.replace(b"5\r\n", b"4\r\n").replace(b"false", b"true"))

    async with target(alone) as one, target(alone) as two:
        path = generator.experiment(
            [one, two], rate={"requestsPerSecond": 1, "duration": "2s"}, coldStart={"gap": "200ms"}
        )
        ran = await generator.run(f"--config={path}", "--cold-start=true")
    one_result_each(ran)
    valid_but_for_the_machine(ran)
    assert ran.summary["cold"]["true"] == 4
    assert [doc["target"] for doc in ran.requests()] == [one, two] * 2


async def test_the_originals_command_line_works(generator: Generator) -> None:
    async with target(at_once) as url:
        flags = ["--config=serving-scenario-2-go.yaml", "--prefix=serving-scenario-1_all", "--cold-start=true"]
        process = await generator.run_until_sending(*flags, f"--dev-url={url}", requests=1)
        process.terminate()
        ran = await generator.finish(process)
    assert ran.requests()[0]["target"].startswith("http://empty-")
    assert [log.name.startswith("serving-scenario-1_all_") for log in generator.logs.iterdir()] == [True]


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--config=no-such-thing"], "no-such-thing"),
        (["--rps=fast"], "not a number"),
        (["--duration=10"], "unit"),
        (["--prefix=a/b"], "slash"),
        (["--cold-start=perhaps"], "neither true nor false"),
        (["--config=cloudevent-250", "--event"], "K_SINK is not set"),
        (["--no-such-flag"], "unrecognized"),
    ],
)
async def test_bad_flags_send_nothing(generator: Generator, flags: list[str], complaint: str) -> None:
    ran = await generator.run(*flags)
    assert ran.code == 2 and complaint in ran.stderr
    assert not generator.logs.exists()


async def test_an_unwritable_log_folder_sends_nothing(generator: Generator) -> None:
    path = generator.experiment("http://127.0.0.1:9/")
    (generator.folder / "file").write_text("")
    process = await generator.start(f"--config={path}", f"--log-dir={generator.folder}/file/logs")
    _, stderr = await process.communicate()
    assert process.returncode == 2 and b"--log-dir" in stderr
