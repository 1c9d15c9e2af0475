"""Lines of the original's logs, as Go's slog writes them."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workload_generator.log.records import ErrorKind
from workload_generator.results.ingest import original

SUCCESS = (
    "time=2025-02-09T10:11:13.5Z level=INFO msg=Success target=http://empty-go-http-0.functions.svc.cluster.local "
    "TTFB=1.482ms Total=1.5ms isCold=false status=200 DNS=0s Connect=0s TLS=0s"
)
FAILURE = (
    'time=2025-02-09T10:11:14.123456789+01:00 level=ERROR msg="Request error" target=http://a '
    'error="Get \\"http://a\\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"'
)


def row(line: str) -> dict[str, object] | None:
    values = original.row_of(original.parse(line.encode()))
    return None if values is None else dict(zip(original.COLUMNS, values, strict=True))


def test_a_success_is_a_row() -> None:
    assert row(SUCCESS) == {
        "timestamp": "2025-02-09T10:11:13.500000Z",
        "status": 200,
        "ttfb": 1.482,
        "total_time": 1.5,
        "is_cold": 0,
        "dns_time": 0.0,
        "connect_time": 0.0,
        "tls_time": 0.0,
        "error_message": None,
        "event_id": None,
        "target": "http://empty-go-http-0.functions.svc.cluster.local",
        "phase": "measure",
        "error_kind": None,
        "ok": 1,
    }


def test_a_request_error_is_a_row_too() -> None:
    found = row(FAILURE)
    assert found is not None
    assert (found["timestamp"], found["status"], found["ttfb"], found["ok"]) == (
        "2025-02-09T09:11:14.123456Z",
        0,
        None,
        0,
    )
    assert found["error_kind"] == "timeout"
    assert found["error_message"] == (
        'Get "http://a": context deadline exceeded (Client.Timeout exceeded while awaiting headers)'
    )


@pytest.mark.parametrize(("status", "ok"), [(200, 1), (204, 1), (302, 0), (404, 0), (503, 0)])
def test_any_status_is_called_a_success_but_only_2xx_is_ok(status: int, ok: int) -> None:
    found = row(SUCCESS.replace("status=200", f"status={status}"))
    assert found is not None and (found["status"], found["ok"]) == (status, ok)


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("61.911697ms", 61.912),
        ("1.2s", 1200.0),
        ("850µs", 0.85),
        ("999ns", 0.001),
        ("1m2.5s", 62500.0),
        ("0s", 0.0),
    ],
)
def test_go_durations_become_milliseconds(text: str, ms: float) -> None:
    found = row(SUCCESS.replace("TTFB=1.482ms", f"TTFB={text}"))
    assert found is not None and found["ttfb"] == ms


def test_what_is_not_said_is_unknown() -> None:
    line = "time=2025-02-09T10:11:13Z level=INFO msg=Success target=http://broker id=ev-1 status=202"
    found = row(line)
    assert found is not None
    assert (found["event_id"], found["is_cold"], found["ttfb"], found["dns_time"]) == ("ev-1", None, None, None)


@pytest.mark.parametrize(
    "line",
    [
        'time=2025-02-09T10:11:12.123456789Z level=INFO msg="Loaded configuration" config="{Targets:[]}"',
        "time=2025-02-09T10:11:12Z level=INFO msg=Starting",
        'time=2025-02-09T10:11:12Z level=WARN msg="slow \\"down\\"" key=',
    ],
)
def test_other_lines_are_no_results(line: str) -> None:
    assert row(line) is None


@pytest.mark.parametrize(
    "line",
    [
        "",
        "hello",
        "time=2025-02-09T10:11:12Z level=INFO",
        'time=2025-02-09T10:11:12Z level=INFO msg="open',
        "time=2025-02-09T10:11:12Z  level=INFO msg=x",
        '{"event":"request"}',
    ],
)
def test_foreign_lines_are_refused(line: str) -> None:
    with pytest.raises(ValueError, match="not the text of slog"):
        original.parse(line.encode())


@pytest.mark.parametrize(
    "line",
    [
        SUCCESS.replace("status=200", "status=2x"),
        SUCCESS.replace(" status=200", ""),
        SUCCESS.replace("TTFB=1.482ms", "TTFB=1.482"),
        SUCCESS.replace("TTFB=1.482ms", "TTFB=nanms"),
        SUCCESS.replace("2025-02-09T", "yesterday"),
        FAILURE.replace("target=http://a ", ""),
        FAILURE.partition(" error=")[0],
    ],
)
def test_half_a_result_is_refused(line: str) -> None:
    fields = original.parse(line.encode())
    with pytest.raises(ValueError):
        original.row_of(fields)


@given(st.text())
def test_no_line_crashes_the_parser(line: str) -> None:
    with contextlib.suppress(ValueError):
        original.parse(line.encode("utf-8", "surrogatepass"))


@given(st.dictionaries(st.from_regex(r"[a-z]+", fullmatch=True), st.text(st.characters(codec="ascii"))))
def test_quoted_values_read_back(values: dict[str, str]) -> None:
    fields = {"time": "t", "level": "l", "msg": "m", **values}
    line = " ".join(f"{key}={json.dumps(value)}" for key, value in fields.items())
    assert original.parse(line.encode()) == fields


def test_go_escapes() -> None:
    fields = original.parse(rb'time=t level=l msg="a\x1b\u00e9\U0001f600\t\a\\n"')
    assert fields["msg"] == "a\\x1bé😀\t\a\\n"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ('Get "http://a": context deadline exceeded', "timeout"),
        ('Get "http://a": context deadline exceeded (Client.Timeout exceeded while awaiting headers)', "timeout"),
        ('Get "http://a": net/http: timeout awaiting response headers', "timeout"),
        ('Get "http://a": read tcp 10.0.0.1:4000->10.0.0.2:80: i/o timeout', "timeout"),
        ('Get "http://a": dial tcp 10.0.0.1:80: i/o timeout', "connect_timeout"),
        ('Get "http://a": dial tcp 10.0.0.1:80: connect: connection timed out', "connect_timeout"),
        ('Get "http://a": dial tcp 10.0.0.1:80: connect: connection refused', "connect_refused"),
        ('Get "http://a": dial tcp: lookup a on 10.0.0.10:53: no such host', "dns"),
        ('Get "http://a": dial tcp: lookup a: i/o timeout', "dns"),
        ('Get "http://a": dial tcp: lookup a on 10.0.0.10:53: server misbehaving', "dns"),
        ('Get "https://a": tls: failed to verify certificate: x509: certificate signed by unknown authority', "tls"),
        ('Get "https://a": net/http: TLS handshake timeout', "tls"),
        ('Get "https://a": http: server gave HTTP response to HTTPS client', "tls"),
        ('Get "http://a": read tcp 10.0.0.1:4000->10.0.0.2:80: read: connection reset by peer', "reset"),
        ('Get "http://a": EOF', "reset"),
        ('Get "http://a": http: server closed idle connection', "reset"),
        ('Get "http://a": write tcp 10.0.0.1:4000->10.0.0.2:80: write: broken pipe', "reset"),
        ("unexpected EOF", "body"),
        ('Get "http://a": net/http: HTTP/1.x transport connection broken: malformed HTTP response "x"', "protocol"),
        ('Get "http://a": context canceled', "cancelled"),
        ('Get "http://a": dial tcp 10.0.0.1:80: connect: no route to host', "other"),
        ('Get "http://a": dial tcp 10.0.0.1:80: connect: cannot assign requested address', "other"),
        ("", "other"),
    ],
)
def test_go_errors_have_kinds(text: str, kind: str) -> None:
    assert original.error_kind(text) == ErrorKind(kind)


@pytest.mark.parametrize(
    "config",
    [
        "{Targets:[{URL:http://a Weight:1}] Rate:{RequestsPerSecond:0.016 Duration:20m0s MaxIdleConns:100 "
        "MaxIdleConnsPerHost:10 IdleConnTimeout:1m30s Timeout:30s} BaseURL:}",
        '{"rate":{"requestsPerSecond":0.016,"duration":1200000000000,"maxIdleConns":100,"maxIdleConnsPerHost":10,'
        '"idleConnTimeout":"90s","timeout":"30s"}}',
    ],
)
def test_a_logged_configuration_tells_the_experiment(config: str) -> None:
    assert original.settings(config) == {
        "requests_per_second": 0.016,
        "duration": "20m",
        "max_idle_conns": 100,
        "max_idle_conns_per_host": 10,
        "idle_conn_timeout": "1m30s",
        "timeout": "30s",
    }


@pytest.mark.parametrize("config", ["0xc000123456", "", "Timeout:soon Duration:5parsecs"])
def test_a_configuration_that_tells_nothing(config: str) -> None:
    assert original.settings(config) == {}
