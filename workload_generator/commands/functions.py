"""`kn-bench functions`: builds and tests the functions whose toolchain is on this machine."""

from __future__ import annotations

import argparse
import time
from collections import Counter

from rich.console import Console
from rich.text import Text

from workload_generator.base.exit_codes import ExitCode
from workload_generator.base.subprocesses import signals_held
from workload_generator.functions.catalog import find_function, load_catalog
from workload_generator.functions.toolchain import Action, ActionOutcome, Status, carry_out

_DONE = {Action.BUILD: "built", Action.TEST: "passed"}
_DOING = {Action.BUILD: "building", Action.TEST: "testing"}
_STYLES = {Status.DONE: "green", Status.FAILED: "bold red", Status.SKIPPED: "yellow"}


def add_flags(command: argparse.ArgumentParser) -> None:
    """The command's two actions and their flags."""
    actions = command.add_subparsers(required=True, metavar="build|test")
    for action in Action:
        command = actions.add_parser(action, help=f"{action} the functions whose toolchain is on this machine")
        command.add_argument("names", nargs="*", metavar="NAME", help="default: every function of the catalog")
        command.add_argument("--all", action="store_true", help="fail when a function is skipped")
        command.set_defaults(action=action)


def run(options: argparse.Namespace) -> int:
    """Build or test; returns the exit code. Raises UsageError for an unknown name.

    A skipped function is a failure when it was named, and with --all.
    """
    action, names, console = options.action, options.names, Console(highlight=False)
    functions = [find_function(name) for name in dict.fromkeys(names)] or list(load_catalog().values())
    width = max(len(function.name) for function in functions)
    start = time.monotonic()
    counts: Counter[Status] = Counter()
    for number, function in enumerate(functions, start=1):
        status = console.status(f"{_DOING[action]} {function.name} ({number} of {len(functions)})")
        with signals_held():  # and in its thread for good: a signal that it takes would interrupt the start of a child
            status.start()
        try:
            outcome = carry_out(action, function)
        finally:
            status.stop()
        counts[outcome.status] += 1
        _show(action, outcome, width, console)
    words = [f"{counts[Status.DONE]} {_DONE[action]}", f"{counts[Status.FAILED]} failed"]
    words += [f"{counts[Status.SKIPPED]} skipped"] * bool(counts[Status.SKIPPED])
    console.print(f"{', '.join(words)} in {time.monotonic() - start:.1f} s")
    failed = counts[Status.FAILED] or (counts[Status.SKIPPED] and (names or options.all))
    return ExitCode.FAILURE if failed else ExitCode.OK


def _show(action: Action, outcome: ActionOutcome, width: int, console: Console) -> None:
    word = _DONE[action] if outcome.status is Status.DONE else outcome.status
    line = Text(f"{outcome.function.name:{width}}  ").append(f"{word:7}", _STYLES[outcome.status])
    if outcome.status is not Status.SKIPPED:
        line.append(f"  {outcome.took_s:6.1f} s")
    if outcome.reason:
        line.append(f"  {outcome.reason}")
    console.print(line, soft_wrap=True)
    for text in outcome.tail:
        console.print(Text(f"    {text}"), soft_wrap=True)
