"""Results survive the way to the recorder, and whole columns say the same as single rows."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.strategies import results, served
from workload_generator.base.clock import Anchor
from workload_generator.log.format import ResultEncoder, clean
from workload_generator.log.records import Arrival, Block, Opening, Phase, Response, Result, Stamp
from workload_generator.log.totals import Totals
from workload_generator.log.wire import BlockWriter, read_block

ORIGIN_NS = 1_000


def block_of(rows: Sequence[Result]) -> Block | None:
    writer = BlockWriter(lambda: None)
    for row in rows:
        writer.add(row)
    return read_block(writer.take())


@given(st.lists(results, max_size=20))
def test_a_block_reads_back(rows: list[Result]) -> None:
    texts = ("instance", "event_id", "message")
    expected = [r._replace(**{k: None if getattr(r, k) is None else clean(getattr(r, k)) for k in texts}) for r in rows]
    block = block_of(rows)
    assert (list(block.results()) if block is not None else []) == expected


def opening_of(result: Result) -> Opening:
    opening = Opening(result.retries)
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
def test_the_short_way_packs_what_the_long_way_packs(rows: list[Result]) -> None:
    """On a reused connection, which costs nothing, and on a fresh one."""
    writer = BlockWriter(lambda: None)
    expected = []
    for r in rows:
        if r.reused:
            r = r._replace(dns_ns=0, connect_ns=0, tls_ns=0, retries=0)
        writer.served(exchange_of(r), ORIGIN_NS)
        expected.append(r)
    packed, long = read_block(writer.take()), block_of(expected)
    assert packed is not None and long is not None
    assert list(packed.results()) == list(long.results())


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
    block = block_of([row._replace(message=message)])
    assert block is not None
    (read,) = block.results()
    assert read.message is not None
    assert message.startswith(read.message)
    assert 4090 <= len(read.message.encode()) <= 4096


@settings(max_examples=25)  # histograms are large
@given(st.lists(served, min_size=1, max_size=20), st.sets(st.integers(100, 999)))
def test_columns_say_what_rows_say(rows: list[Result], expected: set[int]) -> None:
    block = block_of(rows)
    assert block is not None and block.all_served
    by_rows, by_columns = Totals([expected]), Totals([expected])
    encoder = ResultEncoder(["http://a"], Anchor(1_764_000_000_123_456_789, 0))
    lines = b"".join(encoder.encode(result, by_rows.is_ok(result)) for result in block.results())
    by_rows.add(block.results())
    ok = by_columns.ok_shapes(block)
    by_columns.add_served(block, ok)
    assert by_columns.to_json() == by_rows.to_json()
    assert encoder.encode_served(block, ok) == lines


@given(st.lists(results, min_size=1, max_size=5))
def test_only_a_block_without_gaps_is_called_served(rows: list[Result]) -> None:
    block = block_of(rows)
    assert block is not None
    gaps = [
        r.error is not None or r.event_id is not None or r.message is not None or None in (*r[6:11], r.stamp)
        for r in rows
    ]
    assert block.all_served == (not any(gaps))
