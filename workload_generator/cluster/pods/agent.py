"""What is done inside a pod, on the other end of `kubectl exec`: this file's source is sent there and run.

Rules:
- the standard library alone, and nothing of ours: it works in whatever version of the image the pod has
- a request is one JSON object, an answer is one JSON line on stdout, the last one (`archive` answers with a stream)
- nothing is lost by asking twice, since a session may be cut before its answer came
- a log is renamed or deleted only on request, and deleted only when it is what the request says that it is
"""

from __future__ import annotations

import glob
import gzip
import hashlib
import io
import json
import os
import select
import signal
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 20
BEAT_S = 10.0
"""How often a wait says that it still waits."""

OFFSET = "KNBENCH.offset"
SUM = ".sum"
INTERRUPTED = ".interrupted"

_LONGEST_LINE = 1 << 24
_POLL_S = 0.2
_END_S = 20.0  # a run gets five seconds for what is in flight, and closes its log

Json = dict[str, Any]


# The processes of a run


def look(request: Json) -> Json:
    """What there is of the run `run_id`: its processes, and its logs in `folder` whose names begin with `prefix`."""
    processes = run_processes(request["run_id"])
    return {"pids": processes, "logs": logs_of(request["folder"], request["prefix"], request["run_id"])}


def run_processes(run_id: str) -> list[int]:
    """The processes of the generator that were started with this `--run-id`, those that started the others first."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            state, parent = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()[:2]
        except OSError:
            continue  # it has ended meanwhile
        if f"--run-id={run_id}".encode() in words and _is_generator(words) and state not in (b"Z", b"X"):
            found[int(name)] = int(parent)
    return sorted(found, key=lambda pid: (found[pid] in found, pid))


def _is_generator(words: list[bytes]) -> bool:
    names = [os.path.basename(word) for word in words[:2]]
    return b"workload-generator" in names or words[1:3] == [b"-m", b"workload_generator"]


def begun(request: Json) -> Json:
    """As `look`, as soon as there is something of the run, or after `within_s`."""
    deadline = time.monotonic() + request["within_s"]
    told = time.monotonic()
    while not (seen := look(request))["pids"] and not seen["logs"] and time.monotonic() < deadline:
        time.sleep(_POLL_S)
        if time.monotonic() - told > BEAT_S:
            told = time.monotonic()
            _answer({"waiting": True})
    return seen


def wait(request: Json) -> Json:
    """Until no process of the run is left; then as `look`. Says every BEAT_S how far it is, one JSON object a line."""
    while pids := run_processes(request["run_id"]):
        if not _ended(pids[0], BEAT_S):
            _answer({"waiting": True, "progress": _progress(request)})
    return look(request)


def stop(request: Json) -> Json:
    """SIGTERM to the run; its end is waited for, for a while. Then as `look`."""
    told: set[int] = set()
    deadline = time.monotonic() + request.get("within_s", _END_S)
    while (pids := run_processes(request["run_id"])) and time.monotonic() < deadline:
        if pids[0] not in told:
            told.add(pids[0])
            _signal(pids[0], signal.SIGTERM)
        _ended(pids[0], max(0.0, deadline - time.monotonic()))
    return look(request)


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def _ended(pid: int, within_s: float) -> bool:
    """Whether the process ends in time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    except OSError:  # a sandbox that does not know it
        deadline = time.monotonic() + within_s
        while (there := Path(f"/proc/{pid}").exists()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return not there
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(within_s * 1000))
    finally:
        os.close(fd)


# Logs, and what they say


def logs_of(folder: str, prefix: str, run_id: str) -> list[Json]:
    """The run's logs by name: size, when it began, and what its trailer says (None: there is none)."""
    found = []
    for path in sorted(Path(folder).glob(f"{glob.escape(prefix)}_*.log")):
        with path.open("rb") as file:
            header = _parsed(file.readline(_LONGEST_LINE), "run_started")
            if header is None or header.get("run_id") != run_id:
                continue
            trailer = _parsed(_last_line(file), "run_finished")
            if trailer is not None:
                kept = ("time", "verdict", "reasons", "thresholds", "counts")
                trailer = {key: trailer.get(key) for key in kept}
            found.append(
                {
                    "name": path.name,
                    "size": os.fstat(file.fileno()).st_size,
                    "start": header.get("start"),
                    "shard": header.get("shard"),
                    "trailer": trailer,
                }
            )
    return found


