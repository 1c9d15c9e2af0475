"""Output on a terminal: a console whose reader may close it, and the one form of a table.

It loads rich, so that light commands import it only where they print.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence

from rich.console import Console, JustifyMethod
from rich.markup import escape as escape_markup
from rich.table import Table
from rich.text import Text

from workload_generator.base.standard_streams import printable


class Terminal(Console):
    """Raises BrokenPipeError, where rich would end the process: a lost terminal never ends a run."""

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles the BrokenPipeError."""
        raise BrokenPipeError


def escape(text: str) -> str:
    """`text` for a console that reads markup, which shows it as it is, with control characters as escapes."""
    return escape_markup(printable(text))


def plain_printer() -> Callable[[str], None]:
    """A function that prints text as it is, without markup, and with control characters as escapes."""
    console = Console(highlight=False, soft_wrap=True)
    return lambda text: console.print(Text("\n".join(map(printable, text.split("\n")))))


def terminal_table(
    header: Sequence[str],
    rows: Iterable[Sequence[str | Text]],
    *,
    title: str | None = None,
    texts: Container[int] = (0,),
    wrap: bool = True,
) -> Table:
    """A table without borders; the columns at the indexes `texts` are left-justified, the others right-justified.

    Strings are shown as they are, without rich's markup, and with control characters as escapes. A text that is too
    wide continues on the next line, or, without `wrap`, ends in an ellipsis.
    """
    table = Table(title_justify="left", box=None, pad_edge=False, header_style="dim")
    table.title = None if title is None else Text(printable(title), style="table.title")
    table.show_header = any(header)
    for index, label in enumerate(header):
        justify: JustifyMethod = "left" if index in texts else "right"
        table.add_column(Text(label), justify=justify, overflow="fold" if wrap else "ellipsis", no_wrap=not wrap)
    for row in rows:
        table.add_row(*(Text(printable(cell)) if isinstance(cell, str) else cell for cell in row))
    return table
