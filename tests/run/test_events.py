"""Event mode: what arrives at the sink, read by the SDK; and what the environment may hold."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httptools
import pytest
import yaml
from cloudevents.core.bindings.http import HTTPMessage, from_http_event

from tests.engine import servers
from tests.log.blocks import encode
from tests.support import BRIEF, Generator, one_result_each, valid_but_for_the_machine
from workload_generator.base.clock import Anchor
from workload_generator.base.errors import UsageError
from workload_generator.cloudevents.encode import Draft, EventEncoder, data_of_size
from workload_generator.commands import workload_generator
from workload_generator.engine.http1 import encode_request
from workload_generator.log.format import ResultEncoder, decode
from workload_generator.log.records import Arrival as A
from workload_generator.log.records import ErrorKind, Phase, unanswered
from workload_generator.run.sink import overrides, sink_url


@pytest.fixture
def generator(tmp_path: Path) -> Generator:
    return Generator(tmp_path)


class Sink:
    """A server that keeps what it got and answers `status`."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = b"202 Accepted"
        self.url = ""

    @property
    def events(self) -> list[Any]:
        return [from_http_event(HTTPMessage(headers, body)) for headers, body in self.requests]


class _Connection(asyncio.Protocol):
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_begin(self) -> None:
        self._headers: dict[str, str] = {}
        self._body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, data: bytes) -> None:
        self._body += data

    def on_message_complete(self) -> None:
        if self._parser.get_method() == b"POST":  # a run asks once whether this is the embedded platform
            self._sink.requests.append((self._headers, self._body))
        self._transport.write(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % self._sink.status)


@contextlib.asynccontextmanager
async def sink() -> AsyncIterator[Sink]:
    kept = Sink()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(kept), "127.0.0.1", 0)
    kept.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/broker/a/b"
    try:
        yield kept
    finally:
        server.close()


def encoder(draft: Draft) -> EventEncoder:
    def head(headers: Any, length: int) -> bytes:
        text = encode_request("POST", "http://sink/100%25/x", headers, b"")
        return text.replace(b"Content-Length: 0", b"Content-Length: %d" % length)

    made = EventEncoder(draft, "run-", head)
    made.begin(1_764_000_000_000_000_000)
    return made


DRAFTS = {
    "original": Draft("a.b", "/s", data='{"number": 1}', content_type="application/json"),
    "no data": Draft("a.b", "/s"),
    "percent": Draft("a%d", "/s%s", data="100 %d %s%%", content_type="text/plain"),
    "template": Draft("a", "/s", data='{"n": ${seq}, "id": "${id}", "at": "${time}"}', is_template=True),
    "text template": Draft("a", "/s", data='say "${seq}" ü', is_template=True, content_type="text/plain"),
    "extension": Draft("a", "/s", data="{}", attributes={"tenant": "münchen", "subject": "x y"}),
    "a megabyte": Draft("a", "/s", data=data_of_size(1 << 20)),
}


@pytest.mark.parametrize("mode", ["binary", "structured"])
@pytest.mark.parametrize("name", DRAFTS)
def test_every_event_is_whole_and_its_own(name: str, mode: str) -> None:
    draft = Draft(**{field: getattr(DRAFTS[name], field) for field in Draft.__dataclass_fields__} | {"mode": mode})
    made = encoder(draft)
    for seq, ns, time in [
        (0, 0, "2025-11-24T16:00:00+00:00"),
        (12345, 999_999, "2025-11-24T16:00:00.000999+00:00"),
        (7, 61_000_000_000, "2025-11-24T16:01:01+00:00"),
        (-1, 5_000, "2025-11-24T16:00:00.000005+00:00"),
        *((number, 5_000, "2025-11-24T16:00:00.000005+00:00") for number in (9, 10, 99, 100, 10**12 - 1, 10**12)),
    ]:
        raw = made.encode(seq, ns)
        kept = Sink()
        connection = _Connection(kept)
        connection.connection_made(io.BytesIO())
        connection.data_received(raw)
        (event,) = kept.events
        assert (event.get_id(), event.get_extension("sequence")) == (f"run-{seq}", f"{seq:012d}")
        assert event.get_time().isoformat() == time
        assert (event.get_type(), event.get_source()) == (draft.type, draft.source)
        assert {key: event.get_attributes()[key] for key in draft.attributes} == dict(draft.attributes)
        if draft.data is None:
            assert not event.get_data()
        elif name == "template":
            assert event.get_data() == {"n": seq, "id": f"run-{seq}", "at": kept_time(time)}
        elif name == "text template":
            assert event.get_data() == f'say "{seq}" ü'
        elif name == "original":
            assert event.get_data() == {"number": 1}
        elif name == "percent":
            assert event.get_data() == draft.data
        else:
            assert event.get_data() == ({} if name == "extension" else "x" * ((1 << 20) - 2))


def kept_time(iso: str) -> str:
    base = iso.removesuffix("+00:00")
    return (base if "." in base else base + ".000000") + "Z"


@pytest.mark.parametrize("size", [0, 1, 2, 3, 1000])
def test_data_of_a_size_is_json_of_that_size(size: int) -> None:
    assert len(data_of_size(size)) == size
    assert not size or yaml.safe_load(data_of_size(size)) is not None


@pytest.mark.parametrize("value", [None, "", "sink", "ftp://a", "http://"])
def test_a_missing_or_wrong_sink_is_reported_with_what_to_check(value: str | None) -> None:
    with pytest.raises(UsageError, match=r"K_SINK.*kn-bench doctor"):
        sink_url({} if value is None else {"K_SINK": value})


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"extensions": []}', '{"extensions": {"a": 1}}', '{"extensions": {"A-b": "x"}}',
             '{"extensions": {"id": "x"}}'],
)  # fmt: skip
def test_bad_overrides_are_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match="K_CE_OVERRIDES"):
        overrides({"K_CE_OVERRIDES": text})


