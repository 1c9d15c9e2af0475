"""The runs of a scenario so far, and the values from before its changes: `scenario.json` in its folder.

Rules:
- the file is replaced atomically (written, synced, renamed)
- the values are stored before they are changed, and removed when they are restored: after a kill they are in the file
- one process at a time holds the folder, by a lock that the kernel releases when the process ends
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from workload_generator.base.errors import UsageError

SCHEMA = 1
STATE_FILE = "scenario.json"


@dataclass(slots=True)
class FinishedRun:
    """A complete run. `code` is the generator's exit code, 0 or 3; `started` is wall clock, RFC 3339."""

    number: int
    prefix: str
    run_id: str
    experiment: str
    code: int
    started: str
    seconds: float


@dataclass(slots=True)
class RunInProgress:
    """A run in progress, or that was in progress when a process was killed."""

    number: int
    run_id: str
    started: str


@dataclass(slots=True)
class ScenarioState:
    """The whole file. `found` has the values to restore; None when nothing is changed."""

    scenario: str
    fingerprint: str
    platform: str
    seed: int
    runs: list[FinishedRun] = field(default_factory=list)
    begun: RunInProgress | None = None
    found: dict[str, Any] | None = None
    schema: int = SCHEMA


class StateFile:
    """The state of a folder, as a context that locks the folder. `state` is None until a scenario begins."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / STATE_FILE
        self.state: ScenarioState | None = None
        self._lock = -1

    def __enter__(self) -> StateFile:
        """Lock the folder and read its state. Raises UsageError."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path.parent, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise UsageError(f"{self.path.parent} is in use by another scenario that runs now") from None
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

    def __exit__(self, *_: object) -> None:
        os.close(self._lock)

    def write(self) -> None:
        """Write the state to disk. Raises UsageError when this fails."""
        assert self.state is not None
        new = self.path.with_suffix(".new")
        try:
            with new.open("wb") as file:
                file.write(orjson.dumps(asdict(self.state), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path)
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
                raise UsageError(
                    f"{self.path} has schema {values['schema']}, from another version of kn-bench; use another --out"
                )
            runs = [FinishedRun(**run) for run in values.pop("runs")]
            begun = values.pop("begun")
            return ScenarioState(**values, runs=runs, begun=None if begun is None else RunInProgress(**begun))
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{self.path} is not the state of a scenario ({error}); use another --out") from None
