"""The program at the other end of `kubectl exec`: `sessions` sends this file's source and a request to a pod.

Rules:
- only the standard library, and nothing of this package: it works with every version of the image
- a request is one JSON object; the answer is the last JSON line on stdout
- every request can be repeated, since a session may break before its answer arrives
- a log is renamed or deleted only on request, and deleted only if it is still what was copied
"""

from __future__ import annotations

import base64
import contextlib
import glob
import hashlib
import json
import math
import os
import signal
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

BLOCK = 1 << 18
BEAT_S = 10.0
"""How often an agent that waits writes a line, so that the session is not silent."""
INTERRUPTED = ".interrupted"

_LONGEST_HEADER = 1 << 24
_TAIL = 8 << 20  # some seconds of a log at the highest rates: it has a heartbeat, or the trailer
_POLL_S = 0.2
_POLL_RUN_S = 1.0  # during a measurement

Json = dict[str, Any]


# The processes of a run


def look(request: Json) -> Json:
    """The processes of the run `run_id`, and its logs in `folder` whose names begin with `prefix`."""
    processes = run_processes(request["run_id"])
    return {"pids": processes, "logs": logs_of(request["folder"], request["prefix"], request["run_id"])}


def run_processes(run_id: str) -> list[int]:
    """The generator's processes that were started with this `--run-id`, parents first."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            words = Path("/proc", name, "cmdline").read_bytes().split(b"\0")
            state, parent = Path("/proc", name, "stat").read_bytes().rpartition(b")")[2].split()[:2]
        except OSError:
            continue  # it has ended
        if f"--run-id={run_id}".encode() in words and _is_generator(words) and state not in (b"Z", b"X"):
            found[int(name)] = int(parent)
    return sorted(found, key=lambda pid: (found[pid] in found, pid))


def _is_generator(words: list[bytes]) -> bool:
    names = [os.path.basename(word) for word in words[:2]]
    return b"workload-generator" in names or words[1:3] == [b"-m", b"workload_generator"]


def wait(request: Json) -> Json:
    """As `look`, once no process of the run is left, or after `within_s`. Reports the run's progress every BEAT_S.

    With `begun`, once the run has a process or a log; with `stop`, after it has got a SIGTERM.
    """
    signalled: set[int] = set()

    def holds() -> bool:
        if request.get("begun"):
            return any(look(request).values())
        pids = run_processes(request["run_id"])
        if request.get("stop") and pids and pids[0] not in signalled:
            signalled.add(pids[0])
            with contextlib.suppress(ProcessLookupError):
                os.kill(pids[0], signal.SIGTERM)
        return not pids

    every_s = _POLL_S if "within_s" in request else _POLL_RUN_S
    _poll(holds, every_s, request.get("within_s", math.inf), lambda: {"progress": _progress(request)})
    return look(request)


def _poll(
    holds: Callable[[], bool], every_s: float, within_s: float = math.inf, beat: Callable[[], Json] = lambda: {}
) -> None:
    """Wait until `holds`, for `within_s` at most. Write a line with what `beat` returns every BEAT_S."""
    began = beaten = time.monotonic()
    while not holds() and time.monotonic() - began < within_s:
        time.sleep(every_s)
        if time.monotonic() - beaten > BEAT_S:
            beaten = time.monotonic()
            _answer({"waiting": True, **beat()})


# Logs


def logs_of(folder: str, prefix: str, run_id: str) -> list[Json]:
    """The run's logs by name: `name`, the last heartbeat as `progress`, and the `trailer`; None without one.

    Of the trailer it is what the exit code depends on.
    """
    found = []
    for path in sorted(Path(folder).glob(f"{glob.escape(prefix)}_*.log")):
        with path.open("rb") as file:
            header = _parsed(file.readline(_LONGEST_HEADER), "run_started")
            if header is None or header.get("run_id") != run_id:
                continue
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL))
            lines = file.read().splitlines(keepends=True)
        trailer = _parsed(lines[-1], "run_finished") if lines else None
        if trailer is not None:
            trailer = {key: trailer.get(key) for key in ("verdict", "reasons", "thresholds", "counts")}
        beats = (line for line in reversed(lines) if b'"event":"progress"' in line)
        found.append({"name": path.name, "trailer": trailer, "progress": _parsed(next(beats, b""), "progress")})
    return found


def _parsed(line: bytes, event: str) -> Json | None:
    if not line.endswith(b"\n"):
        return None  # torn
    try:
        document = json.loads(line)
    except ValueError:
        return None
    return document if isinstance(document, dict) and document.get("event") == event else None


def _progress(request: Json) -> Json | None:
    """The last heartbeat in the run's newest log."""
    logs = look(request)["logs"]
    return logs[-1]["progress"] if logs else None


def aside(request: Json) -> Json:
    """Rename the run's logs, so that they are not extracted as those of a complete run."""
    for log in logs_of(request["folder"], request["prefix"], request["run_id"]):
        path = Path(request["folder"], log["name"])
        path.rename(path.with_suffix(INTERRUPTED))
    return {}


def put(request: Json) -> Json:
    """Write `text` to the file `path`, atomically."""
    path = Path(request["path"])
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f"{path.name}.new")
    new.write_text(request["text"], encoding="utf-8")
    new.replace(path)
    return {}


