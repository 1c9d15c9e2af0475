"""Our own faults and the user's, each with the exit code it ends a command with.

The target's faults are not exceptions: they are results (`records.ErrorKind`). Only the command-line layer exits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workload_generator.base.exit_codes import ExitCode


class BenchError(Exception):
    """Something that ends a command; `str()` is what the user reads."""

    exit_code: int = ExitCode.FAILURE


class UsageError(BenchError):
    """Flags or surroundings under which nothing can be sent (exit 2)."""

    exit_code: int = ExitCode.USAGE


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of an input file: where it stands and what is wrong. `line` counts from 1; 0 is the whole file."""

    file: str
    line: int
    key: str
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.key}: {self.message}" if self.key else f"{place}: {self.message}"


class ExperimentError(UsageError):
    """An experiment that does not load; carries every problem found, in the order of the file."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class RequestRefused(Exception):
    """A request to one of our servers that gets an error: `status` is that of the response, `str()` the reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class GeneratorFault(BenchError):
    """A fault of ours ended a run; it is the cause."""


class LogError(BenchError):
    """The log could not be written to its end; what was written before stays whole."""
