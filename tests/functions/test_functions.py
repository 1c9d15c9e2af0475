"""One contract for the functions of all languages, each as a real process; unbuilt ones are skipped."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from bench.function_process import FunctionProcess, run_function
from tests import needs
from workload_generator.emulator.ports import reserve_port
from workload_generator.functions.catalog import load_catalog

ECHO = "echo-go-http"
EVENT = "go-handler-event"
ALL = [pytest.param(name, marks=needs.mark(needs.built(name))) for name in load_catalog()]
HTTP = [each for each in ALL if load_catalog()[each.values[0]].entry.kind == "http"]
FIRST = [each for each in HTTP if each.values[0] != ECHO]
SLEEP_MS = 300  # longer than a server takes to notice a signal
CLEAN_ENDS = {0, -signal.SIGTERM, 128 + signal.SIGTERM}  # the JVM ends with the last one

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
CE_HEADERS = {"ce-specversion": "1.0", "ce-id": "7", "ce-type": "benchmark.request", "ce-source": "/test"}
CE_STRUCTURED = {"specversion": "1.0", "id": "7", "type": "benchmark.request", "source": "/test"}

Start = Callable[[str], FunctionProcess]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts an instance of a function; it is gone after the test."""
    monkeypatch.setenv("SLEEP_MS", str(SLEEP_MS))
    with contextlib.ExitStack() as stack:

        def started(name: str) -> FunctionProcess:
            port = reserve_port(random.Random())
            stack.enter_context(port)
            return stack.enter_context(run_function(name, port.getsockname()[1]))

        yield started


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as made:
        yield made


async def ask(session: aiohttp.ClientSession, method: str, url: str, **options: Any) -> tuple[int, str]:
    async with session.request(method, url, **options) as response:
        return response.status, await response.text()


@pytest.mark.parametrize("name", ALL)
async def test_health_and_unknown_paths(name: str, start: Start, session: aiohttp.ClientSession) -> None:
    url = start(name).url
    for path in ("/health/liveness", "/health/readiness"):
        assert (await ask(session, "GET", url + path))[0] == 200
    for path in ("/nothing", "/health", "/index.html"):
        assert (await ask(session, "GET", url + path))[0] == 404
    assert (await ask(session, "PUT", url))[0] == 405


@pytest.mark.parametrize("name", FIRST)
async def test_only_the_first_request_is_the_first(name: str, start: Start, session: aiohttp.ClientSession) -> None:
    url = start(name).url
    for path in ("/health/readiness", "/health/liveness", "/nothing"):  # none of them counts
        await ask(session, "GET", url + path)
    async with session.get(url, headers={"Accept": "application/json"}) as response:
        assert (response.status, response.content_type, await response.text()) == (200, "text/plain", "true")
        assert response.headers.getall("x-instance") == [f"{name}-1"]
    for method in ("POST", "GET"):
        async with session.request(method, url) as response:
            assert (response.status, response.content_type, await response.text()) == (200, "text/plain", "false")
            assert response.headers.getall("x-instance") == [f"{name}-1"]


@pytest.mark.parametrize("name", FIRST)
async def test_one_of_fifty_first_requests_is_the_first(name: str, start: Start) -> None:
    """They arrive while the process is stopped: when it goes on, all fifty are there."""
    function = start(name)
    async with contextlib.AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(connected(function)) for _ in range(50)]
        for connection in waiting:
            connection.writer.write(GET[:-1])
        await asyncio.sleep(0.1)  # until it has accepted them, and waits for the last byte
        os.kill(function.pid, signal.SIGSTOP)
        asking = [asyncio.create_task(connection.exchange(GET[-1:])) for connection in waiting]
        await asyncio.sleep(0.05)
        os.kill(function.pid, signal.SIGCONT)
        answers = await asyncio.gather(*asking)
    assert Counter((answer.status, answer.body) for answer in answers) == {(200, b"true"): 1, (200, b"false"): 49}


