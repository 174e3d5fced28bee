"""HTML elements that several sections use. Whatever comes in as text goes out escaped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

__all__ = ["badge", "details", "duration", "number", "paragraphs", "section", "signed", "table"]

MISSING = "–"
"""Shown for a value that is not known. Never 0 (law 3)."""


def number(value: float | None, digits: int = 2) -> str:
    """A number, or the sign for one that is not known."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference, with its sign."""
    return MISSING if value is None else f"{value:+,.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds as a person says them."""
    if seconds is None:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def badge(text: str, kind: str = "") -> str:
    """A small label; its kind is a class of the style sheet."""
    return f'<span class="badge {kind}">{escape(text)}</span>'


def paragraphs(text: str) -> str:
    """Text by a model, its lines kept."""
    return "<br>".join(escape(line) for line in text.strip().split("\n"))


def details(summary: str, content: str, *, kind: str = "", opened: bool = False) -> str:
    """A part that folds. `summary` and `content` are HTML."""
    shown = " open" if opened else ""
    named = f' class="{kind}"' if kind else ""
    return f"<details{named}{shown}><summary>{summary}</summary>\n{content}\n</details>"


def section(id: str, title: str, content: str) -> str:
    """A part of the page, with its heading."""
    return (
        f'<section id="{id}" aria-labelledby="{id}-title">\n'
        f'<h2 id="{id}-title">{escape(title)}</h2>\n{content}\n</section>'
    )


def table(
    caption: str,
    heads: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    visible: bool = True,
    kinds: Sequence[str] = (),
) -> str:
    """A table that scrolls within itself on a narrow screen.

    Args:
        caption: In words; escaped here.
        heads: Of the columns; escaped here.
        rows: Cells as HTML, the first of each names the row.
        visible: Whether the caption is for eyes too, or for screen readers alone.
        kinds: Class of each column (`words` for text; numbers otherwise).
    """
    of = [*kinds, *[""] * (len(heads) - len(kinds))]
    marked = [f' class="{kind}"' if kind else "" for kind in of]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for name, kind in zip(heads, marked, strict=True)
    )
    body = []
    for first, *rest in rows:
        cells = "".join(
            f"<td{kind}>{cell}</td>" for cell, kind in zip(rest, marked[1:], strict=True)
        )
        body.append(f'<tr><th scope="row"{marked[0]}>{first}</th>{cells}</tr>')
    hidden = "" if visible else ' class="unseen"'
    told = escape(caption)
    # A region that scrolls must be reachable by keyboard, and say what it is.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{told}">'
        f"<table><caption{hidden}>{told}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )
