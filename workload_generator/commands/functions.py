"""`kn-bench functions`: the functions built and tested, those whose toolchain is on this machine."""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.text import Text

from workload_generator.functions.catalog import find_function, load_catalog
from workload_generator.functions.toolchain import Action, Outcome, Status, carry_out

_DONE = {Action.BUILD: "built", Action.TEST: "passed"}
_DOING = {Action.BUILD: "building", Action.TEST: "testing"}
_STYLES = {Status.DONE: "green", Status.FAILED: "bold red", Status.SKIPPED: "yellow"}


def add_functions(command: argparse.ArgumentParser) -> None:
    """The command's two actions and their flags."""
    actions = command.add_subparsers(required=True, metavar="build|test")
    for action in Action:
        command = actions.add_parser(action, help=f"{action} those whose toolchain is on this machine")
        command.add_argument("names", nargs="*", metavar="NAME", help="default: every function of the catalog")
        command.add_argument("--all", action="store_true", help="a function that is skipped is a failure")
        command.set_defaults(command=_functions, action=action)


def _functions(options: argparse.Namespace) -> int:
    return 0 if build_or_test(options.action, options.names, options.all, Console(highlight=False)) else 1


def build_or_test(action: Action, names: Sequence[str], require_all: bool, console: Console) -> bool:
    """Do it with the named functions, or with all; True when none failed, and none was skipped that had to be done.

    Those that are named have to be, and with `require_all` every one. Raises UsageError for an unknown name.
    """
    functions = [find_function(name) for name in dict.fromkeys(names)] or list(load_catalog().values())
    width = max(len(function.name) for function in functions)
    start = time.monotonic()
    counts: Counter[Status] = Counter()
    for number, function in enumerate(functions, start=1):
        with console.status(f"{_DOING[action]} {function.name} ({number} of {len(functions)})"):
            outcome = carry_out(action, function)
        counts[outcome.status] += 1
        _show(action, outcome, width, console)
    words = [f"{counts[Status.DONE]} {_DONE[action]}", f"{counts[Status.FAILED]} failed"]
    words += [f"{counts[Status.SKIPPED]} skipped"] * bool(counts[Status.SKIPPED])
    console.print(f"{', '.join(words)} in {time.monotonic() - start:.1f} s")
    return not counts[Status.FAILED] and not (counts[Status.SKIPPED] and (names or require_all))


def _show(action: Action, outcome: Outcome, width: int, console: Console) -> None:
    word = _DONE[action] if outcome.status is Status.DONE else outcome.status
    line = Text(f"{outcome.function.name:{width}}  ").append(f"{word:7}", _STYLES[outcome.status])
    if outcome.status is not Status.SKIPPED:
        line.append(f"  {outcome.took_s:6.1f} s")
    if outcome.reason:
        line.append(f"  {outcome.reason}")
    console.print(line, soft_wrap=True)
    for text in outcome.tail:
        console.print(Text(f"    {text}"), soft_wrap=True)
