"""The format of a snapshot: a folder of blocks, each with `meta.json`, an index and chunks.

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
class SnapshotContents:
    """The numbers of blocks, series and samples, and the times of the first and the last sample (ms)."""

    blocks: int
    series: int
    samples: int
    from_ms: int
    to_ms: int

    def __str__(self) -> str:
        first, last = stamp(self.from_ms * NS_PER_MS), stamp(self.to_ms * NS_PER_MS)
        return f"{self.blocks} blocks, {self.samples:,} samples of {self.series:,} series, {first} to {last}"


def read_contents(folder: Path) -> SnapshotContents:
    """Check the blocks of a snapshot and add up their contents. Raises BenchError."""
    blocks = [_read_block(block) for block in _blocks(folder)]
    if not blocks:
        raise BenchError(f"{folder} is not a Prometheus snapshot: it has no blocks")
    return SnapshotContents(
        blocks=len(blocks),
        series=sum(block.series for block in blocks),
        samples=sum(block.samples for block in blocks),
        from_ms=min(block.from_ms for block in blocks),
        to_ms=max(block.to_ms for block in blocks),
    )


def is_snapshot(folder: Path) -> bool:
    """Whether the folder has blocks."""
    return folder.is_dir() and any(_blocks(folder))


def checksums(folder: Path) -> dict[str, str]:
    """SHA-256 of each file, by its path inside."""
    sums = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                sums[str(path.relative_to(folder))] = hashlib.file_digest(file, "sha256").hexdigest()
    return sums


def link_copy(source: Path, target: Path) -> None:
    """Copy a folder by hard links where possible: a server can then write beside the files."""

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


def _read_block(block: Path) -> SnapshotContents:
    try:
        meta = orjson.loads((block / "meta.json").read_bytes())
        if meta["ulid"] != block.name or meta["minTime"] > meta["maxTime"] or not isinstance(meta["stats"], dict):
            raise ValueError("it belongs to another block")
    except (OSError, KeyError, TypeError, ValueError) as error:  # orjson's errors are ValueErrors
        raise BenchError(f"{block / 'meta.json'} is not valid: {error}") from None
    if not (block / "index").is_file() or not (block / "index").stat().st_size:
        raise BenchError(f"{block} has no index")
    if meta["stats"].get("numChunks") and not any((block / "chunks").glob("*")):
        raise BenchError(f"{block} has no chunks")
    stats = meta["stats"]
    return SnapshotContents(1, stats.get("numSeries", 0), stats.get("numSamples", 0), meta["minTime"], meta["maxTime"])
