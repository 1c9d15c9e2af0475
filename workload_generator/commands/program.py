"""The four programs: their parsers, and an exit code and a message for every error.

The program `some-name` is the module `some_name`, a command with a `DESCRIPTION`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn

from workload_generator import __version__
from workload_generator.base.errors import BenchError
from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.standard_streams import complain, forget_stdout, open_standard_streams, printable


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong flag in two lines: the reason, and where to read on."""

    def error(self, message: str) -> NoReturn:
        """Report it, and end the program."""
        self.exit(ExitCode.USAGE, f"{self.prog}: {printable(message)}\nSee {self.prog} --help.\n")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Flags of this parser. A command reports a flag that it does not know itself, with its own name."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown


def module_of(command: str) -> ModuleType:
    """The module of a command or program."""
    return import_module(f"workload_generator.commands.{command.replace('-', '_')}")


def make_parser(program: str, *details: object) -> argparse.ArgumentParser:
    """A program's parser; `details` are further arguments of its `add_flags`."""
    module = module_of(program)
    parser = Parser(prog=program, description=module.DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    module.add_flags(parser, *details)
    return parser


def main(program: str, words: Sequence[str] | None = None) -> int:
    """Run a program; returns its exit code."""
    open_standard_streams()
    options = make_parser(program).parse_args(words)
    return guarded(program, lambda: module_of(program).run(options))()


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
