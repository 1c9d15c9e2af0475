"""Flags that mean what the same text means in a file.

What reads them is loaded when one is given, so that a command's help does not wait for it.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from workload_generator.experiment.yaml_lines import Scalar

T = TypeVar("T")

MOST_PROCESSES = 256
"""Of one generator."""
_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}
_LONGEST_PREFIX_BYTES = 200


def as_in_a_file(read: Callable[[Scalar], T]) -> Callable[[str], T]:
    """An argparse type that reads a flag as files are read."""

    def read_flag(text: str) -> T:
        from workload_generator.experiment.yaml_lines import Scalar

        try:
            return read(Scalar(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_flag


def value(kind: str) -> Callable[[str], Any]:
    """An argparse type: what the function `kind` of `field_kinds` makes of the text."""

    def read_flag(text: str) -> Any:
        from workload_generator.experiment import field_kinds

        return as_in_a_file(getattr(field_kinds, kind))(text)

    return read_flag


def go_bool(text: str) -> bool:
    """An argparse type: a boolean as Go's flag package reads it."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")


def log_prefix(text: str) -> str:
    """An argparse type: what a log file's name can begin with."""
    size = len(os.fsencode(text))
    if not text or "/" in text or "\0" in text or text.startswith(".") or size > _LONGEST_PREFIX_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text!r} cannot begin a file name: no slash, no leading dot, 1 to {_LONGEST_PREFIX_BYTES} bytes"
        )
    return text
