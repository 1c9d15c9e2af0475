"""Interoperability with the CloudEvents SDK for JavaScript."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests import needs
from tests.eventing.services import SOON_S, Services
from tests.ports import free_port
from tests.support import Generator

HERE = Path(__file__).parent / "interop"
pytestmark = needs.mark(needs.NODE)


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which the SDK is installed."""
    folder = tmp_path_factory.mktemp("peer")
    for name in ("package.json", "peer.mjs"):
        shutil.copy(HERE / name, folder)
    command = ["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--prefer-offline"]
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        pytest.skip(needs.NPM_REGISTRY.reason)
    return folder


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_the_sdk_reads_our_events(peer: Path, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    node = await asyncio.create_subprocess_exec(
        "node", "peer.mjs", "accept", str(port), cwd=peer, stdout=asyncio.subprocess.PIPE
    )
    assert node.stdout is not None
    try:
        async with asyncio.timeout(SOON_S):
            assert json.loads(await node.stdout.readline()) == {"listening": True}
        monkeypatch.setenv("K_SINK", f"http://127.0.0.1:{port}/")
        monkeypatch.setenv("K_CE_OVERRIDES", '{"extensions": {"tenant": "münchen"}}')
        generator = Generator(tmp_path)
        event = {"type": "t", "source": "/s", "mode": mode, "data": '{"n": ${seq}, "id": "${id}"}'}
        path = generator.experiment("http://ignored", event=event, rate={"requestsPerSecond": 50})
        ran = await generator.run(f"--config={path}", "--event", "--run-id=r")
    finally:
        node.kill()
        out, _ = await node.communicate()
    assert ran.code in (0, 3), ran.stderr
    heard = [json.loads(line) for line in out.splitlines()]
    assert len(heard) == 50 and all(line["ok"] for line in heard), heard[:3]
    for line in heard:
        taken = line["event"]
        seq = taken["data"]["n"]
        assert taken["id"] == taken["data"]["id"] == f"r-{seq}" and taken["sequence"] == f"{seq:012d}"
        assert (taken["type"], taken["source"]) == ("t", "/s") and taken["time"].endswith("Z")
        if mode == "structured":  # this SDK leaves headers percent-encoded
            assert taken["tenant"] == "münchen"


async def test_we_read_the_sdks_events(peer: Path, services: Services) -> None:
    logger = await services.logger()
    receiver = await services.receiver(logger.url)
    node = await asyncio.create_subprocess_exec(
        "node", "peer.mjs", "send", f"{receiver.url}/t/peer", cwd=peer, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(SOON_S):
        out, _ = await node.communicate()
    answers = [json.loads(line) for line in out.splitlines()]
    assert [answer["status"] for answer in answers] == [202] * 3, answers
    rows = services.rows()
    assert [row["event_id"] for row in rows] == ["binary-1", "structured-ü", "batch-1", "batch-2", "batch-3"]
    assert {(row["trigger"], row["sequence"]) for row in rows} == {("peer", "7")}
