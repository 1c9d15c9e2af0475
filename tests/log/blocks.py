"""Results as the recorder gets them."""

from collections.abc import Sequence

from workload_generator.log.format import ResultEncoder
from workload_generator.log.records import Block, Result
from workload_generator.log.wire import BlockWriter, read_block


def packed(results: Sequence[Result]) -> bytes:
    """A block on its way."""
    writer = BlockWriter(lambda: None)
    for result in results:
        writer.add(result)
    return writer.take()


def block_of(results: Sequence[Result]) -> Block:
    """A block that has arrived."""
    block = read_block(packed(results))
    assert block is not None
    return block


def encode(encoder: ResultEncoder, result: Result, ok: bool) -> bytes:
    """One log line."""
    return encoder.encode(block_of([result]), [ok])