def clock(request: Json) -> Json:
    """The pod's wall clock in seconds, and the text of the file `path` (null if it does not exist)."""
    path = Path(request["path"])
    return {"time": time.time(), "text": path.read_text(encoding="utf-8") if path.exists() else None}


# Files


def archive(request: Json) -> Json:
    """Send the files in `folder` that match one of `patterns`, each with its present length.

    `have` maps the names of files that the other side has to their size and sha256. If the pod's file begins with the
    same bytes, only the rest is sent. A line has the `name` of a file, an `offset` and the `data` there (compressed by
    zlib, in base64); the last line of a file has the `size` and `sha256` of the whole.
    """
    for path in _files(request["folder"], request["patterns"]):
        try:
            file = path.open("rb")
        except OSError:
            continue  # it was deleted
        with file:
            _send(path.name, file, request["have"].get(path.name))
    return {}


def _files(folder: str, patterns: list[str]) -> Iterator[Path]:
    """The oldest first: a file that grows comes last."""
    paths = {path for pattern in patterns for path in Path(folder).glob(pattern) if path.is_file()}
    return iter(sorted(paths, key=lambda path: (path.stat().st_mtime_ns, path.name)))


def _send(name: str, file: BinaryIO, have: list[Any] | None) -> None:
    size = os.fstat(file.fileno()).st_size
    whole = hashlib.sha256()
    if have is not None and have[0] <= size:
        _read(file, have[0], whole.update)
        if whole.hexdigest() != have[1]:
            whole = hashlib.sha256()
            file.seek(0)

    def send(block: bytes) -> None:
        data = base64.b64encode(zlib.compress(block, 1)).decode()
        _answer({"name": name, "offset": file.tell() - len(block), "data": data})

    send(b"")
    _read(file, size - file.tell(), whole.update, send)
    _answer({"name": name, "size": size, "sha256": whole.hexdigest()})


def _read(file: BinaryIO, size: int, *sinks: Callable[[bytes], object]) -> None:
    """Give the next `size` bytes of a file to each sink."""
    while size:
        block = file.read(min(BLOCK, size))
        if not block:
            raise OSError(f"{file.name} became shorter while it was read")
        size -= len(block)
        for sink in sinks:
            sink(block)


def delete(request: Json) -> Json:
    """Delete those of `files` (name → [size, sha256]) that are what was copied. `kept` says why others stay."""
    kept = {}
    for name, (size, digest) in request["files"].items():
        path = Path(request["folder"], name)
        try:
            why = _why_keep(path, size, digest)
            if not why:
                path.unlink()
        except FileNotFoundError:
            continue  # deleted by an earlier request, whose answer was lost
        except OSError as error:
            why = f"cannot be deleted: {error.strerror or error}"
        if why:
            kept[name] = why
    return {"kept": kept}


def _why_keep(path: Path, size: int, digest: str) -> str:
    if path.stat().st_size != size:
        return "it has grown since"
    if _is_open(path):
        return "a process has it open"
    whole = hashlib.sha256()
    with path.open("rb") as file:
        _read(file, size, whole.update)
    return "" if whole.hexdigest() == digest else "it differs from the copy"


def _is_open(path: Path) -> bool:
    wanted = path.stat()
    for name in glob.iglob("/proc/[0-9]*/fd/*"):
        with contextlib.suppress(OSError):
            found = os.stat(name)
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    return False


# Receipts


def drained(request: Json) -> Json:
    """Wait until the event logger in this pod has `expected` receipts of a run, or has received none for `quiet_s`.

    Returns the number of receipts. A receipt is an event at a trigger: an event delivered twice counts once.
    """
    receipts = _Receipts(request["folder"], request["run_id"])
    newest = time.monotonic()

    def is_drained() -> bool:
        nonlocal newest
        if receipts.read():
            newest = time.monotonic()
        return bool(receipts.count >= request["expected"] or time.monotonic() - newest >= request["quiet_s"])

    _poll(is_drained, _POLL_S)
    return {"receipts": receipts.count}


class _Receipts:
    """The receipts of a run in the events.csv files of a folder: a bit for each event and trigger."""

    def __init__(self, folder: str, run_id: str) -> None:
        self._folder = folder
        self._begin = f"{run_id}-".encode()
        self._offsets: dict[Path, int] = {}
        self._seen: dict[bytes, bytearray] = {}
        self.count = 0

    def read(self) -> bool:
        """Read what was added. Returns whether that was a line, of any run."""
        grown = False
        for path in _files(self._folder, ["events*.csv"]):
            with path.open("rb") as file:
                file.seek(self._offsets.get(path, 0))
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # torn: the rest is not written yet
                    grown = True
                    self._offsets[path] = self._offsets.get(path, 0) + len(line)
                    if line.startswith(self._begin):
                        self._add(line)
        return grown

    def _add(self, line: bytes) -> None:
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


# Requests

VERBS: dict[str, Callable[[Json], Json]] = {
    verb.__name__: verb for verb in (look, wait, clock, aside, put, archive, delete, drained)
}


def _answer(document: Json) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


def main(request: Json) -> None:
    """Do what is requested and answer. An error of the operating system is an answer too."""
    try:
        answer = VERBS[request["verb"]](request)
    except BrokenPipeError:
        os._exit(1)  # the session has ended
    except OSError as error:
        answer = {"error": f"{error.filename or 'the pod'}: {error.strerror or error}"}
    _answer({"answer": answer})
