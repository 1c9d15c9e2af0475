"""What the four programs share: how their parsers begin, and how an error becomes a message and an exit code."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from workload_generator import __version__
from workload_generator.base.errors import BenchError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.standard_streams import complain, forget_stdout


def begin_parser(program: str, description: str, *, abbreviations: bool = False) -> argparse.ArgumentParser:
    """A parser with --version; `abbreviations` lets users shorten flags."""
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=abbreviations)
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    return parser


def guarded(program: str, command: Callable[[], int]) -> Callable[[], int]:
    """`command` with its BenchError reported on standard error and turned into the exit code."""

    def run() -> int:
        try:
            return command()
        except BenchError as error:
            complain(program, str(error))
            return error.exit_code
        except BrokenPipeError:  # the reader of standard output has gone
            forget_stdout()
            return ExitCode.FAILURE

    return run
