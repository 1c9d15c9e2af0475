"""Log lines: what is written reads back, whatever the target sent."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.log.blocks import encode
from tests.strategies import results, texts
from workload_generator.base.clock import Anchor
from workload_generator.log import format as log_format
from workload_generator.log.records import ErrorKind, Phase, Result, Stamp

START = Anchor(wall_ns=1_739_182_272_000_000_000, mono_ns=0)


@pytest.fixture
def served() -> Result:
    return Result(
        seq=7, phase=Phase.MEASURE, target=0, due_ns=2_000_000, start_ns=2_040_000, status=200, dns_ns=0, connect_ns=0,
        tls_ns=0, ttfb_ns=1_482_000, total_ns=1_500_000, bytes_read=5, cold=False, reused=True, retries=0,
        stamp=Stamp.USER, segments=1, instance="pod-1", event_id=None, error=None, message=None,
    )  # fmt: skip


@given(results, texts)
def test_every_result_reads_back(result: Result, target: str) -> None:
    line = encode(log_format.ResultEncoder([target], START), result, True)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    doc = log_format.decode(line)
    assert (doc["seq"], doc["phase"], doc["status"]) == (result.seq, result.phase.label, result.status)
    assert doc["target"] == log_format.clean(target)
    assert (doc["cold"], doc["reused"], doc["retries"], doc["bytes"]) == (
        result.cold,
        result.reused,
        result.retries,
        result.bytes_read,
    )
    for key in ("ttfb", "total", "dns", "connect", "tls"):
        ns = getattr(result, f"{key}_ns")
        assert doc[key] == (None if ns is None else pytest.approx(ns / 1e6, abs=0.000501))
    assert doc["lag"] == pytest.approx((result.start_ns - result.due_ns) / 1e6, abs=0.000501)
    assert doc["stamp"] == result.stamp
    assert doc.get("instance") == (None if result.instance is None else log_format.clean(result.instance))
    assert doc.get("event_id") == (None if result.event_id is None else log_format.clean(result.event_id))
    assert doc.get("address") == result.address
    assert doc.get("error") == result.error
    if result.error is not None:
        assert doc["message"] == log_format.clean(result.message or "")


def test_an_unexpected_status_is_marked(served: Result) -> None:
    encoder = log_format.ResultEncoder(["http://a"], START)
    assert "expected" not in log_format.decode(encode(encoder, served, True))
    assert log_format.decode(encode(encoder, served._replace(status=503), False))["expected"] is False
    failed = served._replace(error=ErrorKind.RESET, message="")
    assert "expected" not in log_format.decode(encode(encoder, failed, False)), "an error has its kind"


@given(st.binary())
def test_any_bytes_become_encodable_text(raw: bytes) -> None:
    text = log_format.text_of(raw)
    assert log_format.clean(text) == text


@given(st.binary())
def test_foreign_lines_are_rejected(line: bytes) -> None:
    with pytest.raises(log_format.LogFormatError):
        log_format.decode(line)


@pytest.mark.parametrize("line", [b'{"event":[]}', b'{"event":null}', b'["request"]', b'"request"', b"{}"])
def test_json_without_a_known_event_is_rejected(line: bytes) -> None:
    with pytest.raises(log_format.LogFormatError):
        log_format.decode(line)


def test_the_event_comes_first_in_every_line() -> None:
    file = io.BytesIO()
    log_format.LineLogger(file).write(log_format.RUN_STARTED, {"schema": log_format.SCHEMA, "prefix": "ü"})
    assert file.getvalue() == '{"event":"run_started","schema":1,"prefix":"ü"}\n'.encode()


def test_the_exact_bytes_of_a_line(served: Result) -> None:
    assert encode(log_format.ResultEncoder(["http://a"], START), served, True) == (
        b'{"event":"request","seq":7,"phase":"measure","time":"2025-02-10T10:11:12.002040Z","target":"http://a",'
        b'"status":200,"ttfb":1.482,"total":1.500,"dns":0.000,"connect":0.000,"tls":0.000,"lag":0.040,"cold":false,'
        b'"reused":true,"retries":0,"bytes":5,"stamp":"user","instance":"pod-1"}\n'
    )
