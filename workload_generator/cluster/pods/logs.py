"""Files from a pod to a folder here: a tar stream over exec, checked against the pod's checksums, gone on with.

Rules:
- a file has its name here only when all of it came and its sha256 is the one that the pod calculated
- what is here already is known by its sha256: the pod sends what is behind it, or all of it when it begins otherwise
- what came of a file before a session was cut stays, in `.<name>.part`, and is gone on with
- receipts that are here and not in the pod any more are kept under another name; nothing here is ever lost
- nothing in the pod is deleted before its copy here is checked and on disk
"""

from __future__ import annotations

import asyncio
import fnmatch
import gzip
import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from workload_generator.base.errors import BenchError
from workload_generator.cluster.pods.agent import BLOCK, OFFSET, SUM
from workload_generator.cluster.pods.sessions import SILENCE_S, Cut, Patience, Place, Pod, Session, ask_words

LOG_FILES = ("*.log",)
RECEIPT_FILES = ("events*.csv", "instances*.csv")

_TRIES = 3
_NAME = re.compile(r"[^/\0.][^/\0]*")


@dataclass(frozen=True, slots=True)
class Copy:
    """A file that is here as the pod has it: `size` in bytes, of which `came` over the wire now."""

    name: str
    size: int
    came: int
    sha256: str


async def fetch(
    place: Place, source: str, patterns: Sequence[str], folder: Path, heard: Callable[[int], None] | None = None
) -> list[Copy]:
    """Copy the files of the pod's folder `source` that fit one of `patterns`; those copied, by name.

    `heard` gets the number of bytes that came, from time to time. Raises BenchError when a file's checksum is wrong
    three times, when no session holds, or when the disk takes no more; what came stays.
    """
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    patience = Patience(place.patience_s)
    wrong: dict[str, int] = {}
    came: dict[str, int] = {}
    while True:
        pod = await place.pod(patience)
        copying = await asyncio.to_thread(_Copying, folder, tuple(patterns), wrong, heard)
        try:
            await _session(place, pod, source, copying)
        except Cut as cut:
            if copying.came:
                patience.renew()
            await patience.pause(f"copying from {pod}", cut)
            continue
        finally:
            for copy in copying.copies:
                came[copy.name] = came.get(copy.name, 0) + copy.came
        if not copying.wrong_now:
            return [
                Copy(each.name, each.size, came[each.name], each.sha256)
                for each in sorted(copying.copies, key=lambda copy: copy.name)
            ]
        for name in copying.wrong_now:
            wrong[name] = wrong.get(name, 0) + 1
            if wrong[name] == _TRIES:
                raise BenchError(f"{name} of {pod}: what came has another sha256 than what was sent, {_TRIES} times")


async def delete(place: Place, source: str, folder: Path, copies: Sequence[Copy]) -> dict[str, str]:
    """Delete in the pod what is checked here. What stays there, and why. Raises BenchError."""
    kept = {}
    for copy in copies:
        path = folder / copy.name
        if path.stat().st_size != copy.size or _digest(path)[1].hexdigest() != copy.sha256:
            kept[copy.name] = "its copy here is not what was copied"
            continue
        answer = await place.ask("delete", folder=source, files={copy.name: [copy.size, copy.sha256]})
        kept.update(answer["kept"])
    return kept


async def _session(place: Place, pod: Pod, source: str, copying: _Copying) -> None:
    """One stream, taken by a thread. Raises Cut, or BenchError."""
    request = {"verb": "archive", "folder": source, "patterns": copying.patterns, "have": copying.have}
    words, given = ask_words(request)
    reading, writing = os.pipe()
    stream = os.fdopen(reading, "rb", buffering=0)
    try:
        async with Session(place.kubectl, pod, words, given, into=writing) as session:
            os.close(writing)
            writing = -1
            taking = asyncio.create_task(asyncio.to_thread(copying.take, stream))
            try:
                before = -1
                while not taking.done():
                    await asyncio.wait([taking], timeout=SILENCE_S)
                    if not taking.done() and copying.read == before:
                        raise Cut(f"nothing came for {SILENCE_S:g} s")
                    before = copying.read
                whole = taking.result()
            finally:
                session.kill()  # so that the thread, if it still reads, comes to an end
                await asyncio.gather(taking, return_exceptions=True)
            if whole is not None:
                await session.end()
                failure = session.failure()
                raise failure if not isinstance(failure, Cut) else Cut(session.said or whole)
    finally:
        if writing >= 0:
            os.close(writing)
        stream.close()


class _Counting(io.RawIOBase):
    """A stream that counts what is read of it, for whoever wonders whether anything still comes."""

    def __init__(self, stream: BinaryIO, copying: _Copying) -> None:
        self._stream, self._copying = stream, copying

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        block = os.read(self._stream.fileno(), len(buffer))
        buffer[: len(block)] = block
        self._copying.read += len(block)
        return len(block)


