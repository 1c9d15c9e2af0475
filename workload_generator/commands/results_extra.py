"""The libraries of the extra `results`, which `report` and `compare` need and extraction does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from workload_generator.base.errors import BenchError
from workload_generator.base.subprocesses import signals_held


class MissingExtra(BenchError):
    """The libraries of the extra `results` are not installed."""


@contextmanager
def results_extra() -> Iterator[None]:
    """Around the import of modules that need the extra. Signals wait: an exception of their handlers can be lost there.

    Raises MissingExtra.
    """
    try:
        with signals_held():
            yield
    except ImportError as error:
        raise MissingExtra(
            f"the extra `results` is not installed ({error.name} is missing): "
            "run uv sync --extra results, or pip install 'knative-bench[results]'"
        ) from None
