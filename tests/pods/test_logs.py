"""Files from a pod: complete, verified, and resumed after every way in which a session can break."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.pods.standin import Clock, Standin
from workload_generator.base.errors import BenchError
from workload_generator.cluster.pods import sessions
from workload_generator.cluster.pods.logs import LOG_FILES, RECEIPT_FILES, Copy, delete, fetch
from workload_generator.cluster.pods.sessions import PodRequestRefused

SIZES = {"a.log": 300_000, "b.log": 1, "c.log": 0, "d.log": 700_000}


def fill(folder: Path, sizes: dict[str, int] = SIZES) -> dict[str, bytes]:
    """Files that do not compress, oldest first."""
    draw = random.Random(1)
    content = {}
    for age, (name, size) in enumerate(sizes.items()):
        content[name] = draw.randbytes(size)
        (folder / name).write_bytes(content[name])
        os.utime(folder / name, (age, age))
    return content


def there(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


async def test_all_files_are_transferred_once(standin: Standin, tmp_path: Path) -> None:
    content = fill(standin.pod() / "logs")
    (standin.pod() / "logs" / "e.interrupted").write_text("none of it")
    out = tmp_path / "new" / "logs"
    copies = await fetch(standin.agent(), "/logs", LOG_FILES, out)
    assert there(out) == content and [(each.name, each.came) for each in copies] == list(SIZES.items())
    assert {each.came for each in await fetch(standin.agent(), "/logs", LOG_FILES, out)} == {0}
    with (standin.pod() / "logs" / "d.log").open("ab") as file:
        file.write(b"more")
    copies = await fetch(standin.agent(), "/logs", LOG_FILES, out)
    assert sum(each.came for each in copies) == 4 and there(out)["d.log"] == content["d.log"] + b"more"


@pytest.mark.parametrize("cut", [0, 5, 299_000, 400_000, 900_000])
async def test_a_broken_stream_is_resumed(standin: Standin, tmp_path: Path, cut: int) -> None:
    content = fill(standin.pod() / "logs")
    standin.fault('"archive"', cut=cut)
    came: list[int] = []
    await fetch(standin.agent(), "/logs", LOG_FILES, tmp_path / "out", came.append)
    assert there(tmp_path / "out") == content and not standin.faults_left
    assert sum(came) == sum(SIZES.values()), "nothing came twice"


@pytest.mark.parametrize("place", [3, 100_000, 600_000, 1_000_300])
async def test_a_damaged_stream_is_transferred_again(standin: Standin, tmp_path: Path, place: int) -> None:
    content = fill(standin.pod() / "logs")
    standin.fault('"archive"', damage=place)
    await fetch(standin.agent(), "/logs", LOG_FILES, tmp_path / "out")
    assert there(tmp_path / "out") == content and not standin.faults_left


async def test_a_local_file_that_differs_is_replaced(standin: Standin, tmp_path: Path) -> None:
    content = fill(standin.pod() / "logs")
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.log").write_bytes(b"x" * 300_000)
    (out / ".d.log.part").write_bytes(content["d.log"][:1000] + b"torn")
    copies = await fetch(standin.agent(), "/logs", LOG_FILES, out)
    assert there(out) == content and {each.name: each.came for each in copies} == SIZES


async def test_a_part_is_resumed(standin: Standin, tmp_path: Path) -> None:
    content = fill(standin.pod() / "logs")
    out = tmp_path / "out"
    out.mkdir()
    (out / ".d.log.part").write_bytes(content["d.log"][:600_000])
    (out / ".b.log.part").write_bytes(content["b.log"])
    copies = {each.name: each.came for each in await fetch(standin.agent(), "/logs", LOG_FILES, out)}
    assert there(out) == content and copies["d.log"] == 100_000 and copies["b.log"] == 0


async def test_a_checksum_that_stays_wrong_is_an_error_and_deletes_nothing(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = fill(standin.pod() / "logs")
    wrong = sessions._SOURCE.replace(b'"sha256": whole.hexdigest()}', b'"sha256": "0" * 64}')
    assert wrong != sessions._SOURCE
    monkeypatch.setattr(sessions, "_SOURCE", wrong)
    with pytest.raises(BenchError, match="the copy of .* had a wrong sha256 3 times"):
        await fetch(standin.agent(), "/logs", LOG_FILES, tmp_path / "out")
    assert not there(tmp_path / "out") and there(standin.pod() / "logs") == content


async def test_a_silent_session_is_ended_and_repeated(standin: Standin, tmp_path: Path, clock: Clock) -> None:
    content = fill(standin.pod() / "logs")
    standin.fault('"archive"', hang=500_000)
    fetching = asyncio.create_task(fetch(standin.agent(), "/logs", LOG_FILES, tmp_path / "out"))
    while not (tmp_path / "out" / "c.log").exists():
        assert not fetching.done()
        await asyncio.sleep(0.02)
    clock.skip(sessions.SILENCE_S)
    await fetching
    assert there(tmp_path / "out") == content


async def test_an_unavailable_api_server_is_retried_and_forbidden_is_not(standin: Standin, tmp_path: Path) -> None:
    fill(standin.pod() / "logs")
    for _ in range(3):
        standin.fault('"archive"', refuse="The connection to the server 10.0.0.1:443 was refused")
    assert len(await fetch(standin.agent(), "/logs", LOG_FILES, tmp_path / "out")) == 4
    with pytest.raises(BenchError, match=r"no session succeeded for 0\.3 s: .*refused"):
        for _ in range(20):
            standin.fault('"archive"', refuse="The connection to the server 10.0.0.1:443 was refused")
        await fetch(standin.agent(patience_s=0.3), "/logs", LOG_FILES, tmp_path / "out")
    calls = len(standin.calls)
    for path in (standin.folder / "faults").iterdir():
        path.unlink()
    standin.fault('"archive"', refuse='Error from server (Forbidden): pods "generator-1" is forbidden')
    with pytest.raises(PodRequestRefused, match="Forbidden"):
        await fetch(standin.agent(), "/logs", LOG_FILES, tmp_path / "out")
    assert len(standin.calls) == calls + 1


async def test_receipts_that_the_pod_no_longer_has_are_kept(standin: Standin, tmp_path: Path) -> None:
    data, out = standin.pod() / "data", tmp_path / "out"
    (data / "events.csv").write_text("r-1,2026-11-25T08:00:00Z\n")
    await fetch(standin.agent(), "/data", RECEIPT_FILES, out)
    (data / "events.csv").write_text("s-1,2026-11-25T09:00:00Z\n")
    await fetch(standin.agent(), "/data", RECEIPT_FILES, out)
    assert there(out) == {
        "events.csv": b"s-1,2026-11-25T09:00:00Z\n",
        "events-1.csv": b"r-1,2026-11-25T08:00:00Z\n",
    }


def change(path: Path) -> None:
    path.write_bytes(b"x" * path.stat().st_size)


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"x")


@pytest.mark.parametrize(
    ("spoil", "here", "why"),
    [
        (change, False, "it differs from the copy"),
        (grow, False, "it has grown since"),
        (change, True, "the local copy has changed"),
        (Path.unlink, False, None),
    ],
)
async def test_only_files_with_a_verified_copy_are_deleted(
    standin: Standin, tmp_path: Path, spoil: Callable[[Path], None], here: bool, why: str | None
) -> None:
    folder, out = standin.pod() / "logs", tmp_path / "out"
    fill(folder)
    copies = await fetch(standin.agent(), "/logs", LOG_FILES, out)
    spoil((out if here else folder) / "a.log")
    with (folder / "d.log").open("rb"):
        kept = await delete(standin.agent(), "/logs", out, copies)
    assert kept == {"d.log": "a process has it open"} | ({"a.log": why} if why else {})
    assert there(folder).keys() == kept.keys() and there(out).keys() == SIZES.keys()
    assert await delete(standin.agent(), "/logs", out, [each for each in copies if each.name == "b.log"]) == {}


async def test_a_name_outside_the_folder_is_refused(
    standin: Standin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(standin.pod() / "logs", {"a.log": 10})
    bad = sessions._SOURCE.replace(b'{"name": name,', b'{"name": "../" + name,')
    assert bad != sessions._SOURCE
    monkeypatch.setattr(sessions, "_SOURCE", bad)
    with pytest.raises(BenchError, match=r"\.\./a\.log was not requested"):
        await fetch(standin.agent(patience_s=0.5), "/logs", LOG_FILES, tmp_path / "out")
    assert not (tmp_path / "a.log").exists()


async def test_a_growing_log_is_copied_with_its_present_length(standin: Standin, tmp_path: Path) -> None:
    path = standin.pod() / "logs" / "run.log"
    ended = False

    async def write() -> int:
        lines = 0
        with path.open("ab", buffering=0) as file:
            while not ended:
                file.write(b"a line of the log\n" * 1000)
                lines += 1000
                await asyncio.sleep(0.001)
        return lines

    writing = asyncio.create_task(write())
    for _ in range(4):
        (copy,) = await fetch(standin.agent(), "/logs", LOG_FILES, tmp_path / "out") or [Copy("", 0, 0, "")]
        here = (tmp_path / "out" / "run.log").read_bytes()
        assert len(here) == copy.size and set(here.split(b"\n")[:-1]) == {b"a line of the log"}
    ended = True
    lines = await writing
    await fetch(standin.agent(), "/logs", LOG_FILES, tmp_path / "out")
    assert (tmp_path / "out" / "run.log").read_bytes().count(b"\n") == lines
