"""Whatever a server sends: one result for each arrival, no success that was none, and no connection left behind."""

from __future__ import annotations

import os
import random

import pytest

from tests.engine import servers
from tests.engine.client import Client
from tests.engine.test_response_cache import BODIES, HEADS, STARTS, read_whole
from workload_generator.engine.http1 import ResponseReader

ENDS = (servers.End.KEEP, servers.End.CLOSE, servers.End.RESET)


def bytes_of(draw: random.Random) -> bytes:
    """A response, whole or broken."""
    body = draw.choice(BODIES)
    lines = [draw.choice(HEADS) for _ in range(draw.randrange(5))]
    head = b"".join(line % len(body) if b"%d" in line else line for line in lines)
    whole = draw.choice(STARTS) + head + b"\r\n" + body
    if draw.random() < 0.5:
        at = draw.randrange(len(whole))
        whole = whole[:at] + draw.randbytes(draw.randrange(4)) + whole[at + draw.randrange(3) :]
    return whole


def open_sockets() -> int:
    links = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue  # the folder's own
    return sum(link.startswith("socket:") for link in links)


@pytest.mark.parametrize("seed", range(12))
async def test_arbitrary_answers(seed: int) -> None:
    draw = random.Random(seed)
    kinds = [(bytes_of(draw), draw.choice(ENDS)) for _ in range(25)]
    before = open_sockets()
    patient, impatient = Client(timeout_s=60), Client(timeout_s=0.1)
    for data, end in kinds:
        good = read_whole(reader := ResponseReader(), data)
        reader.close()
        client = impatient if good is None and end is servers.End.KEEP else patient  # nothing but time ends these
        async with servers.serve(servers.sends(data, end=end)) as server:
            for _ in range(2):
                result = await client.ask(server.url)
                if result.error is None:
                    until_close = end is servers.End.CLOSE
                    assert good is not None or until_close, (data, end, result)
                    if good is not None:
                        assert (result.status, result.bytes_read) == (good.status, good.bytes_read)
                elif good is not None:
                    assert end is servers.End.RESET, (data, end, result)
    engines = [patient.engine, impatient.engine]
    assert [engine.in_flight for engine in engines] == [0, 0]
    assert sum(engine.started for engine in engines) == sum(engine.finished for engine in engines) == 50
    assert len(patient.results) + len(impatient.results) == 50
    for engine in engines:
        engine.close()
    assert patient.idle == impatient.idle == 0 and open_sockets() <= before


@pytest.mark.parametrize("seed", range(6))
async def test_arbitrary_data_behind_good_answers(seed: int) -> None:
    """Each arrival has one result, nothing that cannot be repeated is sent twice, and no connection is left behind."""
    draw = random.Random(seed)
    before = open_sockets()
    client, asked = Client(timeout_s=0.3), 0
    for _ in range(12):
        behaviour = servers.sends_more(bytes_of(draw), draw.choice((0.0, 0.0002, 0.002)), draw.randrange(1, 3))
        async with servers.serve(behaviour) as server:
            for _ in range(4):
                await client.ask(server.url, method="POST", body=b"x")
            asked += len(server.requests)
    assert client.engine.in_flight == 0 and client.engine.unasked > 0
    assert len(client.results) == client.engine.finished == 48 and asked <= 48
    assert {result.retries for result in client.results} == {0}
    client.engine.close()
    assert client.idle == 0 and open_sockets() <= before
