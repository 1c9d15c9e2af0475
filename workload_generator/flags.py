"""Flags that mean what the same text means in a file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TypeVar

from workload_generator.document import Scalar

T = TypeVar("T")

_TRUE = {"1", "t", "T", "true", "TRUE", "True"}
_FALSE = {"0", "f", "F", "false", "FALSE", "False"}


def as_in_a_file(read: Callable[[Scalar], T]) -> Callable[[str], T]:
    """An argparse type that reads a flag as files are read."""

    def read_flag(text: str) -> T:
        try:
            return read(Scalar(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read_flag


def go_bool(text: str) -> bool:
    """An argparse type for booleans as Go's flag package reads them."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise argparse.ArgumentTypeError(f"{text!r} is neither true nor false")