@pytest.mark.parametrize("name", FIRST)
async def test_head_is_a_request_without_a_body(name: str, start: Start) -> None:
    async with connected(start(name)) as connection:
        head = await connection.exchange(GET.replace(b"GET", b"HEAD"))
        assert (head.status, head.headers["x-instance"], head.body) == (200, f"{name}-1", b"")
        assert (await connection.exchange(GET)).body == b"false"  # what would follow the head would be read as this


@pytest.mark.parametrize("name", HTTP)
async def test_a_connection_is_kept_through_a_large_post(name: str, start: Start) -> None:
    body = bytes(range(256)) * 4096
    assert len(body) == 1 << 20
    post = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-anything\r\nContent-Length: %d\r\n\r\n"
    async with connected(start(name)) as connection:
        for request, expected in [(GET, b"true"), (post % len(body) + body, b"false"), (GET, b"false")]:
            answer = await connection.exchange(request)
            assert answer.status == 200
            if name != ECHO:
                assert answer.body == expected
            elif request is not GET:
                assert (answer.body, answer.headers["content-type"]) == (body, "application/x-anything")


@pytest.mark.parametrize("name", ALL)
async def test_sigterm_under_load_answers_what_is_in_flight(name: str, start: Start) -> None:
    """Requests that the function has begun to read when SIGTERM comes are answered; no answer is torn.

    What is sent later may be refused, in any way.
    """
    function = start(name)
    busy = Load(function, sample(name))
    busy.may_send.set()
    head, body = sample(name, method=b"POST").split(b"\r\n\r\n")
    half_sent = f"{head.decode()}\r\n\r\n".encode() + body[:1]
    async with contextlib.AsyncExitStack() as stack:
        waiting = [await stack.enter_async_context(connected(function)) for _ in range(10)]
        for connection in waiting:
            connection.writer.write(half_sent)
        async with asyncio.TaskGroup() as group:
            for _ in range(8):
                group.create_task(busy.client())
            while busy.answered < 16:
                await asyncio.sleep(0.01)
            busy.may_send.clear()
            while unread(function):
                await asyncio.sleep(0.001)
            killed = time.monotonic()
            os.kill(function.pid, signal.SIGTERM)
            busy.may_send.set()
            await asyncio.sleep(0.2)
            answers = await asyncio.gather(*(connection.exchange(body[1:]) for connection in waiting))
        assert Counter(answer.status for answer in answers) == {200: 10}
        assert await asyncio.to_thread(ended, function.pid) in CLEAN_ENDS  # it closes the connections, nobody else
    assert not busy.torn
    assert all(sent > killed for sent in busy.refused), [sent - killed for sent in busy.refused]


@pytest.mark.parametrize("name", ALL)
async def test_a_cold_start_has_a_length(name: str, start: Start) -> None:
    began = time.monotonic()
    async with connected(start(name)) as connection:
        assert (await connection.exchange(sample(name))).status == 200
    cold_start_ms = (time.monotonic() - began) * 1000
    assert cold_start_ms > (SLEEP_MS if name.startswith("sleep-") else 0)


@needs.mark(needs.built(ECHO))
async def test_echo_shows_the_head_of_a_request_without_a_body(start: Start, session: aiohttp.ClientSession) -> None:
    status, text = await ask(session, "GET", start(ECHO).url + "/?a=b", headers={"X-Color": "blue"})
    assert status == 200 and text.startswith("GET /?a=b HTTP/1.1\r\n") and "X-Color: blue\r\n" in text


@needs.mark(needs.built(EVENT))
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        pytest.param(CE_HEADERS | {"Content-Type": "application/json"}, {"number": 1}, id="binary"),
        pytest.param(
            {"Content-Type": "application/cloudevents+json"}, CE_STRUCTURED | {"data": {"number": 1}}, id="structured"
        ),
    ],
)
async def test_the_event_handler_increments(
    headers: dict[str, str], body: object, start: Start, session: aiohttp.ClientSession
) -> None:
    async with session.post(start(EVENT).url, headers=headers, data=orjson.dumps(body)) as response:
        assert response.status == 200
        assert (await response.json(), response.headers["x-instance"]) == ({"number": 2}, f"{EVENT}-1")
        event = {name: response.headers[f"ce-{name}"] for name in ("specversion", "id", "type", "source")}
    assert event == {"specversion": "1.0", "id": "7", "type": "benchmark.response", "source": f"/{EVENT}"}