def _parsed(line: bytes, event: str) -> Json | None:
    if not line.endswith(b"\n"):
        return None  # torn
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) and document.get("event") == event else None


def _last_line(file: BinaryIO) -> bytes:
    """The last line of a file, torn or not."""
    size = file.seek(0, os.SEEK_END)
    tail = b""
    while size and len(tail) < _LONGEST_LINE:
        step = min(size, 1 << 16)
        size -= step
        file.seek(size)
        tail = file.read(step) + tail
        begin = tail.rfind(b"\n", 0, len(tail) - 1)
        if begin >= 0:
            return tail[begin + 1 :]
    return tail


def _progress(request: Json) -> Json | None:
    """The newest heartbeat in the run's newest log."""
    for log in reversed(logs_of(request["folder"], request["prefix"], request["run_id"])):
        with Path(request["folder"], log["name"]).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - (8 << 20)))
            lines = file.read().splitlines(keepends=True)
        for line in reversed(lines):
            if b'"event":"progress"' in line:
                return _parsed(line, "progress")
    return None


def aside(request: Json) -> Json:
    """The run's logs are renamed, so that no extraction takes them for those of a whole run."""
    names = []
    for log in logs_of(request["folder"], request["prefix"], request["run_id"]):
        path = Path(request["folder"], log["name"])
        path.rename(path.with_suffix(INTERRUPTED))
        names.append(log["name"])
    return {"aside": names}