@dataclass(slots=True)
class _File:
    """One on its way: what it is made of, and what is known of its content so far."""

    name: str
    offset: int
    came: int
    digest: hashlib._Hash
    path: Path | None


class _Copying:
    """One attempt: what is here, and what comes."""

    def __init__(
        self, folder: Path, patterns: tuple[str, ...], wrong: dict[str, int], heard: Callable[[int], None] | None
    ) -> None:
        self.folder = folder
        self.patterns = patterns
        self.have: dict[str, tuple[int, str]] = {}
        self.copies: list[Copy] = []
        self.wrong_now: list[str] = []
        self.read = 0
        self.came = 0
        self._heard = heard
        self._known: dict[str, tuple[Path, hashlib._Hash]] = {}
        for name in self._names():
            if name in wrong:
                continue  # all of it, this time
            path = max((self.folder / name, self._part(name)), key=_size)
            size, digest = _digest(path)
            self._known[name] = (path, digest)
            self.have[name] = (size, digest.hexdigest())

    def _names(self) -> set[str]:
        """Those of files that are here, whole or in part."""
        names = set()
        for path in self.folder.iterdir():
            name = path.name
            if name.startswith(".") and name.endswith(".part"):
                name = name[1:-5]
            if path.is_file() and self._fits(name):
                names.add(name)
        return names

    def _fits(self, name: str) -> bool:
        return bool(_NAME.fullmatch(name)) and any(fnmatch.fnmatchcase(name, pattern) for pattern in self.patterns)

    def _part(self, name: str) -> Path:
        return self.folder / f".{name}.part"

    def take(self, stream: BinaryIO) -> str | None:
        """Take the whole stream; None, or why it is not whole. Raises BenchError when the disk takes no more."""
        try:
            with gzip.GzipFile(fileobj=io.BufferedReader(_Counting(stream, self), BLOCK)) as packed:
                with tarfile.open(fileobj=packed, mode="r|") as tar:
                    self._take(tar)
                while packed.read(BLOCK):
                    pass  # to its end: only there is its checksum
        except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, ValueError, KeyError) as error:
            return f"the stream broke off or is damaged: {error or type(error).__name__}"
        except OSError as error:
            raise BenchError(f"cannot write to {self.folder}: {error.strerror or error}") from None
        return None

    def _take(self, tar: tarfile.TarFile) -> None:
        file: _File | None = None
        for member in tar:
            content = tar.extractfile(member)
            if content is None:
                raise ValueError(f"{member.name} is no file")
            if file is not None and member.name == file.name + SUM:
                self._finish(file, json.loads(content.read()))
                file = None
            elif file is None and self._fits(member.name):
                file = self._copy(member, content)
            else:
                raise ValueError(f"{member.name} was not asked for")
        if file is not None:
            raise EOFError

    def _copy(self, member: tarfile.TarInfo, content: Any) -> _File:
        offset = int(member.pax_headers[OFFSET])
        path, digest = None, hashlib.sha256()
        if offset:
            if offset != self.have.get(member.name, (0,))[0]:
                raise ValueError(f"{member.name} goes on where nothing is here")
            path, digest = self._known[member.name]
        if offset and not member.size and path == self.folder / member.name:
            return _File(member.name, offset, 0, digest, None)  # it is here
        part = self._part(member.name)
        if path is not None and path != part:
            shutil.copyfile(path, part)
        with part.open("r+b" if offset else "wb") as out:
            out.seek(offset)
            out.truncate()
            left = member.size
            while left:
                block = content.read(min(BLOCK, left))
                if not block:
                    raise EOFError
                out.write(block)
                digest.update(block)
                left -= len(block)
                self.came += len(block)
                if self._heard is not None:
                    self._heard(len(block))
            out.flush()
            os.fsync(out.fileno())
        return _File(member.name, offset, member.size, digest, part)

    def _finish(self, file: _File, about: dict[str, Any]) -> None:
        size = file.offset + file.came
        if (size, file.digest.hexdigest()) != (about["size"], about["sha256"]):
            self._part(file.name).unlink(missing_ok=True)
            self.wrong_now.append(file.name)
            return
        target = self.folder / file.name
        if file.path is not None:
            if not file.offset and target.suffix == ".csv" and target.exists():
                target.rename(_free(target))  # its receipts are not in the pod any more
            file.path.replace(target)
            folder = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        self.copies.append(Copy(file.name, size, file.came, about["sha256"]))


def _free(path: Path) -> Path:
    """`events-1.csv` for `events.csv`, or with the next number that nobody has."""
    number = 1
    while (other := path.with_name(f"{path.stem}-{number}{path.suffix}")).exists():
        number += 1
    return other


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else -1


def _digest(path: Path) -> tuple[int, hashlib._Hash]:
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest
