"""Builds and tests functions with the toolchains of this machine.

Rules:
- a function is skipped if a program that it needs is missing or too old; the reason names the program
- commands run in the folder of the function, in order, until one fails; the end of its output is kept
- a test builds the function if necessary; a build always runs, since the tools detect what is up to date
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import IO

from workload_generator.base.subprocesses import child_group
from workload_generator.functions.catalog import Function

_VERSION_FLAGS = {"go": "version", "javac": "-version"}
_COLOUR = re.compile(r"\x1b\[[\d;]*m")
_TAIL_LINES = 40
_TAIL_BYTES = 64 * 1024
_STOP_S = 5.0


class Action(StrEnum):
    """What to do with a function."""

    BUILD = "build"
    TEST = "test"


class Status(StrEnum):
    """The result of an action."""

    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class ActionOutcome:
    """The result for one function. `reason` explains a failure or a skip; `tail` is the end of a failure's output."""

    function: Function
    status: Status
    took_s: float = 0.0
    reason: str = ""
    tail: Sequence[str] = ()


def carry_out(action: Action, function: Function) -> ActionOutcome:
    """Build or test one function."""
    missing = missing_needs(function.entry.needs)
    if missing:
        return ActionOutcome(function, Status.SKIPPED, reason=f"needs {', '.join(missing)}")
    start = time.monotonic()
    failure, tail = _attempt(action, function)
    status = Status.FAILED if failure else Status.DONE
    return ActionOutcome(function, status, time.monotonic() - start, failure, tail)


def _attempt(action: Action, function: Function) -> tuple[str, Sequence[str]]:
    """Run the commands. Returns an empty text, or the failure and the end of its output."""
    commands = list(function.entry.build) if action is Action.BUILD or not function.built else []
    for command in [*commands, *filter(None, [function.entry.test if action is Action.TEST else ""])]:
        with tempfile.TemporaryFile() as output:
            failure = _run(function, command, output)
            if failure:
                return f"`{command}` {failure}", _tail(output)
    absent = [path for path in function.entry.produces if not (function.folder / path).exists()]
    return f"its build did not produce {', '.join(absent)}" if absent else "", ()


def missing_needs(needs: Iterable[str]) -> list[str]:
    """The programs in `needs` that this machine lacks, each with the version that it has."""
    missing = []
    for need in needs:
        program, _, oldest = need.partition(" ")
        version = program_version(program)
        wanted = f"{program} {oldest} or newer" if oldest else program
        if version is None:
            missing.append(f"{wanted} (not on the PATH)")
        elif _numbers(version) < _numbers(oldest):
            missing.append(f"{wanted} (here: {version or 'unknown version'})")
    return missing


@functools.cache
def program_version(program: str) -> str | None:
    """The version of a program on the PATH; empty if it is unknown, None without the program."""
    path = shutil.which(program)
    if path is None:
        return None
    command = [path, _VERSION_FLAGS.get(program, "--version")]
    try:
        # In the root folder, since a project may select another version of a tool.
        ran = subprocess.run(command, cwd="/", stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"\d+(\.\d+)+", _COLOUR.sub("", ran.stdout + ran.stderr))
    return found[0] if found and ran.returncode == 0 else ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part)


def _run(function: Function, command: str, output: IO[bytes]) -> str:
    """Run a command. Returns an empty text, or the failure."""
    environment = {name: value for name, value in os.environ.items() if name != "VIRTUAL_ENV"}  # not for functions
    words = function.words(command)
    streams = {"stdout": output, "stderr": subprocess.STDOUT}
    try:
        with child_group(words, _STOP_S, cwd=function.folder, env=environment, **streams) as process:
            code = process.wait()
    except OSError as error:
        return f"cannot be started: {shlex.quote(words[0])}: {error.strerror}"
    return f"ended with exit code {code}" if code else ""


def _tail(output: IO[bytes]) -> list[str]:
    end = output.seek(0, os.SEEK_END)
    output.seek(max(0, end - _TAIL_BYTES))
    return output.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
