"""HTML elements, ids and colours that several sections use. Text is escaped here, HTML is not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from .run_data import RunData

__all__ = [
    "anchor",
    "arm_colour",
    "badge",
    "count",
    "details",
    "duration",
    "number",
    "paragraphs",
    "section",
    "signed",
    "table",
]

MISSING = "–"
"""Sign for a value that is not known. Never 0 (law 3 in docs/design.md)."""
_COLOURS = {
    "fixed": "#d9622b",
    "mpo": "#2f8fd8",
    "blind": "#8f73d6",
    "expert": "#2aa37a",
    "oracle": "#b58900",
    "autoprompt": "#cc6aa5",
}
"""Colour by arm; each is readable on white and on near-black."""
_OTHERS = ("#2a9d8f", "#a8763e", "#c05a5a", "#7f8c99")


def number(value: float | None, digits: int = 2) -> str:
    """A number, or the sign for an unknown one."""
    return MISSING if value is None else f"{value:,.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """A difference, with its sign."""
    return MISSING if value is None else f"{value:+,.{digits}f}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds in words."""
    if seconds is None:
        return MISSING
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{seconds:.1f} s"


def badge(text: str, kind: str = "") -> str:
    """A small label; `kind` is a class of the style sheet."""
    return f'<span class="badge {kind}">{escape(text)}</span>'


def paragraphs(text: str) -> str:
    """Text by a model, its lines kept."""
    return "<br>".join(escape(line) for line in text.strip().split("\n"))


def details(summary: str, content: str, *, kind: str = "", opened: bool = False) -> str:
    """A part that can be folded. `summary` and `content` are HTML."""
    shown = " open" if opened else ""
    named = f' class="{kind}"' if kind else ""
    return f"<details{named}{shown}><summary>{summary}</summary>\n{content}\n</details>"


def section(id: str, title: str, content: str) -> str:
    """A section of the page with its heading. `content` is HTML."""
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
    """A table that scrolls within itself on a narrow screen. A column without a value in any row is
    left out.

    Args:
        caption: Caption as text.
        heads: Heads of the columns as text.
        rows: Cells as HTML; the first of each row names the row.
        visible: If False, the caption is for screen readers only.
        kinds: Class of each column: `words` for text, empty for numbers.
    """
    padded = [*kinds, *[""] * (len(heads) - len(kinds))]
    whole = [list(row) for row in rows]
    kept = [n for n in range(len(heads)) if not n or any(r[n] not in ("", MISSING) for r in whole)]
    heads, padded = [heads[n] for n in kept], [padded[n] for n in kept]
    classes = [f' class="{kind}"' if kind else "" for kind in padded]
    head = "".join(
        f'<th scope="col"{kind}>{escape(name)}</th>'
        for name, kind in zip(heads, classes, strict=True)
    )
    body = []
    for first, *rest in ([row[n] for n in kept] for row in whole):
        cells = "".join(
            f"<td{kind}>{cell}</td>" for cell, kind in zip(rest, classes[1:], strict=True)
        )
        body.append(f'<tr><th scope="row"{classes[0]}>{first}</th>{cells}</tr>')
    hidden = "" if visible else ' class="unseen"'
    text = escape(caption)
    # A region that scrolls must be reachable by keyboard, and say what it is.
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{text}">'
        f"<table><caption{hidden}>{text}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def count(n: int, thing: str) -> str:
    """A number of things, with the plural where it is due."""
    return f"{n} {thing}{'s' * (n != 1)}"


def arm_colour(arm: str, arms: Sequence[str]) -> str:
    """The arm's own colour, or one of the spare ones by its place."""
    spare = [name for name in arms if name not in _COLOURS]
    return _COLOURS.get(arm) or _OTHERS[spare.index(arm) % len(_OTHERS)]


def anchor(run: RunData, index: int, *, before: bool = False) -> str:
    """Id of a decision on the page."""
    return f"decision-{run.name}-{'before-' if before else ''}{index}".replace(" ", "_")
