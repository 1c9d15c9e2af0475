"""`kn-bench local --triggers N`."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import aiohttp
import orjson
import pytest

from tests.emulator.test_command import command, get
from tests.eventing.services import SOON_S, Services, headers
from workload_generator.commands.kn_bench import main


async def test_every_event_reaches_every_trigger(tmp_path: Path) -> None:
    services = Services(tmp_path)
    try:
        logger = await services.logger()
        receiver = await services.receiver(logger.url)
        with command("--triggers=3", "--parallelism=2", f"--receiver={receiver.url}/") as (_, url):
            async with aiohttp.ClientSession() as session:
                for number in range(5):
                    sent = headers(f"e-{number}")
                    async with session.post(f"{url}/broker/default/default", headers=sent) as response:
                        assert response.status == 202
            async with asyncio.timeout(SOON_S):
                while len(services.rows()) < 15:
                    await asyncio.sleep(0.05)
            triggers = orjson.loads(get(f"{url}/_platform/brokers/default/default"))["triggers"]
        deliveries = sorted((row["trigger"], row["event_id"]) for row in services.rows())
        assert deliveries == [(f"receiver-{t}", f"e-{number}") for t in range(3) for number in range(5)]
        assert [each["settings"]["parallelism"] for each in triggers.values()] == [2, 2, 2]
    finally:
        await services.end()


def test_flags_add_triggers_to_those_of_the_file(tmp_path: Path) -> None:
    config = tmp_path / "p.yaml"
    config.write_text(
        "brokers: {default/default: {queue-limit: 7, triggers: {own: {subscriber: 'http://127.0.0.1:1'}}}}"
    )
    with command("--triggers=1", f"--config={config}") as (process, url):
        assert process.stdout is not None
        shown = [process.stdout.readline() for _ in range(2)]
        assert any(re.fullmatch(r"broker default/default: /broker/default/default, triggers own, receiver-0\n", line)
                   for line in shown), shown  # fmt: skip
        triggers = orjson.loads(get(f"{url}/_platform/brokers/default/default"))["triggers"]
    assert triggers["receiver-0"]["settings"]["subscriber"] == "http://127.0.0.1:8081/t/receiver-0"
    assert triggers["receiver-0"]["settings"]["parallelism"] == 10


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--parallelism=3"], "need --triggers"),
        (["--receiver=http://a"], "need --triggers"),
        (["--triggers=0"], "--triggers"),
        (["--triggers=1", "--parallelism=1001"], "--parallelism: 1001 is not a number of deliveries"),
        (["--triggers=1", "--receiver=here"], "not an http:// or https:// URL"),
        (["--triggers=2", "--config=FILE"], "already has receiver-1"),
    ],
)
def test_invalid_flags_of_triggers(
    flags: list[str], complaint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "p.yaml"
    config.write_text("brokers: {default/default: {triggers: {receiver-1: {subscriber: 'http://a'}}}}")
    try:
        code = main(["local", "--port=0", *(flag.replace("FILE", str(config)) for flag in flags)])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 2 and complaint in capsys.readouterr().err
