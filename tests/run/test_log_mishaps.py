"""A log that cannot be written for a while, or any more: the user is told at once, and what was lost is counted."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from pathlib import Path

import pytest

from tests.support import Generator, Ran, after, at_once, children_of, one_result_each, target
from tests.warm import Process

LOOK = "log.writer._LOOK_S"
HEARTBEAT = "run.runner._HEARTBEAT_S"


async def said(process: Process, what: str) -> str:
    """What is said on standard error until `what`."""
    text = ""
    while what not in text:
        line = await process.stderr.readline()
        assert line, text
        text += line.decode()
    return text


async def test_a_recorder_that_stands_still_loses_nothing_when_it_goes_on(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{LOOK: 0.1})
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"duration": "1500ms"})
        process = await generator.run_until_sending(f"--config={path}")
        (recorder,) = children_of(process.pid)
        os.kill(recorder, signal.SIGSTOP)
        text = await said(process, "results wait in memory")
        assert "not written for 5 s: the recorder or its disk does not respond; " in text
        os.kill(recorder, signal.SIGCONT)
        assert "nothing was lost" in await said(process, "written again after")
        ran = await generator.finish(process)
    one_result_each(ran)
    assert len(ran.requests()) == 150 and ran.code in (0, 3)


async def test_a_recorder_that_stands_still_from_its_start_is_reported_too(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{LOOK: 0.1})
    async with target(at_once) as url:
        process = await generator.start(f"--config={generator.experiment(url)}", "--progress=none")
        while not (recorders := [pid for pid in children_of(process.pid) if is_recorder(pid)]):
            await asyncio.sleep(0.001)
        (recorder,) = recorders
        os.kill(recorder, signal.SIGSTOP)
        await said(process, "not written for")
        os.kill(recorder, signal.SIGCONT)
        assert "nothing was lost" in await said(process, "written again after")
        await process.communicate()
    assert process.returncode in (0, 3)


async def test_a_recorder_that_does_not_go_on_ends_the_run_which_counts_its_losses(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{LOOK: 0.1})
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"duration": "1s"})
        process = await generator.run_until_sending(f"--config={path}")
        (recorder,) = children_of(process.pid)
        os.kill(recorder, signal.SIGSTOP)
        ran = await generator.finish(process)
    assert ran.code == 1 and "not written for 65 s" in ran.stderr
    assert lost(ran) == 100 - len(ran.requests()) > 0
    with pytest.raises(ProcessLookupError):
        os.kill(recorder, 0)


def is_recorder(pid: int) -> bool:
    """Whether it has begun its program; before that, its parent waits for it in vfork."""
    return b"log.recorder" in Path(f"/proc/{pid}/cmdline").read_bytes()


def lost(ran: Ran) -> int:
    """The number of results that the last line of standard error counts."""
    found = re.search(r"([0-9,]+) results were not written$", ran.stderr.strip())
    assert found, ran.stderr
    return int(found[1].replace(",", ""))


async def test_a_killed_recorder_loses_what_is_not_in_the_log(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    async with target(after(0.1)) as url:
        process = await generator.run_until_sending(f"--config={generator.experiment(url, rate={'duration': '60s'})}")
        (recorder,) = children_of(process.pid)
        os.kill(recorder, signal.SIGKILL)
        ran = await generator.finish(process)
    assert ran.code == 1 and "recorder process ended (exit code -9)" in ran.stderr
    assert lost(ran) >= 1, "what was in flight"


async def test_memory_for_waiting_results_has_an_end(tmp_path: Path) -> None:
    generator = Generator(tmp_path, **{"log.writer._MOST_WAITING_BYTES": 1000})
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"requestsPerSecond": 0, "connections": 20, "duration": "60s"})
        process = await generator.run_until_sending(f"--config={path}")
        os.kill(children_of(process.pid)[0], signal.SIGSTOP)
        ran = await generator.finish(process)
    assert ran.code == 1 and "the memory for waiting results is used up" in ran.stderr and lost(ran) > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stopped_recorder_does_not_hold_up_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    """It is continued, as a shell continues a stopped process that it ends."""
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        process = await generator.run_until_sending(f"--config={generator.experiment(url, rate={'duration': '60s'})}")
        os.kill(children_of(process.pid)[0], signal.SIGSTOP)
        process.send_signal(number)
        ran = await generator.finish(process)
    assert ran.code == 128 + number
    one_result_each(ran)


@pytest.mark.parametrize("mishap", ["deleted", "moved", "cut"])
async def test_a_log_that_somebody_takes_away_is_noticed_at_once(tmp_path: Path, mishap: str) -> None:
    generator = Generator(tmp_path, **{HEARTBEAT: 0.05})
    async with target(at_once) as url:
        path = generator.experiment(url, rate={"duration": "60s" if mishap == "deleted" else "1500ms"})
        process = await generator.run_until_sending(f"--config={path}")
        (log,) = generator.logs.glob("*.log")
        if mishap == "deleted":
            log.unlink()
        elif mishap == "moved":
            generator.logs.rename(tmp_path / "elsewhere")
        else:
            os.truncate(log, 0)
        text = await said(process, f"the log was {mishap}")
        ran = await asyncio.wait_for(generator.finish(process), 20)
    assert ran.code == 1 and f"the log was {mishap}" in ran.stderr, "again at the end"
    if mishap == "deleted":
        assert lost(ran) > 20, "all"
    if mishap == "moved":
        moved = tmp_path / "elsewhere" / log.name
        assert f"moved to {moved}" in text
        generator.logs = moved.parent
        one_result_each(Ran(ran.code, "", "", generator.read_log()))


async def test_a_log_that_was_deleted_and_has_another_link_is_deleted(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    async with target(at_once) as url:
        process = await generator.run_until_sending(f"--config={generator.experiment(url, rate={'duration': '60s'})}")
        (log,) = generator.logs.glob("*.log")
        (tmp_path / "other").hardlink_to(log)
        log.unlink()
        _, stderr = await process.communicate()
    assert process.returncode == 1 and b"the log was deleted" in stderr


async def test_a_folder_that_is_a_file_is_no_folder(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    (tmp_path / "file").touch()
    config = f"--config={generator.experiment('http://127.0.0.1:1')}"
    process = await generator.start(config, f"--log-dir={tmp_path / 'file'}")
    _, stderr = await process.communicate()
    assert process.returncode == 2 and stderr.count(b"cannot create the log") == 1


async def test_runs_of_one_second_get_a_file_each(tmp_path: Path) -> None:
    """As pods with one log folder, which have a lock each."""
    async with target(at_once) as url:
        pods = [Generator(tmp_path / str(number)) for number in range(4)]
        for pod in pods:
            pod.folder.mkdir()
        flags = [f"--log-dir={tmp_path / 'logs'}", "--progress=none", "--output=json"]
        processes = [
            await pod.start(f"--config={pod.experiment(url, rate={'duration': '200ms'})}", *flags) for pod in pods
        ]
        codes = [await process.wait() for process in processes]
    assert set(codes) <= {0, 3}
    logs = sorted((tmp_path / "logs").glob("*.log"))
    assert len(logs) == 4 and all(b"run_finished" in log.read_bytes().splitlines()[-1] for log in logs)


async def test_a_folder_without_a_size_is_not_called_full(tmp_path: Path) -> None:
    generator = Generator(tmp_path)
    process = await generator.start(f"--config={generator.experiment('http://127.0.0.1:1')}", "--log-dir=/proc/nope")
    _, stderr = await process.communicate()
    assert process.returncode == 2 and b"cannot create the log /proc/nope/" in stderr and b"free" not in stderr
