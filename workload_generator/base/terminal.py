"""A console whose reader may go away."""

from __future__ import annotations

from rich.console import Console


class Terminal(Console):
    """Raises BrokenPipeError, where rich would end the process: a lost terminal never ends a run."""

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles the BrokenPipeError."""
        raise BrokenPipeError
