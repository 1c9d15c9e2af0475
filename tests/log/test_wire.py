"""Results survive the way to the recorder, and whole columns say the same as single rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.log.blocks import block_of, encode, packed
from tests.strategies import results, served
from workload_generator.base.clock import Anchor
from workload_generator.log.format import ResultEncoder, clean
from workload_generator.log.records import Arrival, Block, ErrorKind, Opening, Phase, Response, Result, Stamp
from workload_generator.log.totals import HISTOGRAMS, Totals
from workload_generator.log.wire import BlockWriter, read_block

ORIGIN_NS = 1_000


@given(st.lists(results, min_size=1, max_size=20))
def test_a_block_reads_back(rows: list[Result]) -> None:
    texts = ("instance", "event_id", "message")
    expected = [r._replace(**{k: None if getattr(r, k) is None else clean(getattr(r, k)) for k in texts}) for r in rows]
    assert list(block_of(rows).results()) == expected


def test_a_block_may_be_empty() -> None:
    assert read_block(packed([])) is None


def opening_of(result: Result) -> Opening:
    opening = Opening(result.retries, address=result.address)
    opening.dns_ns, opening.connect_ns, opening.tls_ns = result.dns_ns, result.connect_ns, result.tls_ns
    return opening


@dataclass
class Answered:
    """See `records.Served`."""

    arrival: Arrival
    start_ns: int
    first_ns: int
    last_ns: int
    kernel: bool
    segments: int
    response: Response
    opening: Opening | None


def exchange_of(r: Result) -> Answered:
    assert r.ttfb_ns is not None and r.total_ns is not None
    start_ns = ORIGIN_NS + r.start_ns
    return Answered(
        Arrival(r.seq, r.phase, r.target, r.due_ns), start_ns, start_ns + r.ttfb_ns, start_ns + r.total_ns,
        r.stamp is Stamp.KERNEL, r.segments, Response(r.status, r.bytes_read, r.cold, r.instance, True),
        None if r.reused else opening_of(r),
    )  # fmt: skip


@given(st.lists(served, min_size=1, max_size=20))
def test_served_and_add_pack_the_same(rows: list[Result]) -> None:
    """On a reused connection, which costs nothing, and on a fresh one."""
    writer = BlockWriter(lambda: None)
    expected = []
    for r in rows:
        if r.reused:
            r = r._replace(dns_ns=0, connect_ns=0, tls_ns=0, retries=0, address=None)
        writer.served(exchange_of(r), ORIGIN_NS)
        expected.append(r)
    short, long = read_block(writer.take()), block_of(expected)
    assert short is not None
    assert list(short.results()) == list(long.results())


def test_a_full_writer_is_emptied_before_it_takes_more() -> None:
    taken: list[Block | None] = []
    writer = BlockWriter(lambda: taken.append(read_block(writer.take())), rows=3)
    for seq in range(7):
        response = Response(200, 5, None, f"pod-{seq}", True)
        arrival = Arrival(seq, Phase.MEASURE, 0, 0)
        writer.served(Answered(arrival, 0, 1, 1, True, 1, response, None), 0)
    assert [block.seq for block in taken if block] == [(0, 1, 2), (3, 4, 5)] and writer.count == 1
    names = [[shape.instance for shape in block.shapes] for block in taken if block]
    assert names == [["pod-0", "pod-1", "pod-2"], ["pod-3", "pod-4", "pod-5"]]


@given(results, st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).map(lambda text: text * 5000))
def test_long_texts_are_cut_at_a_character(row: Result, message: str) -> None:
    (read,) = block_of([row._replace(message=message)]).results()
    assert read.message is not None
    assert message.startswith(read.message)
    assert 4090 <= len(read.message.encode()) <= 4096


def counted(rows: Sequence[Result], expected: set[int]) -> Totals:
    """The same as `Totals.add`, row by row."""
    totals = Totals([expected])
    columns: dict[str, list[int]] = {name: [] for name in HISTOGRAMS}
    beyond = 0
    for r in rows:
        counts, measured = totals.phases[r.phase], r.phase is Phase.MEASURE
        if r.error is not None:
            counts.errors[r.error.value] += 1
        if r.error is ErrorKind.DROPPED:
            counts.dropped += 1
            beyond += measured
            continue
        counts.sent += 1
        if r.status:
            counts.statuses[r.status] += 1
            counts.cold["unknown" if r.cold is None else "true" if r.cold else "false"] += 1
        ok = r.error is None and r.status in expected
        counts.ok += ok
        if not measured:
            continue
        lag_ns = r.start_ns - r.due_ns
        columns["lag"].append(lag_ns // 1000)
        if ok and r.ttfb_ns is not None and r.total_ns is not None:
            columns["ttfb"].append(r.ttfb_ns // 1000)
            columns["corrected_ttfb"].append((r.ttfb_ns + lag_ns) // 1000)
            columns["total"].append(r.total_ns // 1000)
        else:
            beyond += 1
    for name, values in columns.items():
        totals.histograms[name].record_all(values, 0 if name == "lag" else beyond)
    return totals


failures = results.map(lambda r: r if r.error else r._replace(error=ErrorKind.OTHER))


@settings(max_examples=50)  # histograms are large
@given(
    st.lists(served, min_size=1, max_size=20) | st.lists(served | failures, min_size=1, max_size=20),
    st.sets(st.integers(100, 999)),
    st.none() | st.just("run-1-"),
)
def test_columns_equal_the_row_by_row_oracle(rows: list[Result], expected: set[int], event_prefix: str | None) -> None:
    block = block_of(rows)
    totals = Totals([expected])
    ok = totals.ok_by_shape(block)
    totals.add(block, ok)
    assert totals.to_json() == counted(rows, expected).to_json()
    encoder = ResultEncoder(["http://a"], Anchor(1_764_000_000_123_456_789, 0), event_prefix)
    lines = (encode(encoder, r, r.error is None and r.status in expected) for r in block.results())
    assert encoder.encode(block, ok) == b"".join(lines)