def test_no_overrides_are_none() -> None:
    for text in ("", " ", "{}", "null", '{"extensions": null}', '{"extensions": {}}', '{"other": 1}'):
        assert overrides({"K_CE_OVERRIDES": text}) == {}, text
    assert overrides({}) == {}


def test_a_dropped_event_was_never_made() -> None:
    lines = ResultEncoder(["http://a"], Anchor(0, 0), "r-")
    refused, dropped = (
        decode(encode(lines, unanswered(A(5, Phase.MEASURE, 0, 0), 0, kind, "m"), False))
        for kind in (ErrorKind.CONNECT_REFUSED, ErrorKind.DROPPED)
    )
    assert refused["event_id"] == "r-5" and "event_id" not in dropped


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    monkeypatch.delenv("K_CE_OVERRIDES", raising=False)
    monkeypatch.delenv("K_SINK", raising=False)
    yield monkeypatch


async def test_a_bundled_experiment_sends_its_events(generator: Generator, environment: pytest.MonkeyPatch) -> None:
    async with sink() as kept:
        environment.setenv("K_SINK", kept.url)
        environment.setenv("K_CE_OVERRIDES", '{"extensions": {"tenant": "a"}}')
        flags = ["--config=cloudevent-250", "--event=true", "--rps=0", "--duration=200ms", "--ping", "--run-id=r"]
        ran = await generator.run(*flags)
        assert ran.code in (0, 3), ran.stderr
        one_result_each(ran)
        ids = [doc["event_id"] for doc in ran.requests()]
        assert sorted(ids) == sorted(event.get_id() for event in kept.events) and len(set(ids)) == len(ids)
        assert all(doc["event_id"] == f"r-{doc['seq']}" and doc["target"] == kept.url for doc in ran.requests())
        event = kept.events[-1]
        assert event.get_type() == "benchmark.request" and event.get_extension("tenant") == "a"
        assert event.get_data() == {"number": 1}
        assert ran.lines[0]["events"]["id_prefix"] == "r-"


async def test_any_2xx_is_success_and_events_are_never_retried(
    generator: Generator, environment: pytest.MonkeyPatch
) -> None:
    async with sink() as kept:
        environment.setenv("K_SINK", kept.url)
        path = generator.experiment(
            "http://ignored", rate=BRIEF, event={"type": "t", "mode": "structured", "size": 100}
        )
        ran = await generator.run(f"--config={path}", "--event")
        valid_but_for_the_machine(ran)
        assert len(kept.requests) == 100 and {doc["status"] for doc in ran.requests()} == {202}
        assert all(doc["retries"] == 0 for doc in ran.requests())


@pytest.mark.parametrize("trusted", [True, False])
async def test_a_sinks_certificate_is_checked_against_what_knative_gives(
    generator: Generator, environment: pytest.MonkeyPatch, trusted: bool
) -> None:
    certificates = servers.Certificates()
    if trusted:
        environment.setenv("K_CA_CERTS", certificates.pem.decode())
    async with servers.serve(servers.answers(), tls=certificates.server()) as server:
        environment.setenv("K_SINK", server.url)
        path = generator.experiment("http://ignored", event={"type": "t"}, rate={"duration": "200ms"})
        ran = await generator.run(f"--config={path}", "--event")
    one_result_each(ran)
    assert {doc.get("error") for doc in ran.requests()} == {None if trusted else "tls"}
    assert ran.trailer["counts"]["measure"]["ok"] == (20 if trusted else 0)


@pytest.mark.parametrize("rps", ["100", "0"])
async def test_ids_are_unique_across_shards(generator: Generator, environment: pytest.MonkeyPatch, rps: str) -> None:
    async with sink() as kept:
        environment.setenv("K_SINK", kept.url)
        path = generator.experiment("http://ignored", event={"type": "t"}, rate={"maxIdleConnsPerHost": 2})
        for shard in ("0/2", "1/2"):
            process = await generator.start(
                f"--config={path}", "--event", "--ping", f"--shard={shard}", "--run-id=r", f"--rps={rps}",
                "--duration=200ms",
            )  # fmt: skip
            await process.communicate()
        ids = [event.get_id() for event in kept.events]
        assert len(ids) == len(set(ids)) > 20


@pytest.mark.parametrize(
    ("event", "sink_value", "complaint"),
    [
        ({}, "http://a", "no type"),
        ({"type": "t"}, "", "K_SINK is not set"),
        ({"type": "t", "data": "${nothing}"}, "http://a", "is not a placeholder"),
        ({"type": "t", "data": "{}", "size": 4}, "http://a", "remove one of them"),
        ({"type": "t", "mode": "batched"}, "http://a", "not one of binary, structured"),
        ({"type": "t", "mode": "structured", "data": "{"}, "http://a", "not JSON"),
    ],
)
def test_an_experiment_without_a_valid_event_sends_nothing(
    generator: Generator, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    event: dict[str, Any], sink_value: str, complaint: str,
) -> None:  # fmt: skip
    environment.setenv("K_SINK", sink_value)
    path = generator.experiment("http://ignored", **({"event": event} if event else {}))
    assert workload_generator.main([f"--config={path}", "--event", "--check"]) == 2
    assert complaint in capsys.readouterr().err


def test_check_shows_the_events(
    generator: Generator, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    environment.setenv("K_SINK", "http://broker/x")
    assert workload_generator.main(["--config=eventing-scenario-1-100rps", "--event", "--check", "--run-id=r"]) == 0
    out = capsys.readouterr().out
    assert "POST http://broker/x" in out and "type benchmark.request" in out and "ids r-<seq>" in out
