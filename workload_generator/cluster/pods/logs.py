"""Files from a pod to a local folder: a compressed stream over exec, verified by checksums, resumable.

Rules:
- a file gets its name here only when it is complete and its sha256 is the one that the pod calculated
- a file that is here already is identified by its sha256: the pod sends only what was appended, or else the whole file
- the received part of a file stays in `.<name>.part` when the session breaks, and is resumed
- receipts that the pod no longer has are kept here under another name; no file here is lost
- no file in the pod is deleted before its copy is verified and on disk
"""

from __future__ import annotations

import asyncio
import base64
import fnmatch
import hashlib
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workload_generator.base.errors import BenchError
from workload_generator.cluster.pods.agent import BLOCK
from workload_generator.cluster.pods.sessions import Json, Pod, PodAgent, SessionCut

RECEIPTS = "/data"
"""The event logger's folder."""
LOG_FILES = ("*.log",)
RECEIPT_FILES = ("events*.csv", "instances*.csv")

_TRIES = 3
_NAME = re.compile(r"[^/\0.][^/\0]*")


@dataclass(frozen=True, slots=True)
class Copy:
    """A local file that equals the pod's: `size` in bytes, of which `came` were transferred now."""

    name: str
    size: int
    came: int
    sha256: str


async def fetch(
    pod_agent: PodAgent,
    source: str,
    patterns: Sequence[str],
    folder: Path,
    heard: Callable[[int], None] = lambda _size: None,
) -> list[Copy]:
    """Copy the files of the pod's folder `source` that match one of `patterns`. Returns the copies by name.

    `heard` is called with the size of each block. Raises BenchError when a checksum is wrong three times, when no
    session succeeds, or when the disk is full; what was received stays.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    wrong: Counter[str] = Counter()
    came: Counter[str] = Counter()

    async def attempt(pod: Pod, received: Callable[[], None]) -> list[Copy]:
        transfer = await asyncio.to_thread(_Transfer, folder, tuple(patterns), wrong, came, heard)
        request = {"verb": "archive", "folder": source, "patterns": patterns, "have": transfer.have()}
        before = came.total()
        try:
            await pod_agent.once(pod, request, transfer.take)
        finally:
            if came.total() > before:
                received()
        wrong.update(transfer.wrong)
        for name in transfer.wrong:
            if wrong[name] == _TRIES:
                raise BenchError(f"{pod}: the copy of {name} had a wrong sha256 {_TRIES} times")
        if transfer.wrong:
            raise SessionCut(f"wrong sha256 of {', '.join(transfer.wrong)}")
        return sorted(transfer.copies, key=lambda copy: copy.name)

    return await pod_agent.persist("copying", attempt)


async def delete(pod_agent: PodAgent, source: str, folder: Path, copies: Sequence[Copy]) -> dict[str, str]:
    """Delete verified files in the pod. Returns why others stay, by name. Raises BenchError."""
    kept = {}
    for copy in copies:
        path = folder / copy.name
        if path.stat().st_size != copy.size or _digest(path)[1].hexdigest() != copy.sha256:
            kept[copy.name] = "the local copy has changed"
            continue
        answer = await pod_agent.ask("delete", folder=source, files={copy.name: [copy.size, copy.sha256]})
        kept.update(answer["kept"])
    return kept


class _Transfer:
    """One session of a copy, into the files of `folder`."""

    def __init__(
        self,
        folder: Path,
        patterns: tuple[str, ...],
        whole: Container[str],
        came: Counter[str],
        heard: Callable[[int], None],
    ) -> None:
        """Files named in `whole` are requested as if they were not here. `came` counts the bytes of each file."""
        self.copies: list[Copy] = []
        self.wrong: list[str] = []
        self._folder = folder
        self._patterns = patterns
        self._came = came
        self._heard = heard
        self._here: dict[str, tuple[Path, int, hashlib._Hash]] = {}
        for path in filter(Path.is_file, folder.iterdir()):
            name = path.name
            if name.startswith(".") and name.endswith(".part"):
                name = name[1:-5]
            known = self._here[name][1] if name in self._here else -1
            if self._matches(name) and name not in whole and path.stat().st_size > known:
                self._here[name] = (path, *_digest(path))

    def have(self) -> dict[str, tuple[int, str]]:
        """Size and sha256 of the files that are here, or their parts."""
        return {name: (size, digest.hexdigest()) for name, (_, size, digest) in self._here.items()}

    def take(self, line: Json) -> None:
        """A line of the agent. Raises SessionCut, or BenchError."""
        try:
            if not self._matches(line["name"]):
                raise ValueError(f"{line['name']} was not requested")
            if "data" in line:
                self._append(line["name"], line["offset"], zlib.decompress(base64.b64decode(line["data"])))
            else:
                self._complete(line["name"], line["size"], line["sha256"])
        except (zlib.error, ValueError, KeyError, TypeError) as error:
            raise SessionCut(f"the stream is damaged: {error}") from None
        except OSError as error:
            raise BenchError(f"cannot write to {self._folder}: {error.strerror or error}") from None

    def _matches(self, name: str) -> bool:
        return bool(_NAME.fullmatch(name)) and any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)

    def _part(self, name: str) -> Path:
        return self._folder / f".{name}.part"

    def _append(self, name: str, offset: int, data: bytes) -> None:
        part = self._part(name)
        path, size, digest = self._here[name] if offset else (part, 0, hashlib.sha256())
        if offset != size:
            raise ValueError(f"{name} resumes at {offset}, and {size} bytes are here")
        if data or not offset:
            if path != part:
                shutil.copyfile(path, part)
            with part.open("r+b" if offset else "wb") as out:
                out.seek(offset)
                out.truncate()
                out.write(data)
            digest.update(data)
            self._came[name] += len(data)
            self._heard(len(data))
            path = part
        self._here[name] = path, size + len(data), digest

    def _complete(self, name: str, size: int, sha256: str) -> None:
        """A file is here if it is what the pod has. Receipts that the pod no longer has are kept."""
        part, target = self._part(name), self._folder / name
        path, here, digest = self._here[name]
        if (here, digest.hexdigest()) != (size, sha256):
            part.unlink(missing_ok=True)
            self.wrong.append(name)
            return
        if path == part:
            _sync(part)
            if target.suffix == ".csv" and target.exists() and not _begins_with(part, target):
                target.rename(_free(target))
            part.replace(target)
            _sync(self._folder)
        self.copies.append(Copy(name, size, self._came[name], sha256))


def _free(path: Path) -> Path:
    """`events-1.csv` for `events.csv`, with the first number that is free."""
    number = 1
    while (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return other


def _begins_with(path: Path, other: Path) -> bool:
    with path.open("rb") as file, other.open("rb") as start:
        return all(block == file.read(len(block)) for block in iter(lambda: start.read(BLOCK), b""))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _digest(path: Path) -> tuple[int, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest
