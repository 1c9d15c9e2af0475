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
import fnmatch
import hashlib
import json
import os
import re
import shutil
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from workload_generator.base.errors import BenchError
from workload_generator.cluster.pods.agent import BLOCK
from workload_generator.cluster.pods.sessions import Pod, PodAgent, Session, SessionCut

RECEIPTS = "/data"
"""The event logger's folder."""
LOG_FILES = ("*.log",)
RECEIPT_FILES = ("events*.csv", "instances*.csv")

_TRIES = 3
_GZIP = 16 + zlib.MAX_WBITS
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
    heard: Callable[[int], None] | None = None,
) -> list[Copy]:
    """Copy the files of the pod's folder `source` that match one of `patterns`. Returns the copies by name.

    `heard` is called with the size of each block. Raises BenchError when a checksum is wrong three times, when no
    session succeeds, or when the disk is full; what was received stays.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    wrong: Counter[str] = Counter()
    came: Counter[str] = Counter()

    async def attempt(pod: Pod, received: Callable[[], None]) -> list[Copy]:
        transfer = await asyncio.to_thread(_Transfer, folder, tuple(patterns), wrong, heard)
        try:
            await transfer.run(pod_agent, pod, source)
        finally:
            if transfer.came:
                received()
            came.update({copy.name: copy.came for copy in transfer.copies})
        wrong.update(transfer.wrong)
        for name in transfer.wrong:
            if wrong[name] == _TRIES:
                raise BenchError(f"{pod}: the copy of {name} had a wrong sha256 {_TRIES} times")
        if transfer.wrong:
            raise SessionCut(f"wrong sha256 of {', '.join(transfer.wrong)}")
        return [replace(copy, came=came[copy.name]) for copy in sorted(transfer.copies, key=lambda copy: copy.name)]

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


class _Unzipped:
    """The stdout of a session, decompressed. Raises EOFError when it ends before the compressed stream does."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._gzip = zlib.decompressobj(_GZIP)
        self._buffer = b""

    async def _more(self) -> bool:
        if self._gzip.eof:
            return False
        block = await self._session.block()
        if not block:
            raise EOFError
        self._buffer += self._gzip.decompress(block)
        return True

    async def line(self) -> bytes:
        """The next line; empty at the end."""
        while b"\n" not in self._buffer and await self._more():
            pass
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    async def read(self, most: int) -> bytes:
        """At least one and at most `most` bytes; none at the end."""
        while not self._buffer and await self._more():
            pass
        block, self._buffer = self._buffer[:most], self._buffer[most:]
        return block


class _Transfer:
    """One session of a copy, into the files of `folder`."""

    def __init__(
        self, folder: Path, patterns: tuple[str, ...], whole: Iterable[str], heard: Callable[[int], None] | None
    ) -> None:
        """Files named in `whole` are requested as if they were not here."""
        self.copies: list[Copy] = []
        self.wrong: list[str] = []
        self.came = 0
        self._folder = folder
        self._patterns = patterns
        self._heard = heard or (lambda _size: None)
        self._known: dict[str, tuple[Path, int, hashlib._Hash]] = {}
        for name in {_name_of(path) for path in folder.iterdir() if path.is_file()} - set(whole):
            if self._matches(name):
                path = max((folder / name, self._part(name)), key=_size)
                self._known[name] = (path, *_digest(path))

    def _matches(self, name: str) -> bool:
        return bool(_NAME.fullmatch(name)) and any(fnmatch.fnmatchcase(name, pattern) for pattern in self._patterns)

    def _part(self, name: str) -> Path:
        return self._folder / f".{name}.part"

    async def run(self, pod_agent: PodAgent, pod: Pod, source: str) -> None:
        """Receive the whole stream. Raises SessionCut, or BenchError."""
        have = {name: (size, digest.hexdigest()) for name, (_, size, digest) in self._known.items()}
        request = {"verb": "archive", "folder": source, "patterns": self._patterns, "have": have}
        async with pod_agent.session(pod, request) as session:
            stream = _Unzipped(session)
            try:
                while line := await stream.line():
                    await self._receive(stream, **json.loads(line))
            except EOFError:
                raise await session.failure() from None
            except (zlib.error, ValueError, KeyError, TypeError) as error:
                raise SessionCut(f"the stream is damaged: {error}") from None
            except OSError as error:
                raise BenchError(f"cannot write to {self._folder}: {error.strerror or error}") from None

    async def _receive(self, stream: _Unzipped, name: str, offset: int, size: int) -> None:
        """One file: `size` bytes that follow the first `offset`, which are here."""
        if not self._matches(name):
            raise ValueError(f"{name} was not requested")
        path, digest = self._part(name), hashlib.sha256()
        if offset:
            path, known, digest = self._known[name]
            if offset != known:
                raise ValueError(f"{name} resumes at {offset}, and {known} bytes are here")
        if not offset or size:
            path = self._part(name) if path == self._folder / name else path
            if offset and path != self._known[name][0]:
                shutil.copyfile(self._known[name][0], path)
            with path.open("r+b" if offset else "wb") as out:
                out.seek(offset)
                out.truncate()
                left = size
                while left:
                    block = await stream.read(min(BLOCK, left))
                    out.write(block)
                    digest.update(block)
                    left -= len(block)
                    self.came += len(block)
                    self._heard(len(block))
                out.flush()
                os.fsync(out.fileno())
        expected = json.loads(await stream.line())
        if (offset + size, digest.hexdigest()) != (expected["size"], expected["sha256"]):
            self._part(name).unlink(missing_ok=True)
            self.wrong.append(name)
            return
        if path != self._folder / name:
            self._complete(path, name, appended=bool(offset))
        self.copies.append(Copy(name, offset + size, size, expected["sha256"]))

    def _complete(self, part: Path, name: str, appended: bool) -> None:
        target = self._folder / name
        if not appended and target.suffix == ".csv" and target.exists():
            target.rename(_free(target))  # receipts that the pod no longer has
        part.replace(target)
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _name_of(path: Path) -> str:
    """The file's name, complete or a part."""
    name = path.name
    return name[1:-5] if name.startswith(".") and name.endswith(".part") else name


def _free(path: Path) -> Path:
    """`events-1.csv` for `events.csv`, with the first number that is free."""
    number = 1
    while (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return other


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _digest(path: Path) -> tuple[int, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest
