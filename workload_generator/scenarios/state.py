"""What a scenario has done so far, and what it found before it changed anything: `scenario.json` in its folder.

Rules:
- the file is replaced as a whole (written beside, synced, renamed), so that it is never half of anything
- what was found is written down before it is changed, and forgotten only when it is back: whoever comes after a kill
  finds here what to put back
- one process at a time holds the folder; the kernel lets go of it, however that process ends
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import orjson

from workload_generator.base.errors import UsageError

SCHEMA = 1
STATE_FILE = "scenario.json"


@dataclass(slots=True)
class FinishedRun:
    """A finished run: `code` is the generator's exit code, 0 or 3; times are wall clock, RFC 3339."""

    number: int
    prefix: str
    run_id: str
    experiment: str
    code: int
    started: str
    seconds: float


@dataclass(slots=True)
class RunInProgress:
    """A run in progress, or one that was when this process was killed."""

    number: int
    run_id: str
    started: str


@dataclass(slots=True)
class ScenarioState:
    """All of it. `found` is None when nothing is changed."""

    scenario: str
    fingerprint: str
    platform: str
    seed: int
    runs: list[FinishedRun] = field(default_factory=list)
    begun: RunInProgress | None = None
    found: dict[str, Any] | None = None
    schema: int = SCHEMA

    @property
    def done(self) -> set[int]:
        """Numbers of the steps that need not be run again."""
        return {run.number for run in self.runs}


class StateFile:
    """The folder's state, held as a context against other processes. `state` is None until a scenario begins."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATE_FILE
        self.state: ScenarioState | None = None
        self._lock = -1

    def __enter__(self) -> StateFile:
        """Take the folder and read what is there. Raises UsageError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UsageError(f"another scenario runs into {self.path.parent} at this moment") from None
        except OSError as error:
            raise UsageError(
                f"cannot write to {self.path.parent}: {error.strerror}; choose another folder with --out"
            ) from None
        try:
            self.state = self._read()
        except BaseException:
            os.close(self._lock)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def write(self) -> None:
        """Put the state on disk. Raises UsageError when the disk does not take it."""
        assert self.state is not None
        beside = self.path.with_suffix(".new")
        try:
            with beside.open("wb") as file:
                file.write(orjson.dumps(asdict(self.state), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self.path)
            os.fsync(self._lock)
        except OSError as error:
            raise UsageError(f"cannot write {self.path}: {error.strerror}") from None

    def _read(self) -> ScenarioState | None:
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UsageError(f"cannot read {self.path}: {error.strerror}") from None
        try:
            values = orjson.loads(raw)
            if values["schema"] != SCHEMA:
                raise UsageError(f"{self.path} is of another version (schema {values['schema']}): use another --out")
            runs = [FinishedRun(**run) for run in values.pop("runs")]
            begun = values.pop("begun")
            return ScenarioState(**values, runs=runs, begun=None if begun is None else RunInProgress(**begun))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{self.path} is not a scenario's state ({error}): use another --out") from None
