"""A snapshot of Prometheus' database, as a folder: blocks, each with its `meta.json`, an index and chunks.

Source: https://github.com/prometheus/prometheus/blob/main/tsdb/docs/format/README.md
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from workload_generator.base.clock import NS_PER_MS
from workload_generator.base.errors import BenchError
from workload_generator.base.usage_tables import stamp


@dataclass(frozen=True, slots=True)
class Contents:
    """What a snapshot has: blocks, series and samples in all, and the time from its first sample to its last (ms)."""

    blocks: int
    series: int
    samples: int
    from_ms: int
    to_ms: int

    def __str__(self) -> str:
        first, last = stamp(self.from_ms * NS_PER_MS), stamp(self.to_ms * NS_PER_MS)
        return f"{self.blocks} blocks, {self.samples:,} samples of {self.series:,} series, {first} to {last}"


def read_contents(folder: Path) -> Contents:
    """Check the blocks of a snapshot, and add them up. Raises BenchError that names what is wrong."""
    blocks = [_read_block(block) for block in _blocks(folder)]
    if not blocks:
        raise BenchError(f"{folder} is no snapshot of Prometheus: it has no blocks")
    return Contents(
        blocks=len(blocks),
        series=sum(block.series for block in blocks),
        samples=sum(block.samples for block in blocks),
        from_ms=min(block.from_ms for block in blocks),
        to_ms=max(block.to_ms for block in blocks),
    )


def is_snapshot(folder: Path) -> bool:
    """Whether it has blocks."""
    return folder.is_dir() and any(_blocks(folder))


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path inside."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                found[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def link_copy(source: Path, target: Path) -> None:
    """A second folder of the same files, by links where that is possible: a server may then write beside them."""

    def link(old: str, new: str) -> str:
        try:
            os.link(old, new)
        except OSError:
            shutil.copy2(old, new)
        return new

    part = target.with_name(target.name + ".part")
    if part.exists():
        shutil.rmtree(part)
    shutil.copytree(source, part, copy_function=link)
    part.rename(target)


def _blocks(folder: Path) -> Iterator[Path]:
    return (path.parent for path in sorted(folder.glob("*/meta.json")))


def _read_block(block: Path) -> Contents:
    try:
        meta = orjson.loads((block / "meta.json").read_bytes())
        if meta["ulid"] != block.name or meta["minTime"] > meta["maxTime"] or not isinstance(meta["stats"], dict):
            raise ValueError("it is another block's")
    except (OSError, KeyError, TypeError, ValueError) as error:  # orjson's errors are ValueErrors
        raise BenchError(f"{block / 'meta.json'} is not that of a block: {error}") from None
    if not (block / "index").is_file() or not (block / "index").stat().st_size:
        raise BenchError(f"{block} has no index")
    if meta["stats"].get("numChunks") and not any((block / "chunks").glob("*")):
        raise BenchError(f"{block} has no chunks")
    stats = meta["stats"]
    return Contents(1, stats.get("numSeries", 0), stats.get("numSamples", 0), meta["minTime"], meta["maxTime"])