def put(request: Json) -> Json:
    """`text` into the file `path`, whole or not at all."""
    path = Path(request["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(request["text"], encoding="utf-8")
    beside.replace(path)
    return {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}


def clock(request: Json) -> Json:
    """The pod's wall clock in seconds, and what is in the file `path` (null: there is none)."""
    path = Path(request["path"])
    return {"time": time.time(), "text": path.read_text(encoding="utf-8") if path.exists() else None}


# Files, from here to there


def archive(request: Json) -> None:
    """A gzipped tar stream of the files in `folder` that fit one of `patterns`, as long as they are at this moment.

    `have` says of files that are there already how many bytes, with which sha256: when ours begins so, only the rest is
    sent, and its offset with it. Behind each file comes `<name>.sum`: size and sha256 of the whole file.
    """
    with (
        gzip.GzipFile(fileobj=sys.stdout.buffer, mode="wb", compresslevel=1, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w|", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in _files(request["folder"], request["patterns"]):
            try:
                file = path.open("rb")
            except OSError:
                continue  # gone meanwhile
            with file:
                _pack(tar, path.name, file, request["have"].get(path.name))
    sys.stdout.buffer.flush()


def _files(folder: str, patterns: list[str]) -> Iterator[Path]:
    """Oldest first: what grows is likely the last one."""
    paths = {path for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file()}
    return iter(sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)))


def _pack(tar: tarfile.TarFile, name: str, file: BinaryIO, have: list[Any] | None) -> None:
    size = os.fstat(file.fileno()).st_size
    whole, offset = hashlib.sha256(), 0
    if have is not None and have[0] <= size:
        _hash(file, have[0], whole)
        if whole.hexdigest() == have[1]:
            offset = have[0]
        else:
            whole = hashlib.sha256()
            file.seek(0)
    info = tarfile.TarInfo(name)
    info.size = size - offset
    info.pax_headers = {OFFSET: str(offset)}
    tar.addfile(info, _Hashing(file, info.size, whole))
    about = json.dumps({"size": size, "sha256": whole.hexdigest()}).encode()
    info = tarfile.TarInfo(name + SUM)
    info.size = len(about)
    tar.addfile(info, io.BytesIO(about))


def _hash(file: BinaryIO, size: int, into: Any) -> None:
    while size > 0 and (block := file.read(min(BLOCK, size))):
        into.update(block)
        size -= len(block)


class _Hashing:
    """So many bytes of a file, hashed as they are read. What was cut off meanwhile is an error."""

    def __init__(self, file: BinaryIO, size: int, into: Any) -> None:
        self._file, self._left, self._into = file, size, into

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(min(size, self._left) if size >= 0 else self._left)
        self._left -= len(block)
        self._into.update(block)
        return block


def delete(request: Json) -> Json:
    """Delete the `files` of `folder` that are still what was copied: name → [size, sha256]. What stays, and why."""
    kept = {}
    for name, (size, digest) in request["files"].items():
        path = Path(request["folder"], name)
        try:
            why = _why_not(path, size, digest)
            if not why:
                path.unlink()
        except FileNotFoundError:
            continue  # an answer that was cut: it is gone already
        except OSError as error:
            why = f"cannot be deleted: {error.strerror}"
        if why:
            kept[name] = why
    return {"kept": kept}


def _why_not(path: Path, size: int, digest: str) -> str:
    if path.stat().st_size != size:
        return "it has grown since"
    if _is_open(path):
        return "a process has it open"
    whole = hashlib.sha256()
    with path.open("rb") as file:
        _hash(file, size, whole)
    return "" if whole.hexdigest() == digest else "it is not what was copied"


def _is_open(path: Path) -> bool:
    wanted = path.stat()
    for name in glob.iglob("/proc/[0-9]*/fd/*"):
        try:
            found = os.stat(name)
        except OSError:
            continue
        if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
            return True
    return False


# Receipts


def drained(request: Json) -> Json:
    """Until the event logger in this pod has `expected` receipts of a run, or none came for `quiet_s`; how many.

    Receipts are told apart by event and trigger: what was delivered twice counts once.
    """
    receipts = _Receipts(request["folder"], request["run_id"])
    quiet = told = time.monotonic()
    while receipts.count < request["expected"] and time.monotonic() - quiet < request["quiet_s"]:
        if receipts.read():
            quiet = time.monotonic()
            continue
        time.sleep(_POLL_S)
        if time.monotonic() - told > BEAT_S:
            told = time.monotonic()
            _answer({"waiting": True, "receipts": receipts.count})
    return {"receipts": receipts.count}


class _Receipts:
    """What the events.csv files of a folder say of a run: a bit for each event and trigger."""

    def __init__(self, folder: str, run_id: str) -> None:
        self._folder = folder
        self._begin = f"{run_id}-".encode()
        self._offsets: dict[Path, int] = {}
        self._seen: dict[bytes, bytearray] = {}
        self.count = 0

    def read(self) -> bool:
        """Take what is new; whether there was something, of whatever run."""
        grown = False
        for path in _files(self._folder, ["events*.csv"]):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # torn: its end is not there yet
                    grown = True
                    self._offsets[path] = self._offsets.get(path, 0) + len(line)
                    if line.startswith(self._begin):
                        self._take(line)
        return grown

    def _take(self, line: bytes) -> None:
        fields = line.split(b",", 3)
        number = fields[0][len(self._begin) :]
        if len(number) > 12 or not number.isdigit():
            return
        seen = self._seen.setdefault(fields[2].strip() if len(fields) > 2 else b"", bytearray())
        place, bit = int(number) // 8, 1 << int(number) % 8
        if place >= len(seen):
            seen.extend(bytes(place + 1 - len(seen)))
        if not seen[place] & bit:
            seen[place] |= bit
            self.count += 1


# What is asked for

VERBS: dict[str, Callable[[Json], Json | None]] = {
    verb.__name__: verb for verb in (look, begun, wait, stop, clock, aside, put, archive, delete, drained)
}


def _answer(document: Json) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main(request: Json) -> None:
    """Do what is asked for and answer; what is wrong is an answer too."""
    try:
        answer = VERBS[request["verb"]](request)
    except BrokenPipeError:
        os._exit(1)  # nobody listens any more
    except OSError as error:
        text = f"{error.filename or 'the pod'}: {error.strerror or error}"
        if request["verb"] == archive.__name__:
            sys.exit(text)  # stdout has half a stream
        answer = {"error": text}
    if answer is not None:
        _answer({"answer": answer})
