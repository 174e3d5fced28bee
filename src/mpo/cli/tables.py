"""Tables on stdout: on a terminal as wide as it is, elsewhere whole."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..evaluation.simulated import sandbox_mark

__all__ = ["EMPTY", "clock", "in_brackets", "number", "print_table", "table"]

MISSING = "–"
"""Sign for what is not known. Never 0 (law 3 in docs/design.md)."""
EMPTY = ("", MISSING, f"{MISSING} → {MISSING}")
"""Cells without a value."""
_NAME = 32
"""Most characters of a row's name on a terminal; the rest of the line is for figures."""
_WHOLE = 100_000
"""Width for a file or a pipe: more than any table has."""


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table, or the sign for an unknown one."""
    return MISSING if value is None else f"{value:.{digits}f}"


def clock(seconds: float) -> str:
    """Minutes and seconds, `3:07`."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def in_brackets(simulated: Mapping[str, bool]) -> str:
    """` (sandbox policy and data, real judge)`; empty where nothing is simulated."""
    mark = sandbox_mark(simulated)
    return f" ({mark})" if mark else ""


def table(
    title: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str] | None],
    words: str = "",
    names: str = "",
) -> Table:
    """A plain table. Cells are text: rich reads no `[red]` in them as markup.

    A column without a value in any row is left out.

    Args:
        title: Title of the table; empty for none.
        heads: Heads of the columns of figures.
        rows: Text of the first column, then a cell for each head; missing cells are empty. None
            begins a new section.
        words: Head of a last column of words; empty for none.
        names: Head of the first column.
    """
    columns = [names, *heads, *([words] if words else [])]
    padded = [None if row is None else [*row, *[""] * (len(columns) - len(row))] for row in rows]
    shown = [
        place
        for place in range(len(columns))
        if not place or any(row is not None and row[place] not in EMPTY for row in padded)
    ]
    new = Table(
        title=Text(title) if title else None, title_justify="left", box=None, pad_edge=False
    )
    most = _NAME if sys.stdout.isatty() else None
    for place in shown:
        figures = 0 < place <= len(heads)
        new.add_column(
            Text(columns[place]),
            justify="right" if figures else "left",
            no_wrap=not place or figures,
            overflow="ellipsis",
            max_width=None if place else most,
        )
    for row in padded:
        if row is None:
            new.add_section()
        else:
            new.add_row(*(Text(row[place]) for place in shown))
    return new


def print_table(shown: Table) -> None:
    """Print a table; where stdout is no terminal, nothing in it is cut or wrapped."""
    console = Console(width=None if sys.stdout.isatty() else _WHOLE)
    if shown.title:
        # As a part of the table it would be wrapped at the table's width.
        console.print(shown.title, soft_wrap=True, highlight=False)
        shown.title = None
    console.print(shown, soft_wrap=False)
