"""The one form of a table on a terminal."""

from __future__ import annotations

import io

from rich.console import Console, RenderableType
from rich.text import Text

from workload_generator.base.terminal import terminal_table


def printed(table: RenderableType, width: int = 80) -> list[str]:
    out = io.StringIO()
    Console(width=width, file=out).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_texts_stand_left_and_numbers_right() -> None:
    table = terminal_table(
        ("pod", "CPU", "on"), [("a", "1", "node-1"), ("long", "1,000", "n")], title="P", texts=(0, 2)
    )
    assert printed(table) == ["P", "pod     CPU  on", "a         1  node-1", "long  1,000  n"]


def test_cells_are_no_markup_unless_they_are_text() -> None:
    table = terminal_table(("[b]", "verdict"), [("[red]x[/] :warning:", Text("valid", "green"))], texts=(0, 1))
    assert printed(table) == ["[b]                  verdict", "[red]x[/] :warning:  valid"]


def test_a_table_without_labels_has_no_header() -> None:
    assert printed(terminal_table(("", ""), [("sent", "1")], texts=(0, 1))) == ["sent  1"]


def test_what_is_too_wide_wraps_or_ends_in_an_ellipsis() -> None:
    rows = [("abcdefghij", "1")]
    assert printed(terminal_table(("name", "n"), rows), width=9) == ["name    n", "abcdef  1", "ghij"]
    header, row = printed(terminal_table(("name", "n"), rows, wrap=False), width=9)
    assert header.startswith("name") and "…" in row
