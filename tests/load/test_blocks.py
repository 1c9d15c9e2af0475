"""Results survive the way to the recorder."""

from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import results
from workload_generator.codec import clean
from workload_generator.load.blocks import BlockWriter, read_block
from workload_generator.records import Result


@given(st.lists(results, max_size=20))
def test_a_block_reads_back(rows: list[Result]) -> None:
    writer = BlockWriter(rows=20)
    for row in rows:
        writer.add(row)
    assert writer.full == (len(rows) == 20)
    texts = ("instance", "event_id", "message")
    expected = [r._replace(**{k: None if getattr(r, k) is None else clean(getattr(r, k)) for k in texts}) for r in rows]
    assert list(read_block(writer.take())) == expected
    assert list(read_block(writer.take())) == []


@given(results, st.text(st.characters(codec="utf-8"), min_size=1, max_size=9).map(lambda text: text * 5000))
def test_long_texts_are_cut_at_a_character(row: Result, message: str) -> None:
    writer = BlockWriter()
    writer.add(row._replace(message=message))
    (read,) = read_block(writer.take())
    assert read.message is not None
    assert message.startswith(read.message)
    assert 4090 <= len(read.message.encode()) <= 4096
