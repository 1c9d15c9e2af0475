"""Mutations of valid input, for tests that it is refused and nothing worse. The same seed gives the same mutations."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

_SPANS = (1, 1, 2, 5, 20, 80)


def mutated(seeds: Sequence[bytes], pieces: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """`count` mutations of the seeds: parts are cut, doubled, or replaced by pieces, bytes or parts of other seeds."""
    draw = random.Random(seed)
    for _ in range(count):
        data = draw.choice(seeds)
        for _ in range(draw.choice((1, 1, 1, 2, 3, 6))):
            data = _mutated(data, seeds, pieces, draw)
        yield data


def _mutated(data: bytes, seeds: Sequence[bytes], pieces: Sequence[bytes], draw: random.Random) -> bytes:
    begin = draw.randrange(len(data) + 1)
    end = min(len(data), begin + draw.choice(_SPANS))
    head, part, tail = data[:begin], data[begin:end], data[end:]
    match draw.randrange(8):
        case 0:
            return head + tail
        case 1:
            return head + part + part + tail
        case 2:
            return head + draw.choice(pieces) + part + tail
        case 3:
            return head + draw.choice(pieces) + tail
        case 4:
            return head + draw.randbytes(1) + tail
        case 5:
            return head + chr(draw.choice((draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)))).encode() + tail
        case 6:
            lines = data.splitlines(keepends=True)
            lines.insert(draw.randrange(len(lines) + 1), lines.pop(draw.randrange(len(lines))) if lines else b"\n")
            return b"".join(lines)
        case _:
            other = draw.choice(seeds)
            at = draw.randrange(len(other) + 1)
            return head + other[at : at + draw.choice(_SPANS)] + tail
