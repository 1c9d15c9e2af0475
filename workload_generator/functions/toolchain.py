"""Functions built and tested with the toolchains of this machine.

Rules:
- a function whose catalog entry needs a program that is not here, or only in an older version, is skipped, and what is
  missing is named
- commands run in the function's folder, one after the other; the first that fails ends its function's turn, and the end
  of what it printed is kept
- a test builds first what is not built; a build always runs: the tools know themselves what is up to date
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from workload_generator.base.subprocesses import start_child
from workload_generator.functions.catalog import Function

_VERSION_FLAGS = {"go": "version", "javac": "-version"}
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_TAIL_LINES = 40
_TAIL_BYTES = 64 * 1024
_STOP_S = 5.0


class Action(StrEnum):
    """What is done with a function."""

    BUILD = "build"
    TEST = "test"


class Status(StrEnum):
    """How it ended."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one function; `reason` says why it was not done, `tail` is the end of what a failure printed."""

    function: Function
    status: Status
    took_s: float = 0.0
    reason: str = ""
    tail: Sequence[str] = ()


def carry_out(action: Action, function: Function) -> Outcome:
    """Build or test one function."""
    missing = missing_needs(function.entry.needs)
    if missing:
        return Outcome(function, Status.SKIPPED, reason=f"needs {', '.join(missing)}")
    start = time.monotonic()
    commands = list(function.entry.build) if action is Action.BUILD or not function.built else []
    for command in [*commands, *filter(None, [function.entry.test if action is Action.TEST else ""])]:
        with tempfile.TemporaryFile() as output:
            failure = _run(function, command, output)
            if failure:
                took_s = time.monotonic() - start
                return Outcome(function, Status.FAILED, took_s, f"`{command}` {failure}", _tail(output))
    took_s = time.monotonic() - start
    if not function.built:
        absent = [path for path in function.entry.produces if not (function.folder / path).exists()]
        return Outcome(function, Status.FAILED, took_s, f"its build did not produce {', '.join(absent)}")
    return Outcome(function, Status.DONE, took_s)


def missing_needs(needs: Iterable[str]) -> list[str]:
    """What this machine lacks of `needs`, and what it has instead."""
    missing = []
    for need in needs:
        program, _, oldest = need.partition(" ")
        version = program_version(program)
        wanted = f"{program} {oldest} or newer" if oldest else program
        if version is None:
            missing.append(f"{wanted} (not on the PATH)")
        elif _numbers(version) < _numbers(oldest):
            missing.append(f"{wanted} (here: {version or 'it does not tell its version'})")
    return missing


@functools.cache
def program_version(program: str) -> str | None:
    """The version that a program on the PATH says it has; empty when it does not tell, None without the program."""
    path = shutil.which(program)
    if path is None:
        return None
    command = [path, _VERSION_FLAGS.get(program, "--version")]
    try:
        # In the root folder: a project's files may choose another version of a tool.
        ran = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\d+(\.\d+)+", _COLOUR.sub("", ran.stdout + ran.stderr))
    return found[0] if found and ran.returncode == 0 else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)


def _run(function: Function, command: str, output: IO[bytes]) -> str:
    """Run it to its end; empty when it went well, else how it ended."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}  # ours is not theirs
    words = function.words(command)
    try:
        process = start_child(
            words,
            cwd=function.folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            process_group=0,  # what it starts ends with it
        )
    except OSError as error:
        return f"could not be started: {shlex.quote(words[0])}: {error.strerror}"
    try:
        code = process.wait()
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise
    return f"ended with exit code {code}" if code else ""


def _tail(output: IO[bytes]) -> list[str]:
    end = output.seek(0, os.SEEK_END)
    output.seek(max(0, end - _TAIL_BYTES))
    return output.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
