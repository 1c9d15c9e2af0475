"""A benchmark for Knative Serving and Eventing."""

from __future__ import annotations


def __getattr__(name: str) -> str:
    """`__version__`, looked up when it is asked for: the look-up takes longer than the interpreter's own start."""
    if name == "__version__":
        from importlib.metadata import version

        return version("knative-bench")
    raise AttributeError(name)
