"""The flags that several commands have, each defined once, and the argparse types that read flags.

A flag means what the same text means in an experiment file. The readers of those files are loaded when such a flag is
given, so that `--help` does not wait for them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from workload_generator.experiment.yaml_lines import Scalar

T = TypeVar("T")

MOST_PROCESSES = 256
"""Worker processes of one generator."""
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}
_LONGEST_PREFIX_BYTES = 200


# Flags


def add_kubeconfig(parser: argparse.ArgumentParser) -> None:
    """--kubeconfig and --context: which cluster."""
    parser.add_argument("--kubeconfig", type=Path, metavar="FILE", help="default: the one that kubectl uses")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig; default: the current one")


def add_manifests(parser: argparse.ArgumentParser) -> None:
    """--manifests: the folder k8s/."""
    parser.add_argument("--manifests", type=Path, metavar="DIR", help="the folder k8s/; default: the installed one")


def add_db(parser: argparse.ArgumentParser, *, required: bool = True, text: str = "the benchmark database") -> None:
    """--db: the benchmark database."""
    parser.add_argument("--db", type=Path, required=required, metavar="FILE", help=text)


def add_timeout(parser: argparse.ArgumentParser, default: str, what: str) -> None:
    """--timeout, in nanoseconds: how long to wait for `what`."""
    text = f"how long to wait for {what}; default {default}"
    parser.add_argument("--timeout", type=value("positive_duration"), default=default, metavar="D", help=text)


def add_dry_run(parser: argparse.ArgumentParser, text: str) -> None:
    """--dry-run."""
    parser.add_argument("--dry-run", action="store_true", help=text)


def add_output(parser: argparse.ArgumentParser, what: str) -> None:
    """--output: the format of standard output."""
    parser.add_argument("--output", choices=("text", "json"), default="text", help=f"format of {what}; default text")


def add_progress(parser: argparse.ArgumentParser, text: str) -> None:
    """--progress: the live view on standard error."""
    parser.add_argument("--progress", choices=("auto", "rich", "plain", "none"), default="auto", help=text)


def add_prefix(parser: argparse.ArgumentParser) -> None:
    """--prefix: how the names of log files begin."""
    default = "workload-generator"
    parser.add_argument("--prefix", type=log_prefix, metavar="P", default=default, help="prefix of the log's name")


def add_seed(parser: argparse.ArgumentParser, text: str) -> None:
    """--seed."""
    parser.add_argument("--seed", type=value("whole"), metavar="N", help=text)


def add_bool(parser: argparse.ArgumentParser, name: str, text: str, default: bool | None = False) -> None:
    """A flag that is set by its name alone, or with a boolean as Go's flag package reads it."""
    parser.add_argument(name, nargs="?", const=True, default=default, type=go_bool, metavar="true|false", help=text)


# Types


def as_in_a_file(read: Callable[[Scalar], T]) -> Callable[[str], T]:
    """An argparse type that reads a flag with `read`, which reads the same value in a file."""

    def read_flag(text: str) -> T:
        from workload_generator.experiment.yaml_lines import Scalar

        try:
            return read(Scalar(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_flag


def value(kind: str) -> Callable[[str], Any]:
    """An argparse type: the function `kind` of `experiment.field_kinds`, loaded when the flag is given."""

    def read_flag(text: str) -> Any:
        from workload_generator.experiment import field_kinds

        return as_in_a_file(getattr(field_kinds, kind))(text)

    return read_flag


def text_and_value(kind: str) -> Callable[[str], tuple[str, Any]]:
    """An argparse type: the text, to pass it on, and the value that `value(kind)` reads."""
    return lambda text: (text, value(kind)(text))


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """An argparse type: a whole number within these limits."""

    def read_flag(text: str) -> int:
        number: int = value("whole")(text)
        if not least <= number <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return number

    return read_flag


def seconds(shortest: float, longest: float) -> Callable[[str], float]:
    """An argparse type: seconds within these limits, with or without their unit (`5`, `0.5`, `5s`)."""

    def read_flag(text: str) -> float:
        try:
            number = float(text.removesuffix("s"))
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 5") from None
        if not shortest <= number <= longest:
            raise argparse.ArgumentTypeError(f"{text} is not from {shortest:g} to {longest:g} seconds")
        return number

    return read_flag


def pair(text: str) -> tuple[str, str]:
    """An argparse type: KEY=VALUE."""
    key, equals, content = text.partition("=")
    if not equals or not key or not content:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, content


def go_bool(text: str) -> bool:
    """An argparse type: a boolean as Go's flag package reads it."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def log_prefix(text: str) -> str:
    """An argparse type: the beginning of a log file's name."""
    size = len(os.fsencode(text))
    if not text or "/" in text or "\0" in text or text.startswith(".") or size > _LONGEST_PREFIX_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot begin a file name: no slash, no leading dot, 1 to {_LONGEST_PREFIX_BYTES} bytes"
        )
    return text