@needs.mark(needs.built(EVENT))
@pytest.mark.parametrize(
    ("headers", "body", "reason"),
    [
        pytest.param(CE_HEADERS, b'{"number": "one"}', "is not a whole number", id="not a number"),
        pytest.param(CE_HEADERS, b'{"number": ', "data is not JSON", id="not JSON"),
        pytest.param({}, b"1", "not a CloudEvent", id="no event"),
        pytest.param(CE_HEADERS | {"ce-source": ""}, b"1", "source", id="no source"),
    ],
)
async def test_the_event_handler_explains_errors(
    headers: dict[str, str], body: bytes, reason: str, start: Start, session: aiohttp.ClientSession
) -> None:
    headers = headers | {"Content-Type": "application/json"}
    status, text = await ask(session, "POST", start(EVENT).url, headers=headers, data=body)
    assert status == 400 and reason in text


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Connection:
    """One connection, and the answers on it one after the other."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def exchange(self, request: bytes) -> Response:
        """Send (the rest of) a request and read its answer. IncompleteReadError has what there was of it."""
        self.writer.write(request)
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        size = 0 if request.startswith(b"HEAD") else int(headers["content-length"])
        try:
            body = await self.reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise asyncio.IncompleteReadError(head + error.partial, None) from None
        return Response(int(status.split()[1]), headers, body)


@contextlib.asynccontextmanager
async def connected(function: FunctionProcess) -> AsyncIterator[Connection]:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(function.url.rpartition(":")[2]), limit=1 << 20)
    try:
        yield Connection(reader, writer)
    finally:
        writer.transport.abort()


@dataclass
class Load:
    """Clients that ask again as soon as they are answered, until nobody answers; what became of their requests."""

    function: FunctionProcess
    request: bytes
    may_send: asyncio.Event = field(default_factory=asyncio.Event)
    answered: int = 0
    refused: list[float] = field(default_factory=list)  # when each was sent
    torn: list[bytes] = field(default_factory=list)

    async def client(self) -> None:
        with contextlib.suppress(ConnectionError):  # refused: it is gone
            while True:
                async with connected(self.function) as connection:
                    await self._ask_while_kept(connection)

    async def _ask_while_kept(self, connection: Connection) -> None:
        while True:
            await self.may_send.wait()
            sent = time.monotonic()
            try:
                answer = await connection.exchange(self.request)
            except ConnectionError:
                self.refused.append(sent)
                return
            except asyncio.IncompleteReadError as error:
                if error.partial:
                    self.torn.append(error.partial)
                else:
                    self.refused.append(sent)
                return
            if answer.status != 200:
                self.refused.append(sent)
                return
            self.answered += 1
            if answer.headers.get("connection", "").lower() == "close":
                return


def sample(name: str, method: bytes = b"GET") -> bytes:
    """A request that the function answers with 200."""
    if name != EVENT and method == b"GET":
        return GET
    headers = CE_HEADERS | {"Host": "localhost", "Content-Type": "application/json", "Content-Length": "2"}
    return (
        b"POST / HTTP/1.1\r\n" + "".join(f"{key}: {value}\r\n" for key, value in headers.items()).encode() + b"\r\n10"
    )


def unread(function: FunctionProcess) -> int:
    """How many bytes lie in connections to the function and were not read by it: proc_pid_net(5)."""
    port = f":{int(function.url.rpartition(':')[2]):04X}"
    lines = [line for table in Path("/proc/net").glob("tcp*") for line in table.read_text().splitlines()[1:]]
    rows = [line.split() for line in lines]
    return sum(int(row[4].partition(":")[2], 16) for row in rows if row[1].endswith(port) and row[3] == "01")


def ended(pid: int) -> int:
    """Wait for it; its exit code as subprocess has it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
