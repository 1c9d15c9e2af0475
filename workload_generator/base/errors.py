"""Errors of the program and of its user, each with the exit code of the command that it ends.

Errors of a target are results instead of exceptions (`records.ErrorKind`). Only the command-line layer exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workload_generator.base.exit_codes import ExitCode


class BenchError(Exception):
    """An error that ends a command; `str()` is the message for the user."""

    exit_code: int = ExitCode.FAILURE


class UsageError(BenchError):
    """Flags, files or a machine with which nothing can be sent."""

    exit_code: int = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Problem:
    """A problem in an input file, with its place. `line` counts from 1; 0 is the whole file."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ExperimentError(UsageError):
    """An experiment that cannot be loaded, with all its problems in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RequestRefused(Exception):
    """A request to one of our servers that gets an error: `status` is that of the response, `str()` the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class GeneratorFault(BenchError):
    """An error of the generator that ended a run; `__cause__` has the original exception."""


class LogError(BenchError):
    """The log could not be written completely; the lines before the error are complete."""
