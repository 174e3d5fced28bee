"""Progress of runs: a live table on a terminal, plain lines elsewhere, JSON lines
for a program. Progress goes to stderr, results to stdout (JSON progress too: it is for a program).
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol, Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from .run_view import Event, RunView

__all__ = ["Board", "JsonBoard", "LiveBoard", "PlainBoard", "number", "open_board"]


class Board(Protocol):
    """Shows events. A context manager: the terminal is left tidy however the block ends."""

    def take(self, label: str, event: Event) -> None:
        """Show an event of the run `label`."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exc: object) -> None: ...


class JsonBoard:
    """One JSON object per line on stdout."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def take(self, label: str, event: Event) -> None:
        typer.echo(json.dumps({"run": label, **event}))
        sys.stdout.flush()


class PlainBoard:
    """A line for each tenth of a run, each change of rubric, each start and end."""

    def __init__(self, labels: Sequence[str], prefix: str = "") -> None:
        self.views = {label: RunView(label) for label in labels}
        self._prefix = prefix
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None: ...

    def take(self, label: str, event: Event) -> None:
        view = self.views[label]
        view.take(event)
        kind = event.get("kind")
        if kind == "meta":
            if view.meta:
                self._say(label, view.meta_text)
            return
        if kind != "step":
            text = f"{view.state}{': ' if view.note else ''}{view.note}"
            # A policy in training reports fifty losses; a log wants one line of each sort.
            if self._shown.get(label) != text:
                self._say(label, text)
            self._shown[label] = text
            return
        if event.get("reason") is not None:
            verdict = "new rubric" if event["accepted"] else "rubric stays"
            self._say(label, f"step {view.step}: {verdict}: {event['reason']}")
        every = max(1, view.steps // 10)
        if view.step == 1 or view.step == view.steps or view.step % every == 0:
            self._say(label, _line(view))

    def _say(self, label: str, text: str) -> None:
        typer.echo(f"{self._prefix}{label}  {text}", err=True)


def _line(view: RunView) -> str:
    parts = [f"step {view.step}/{view.steps}", f"reward {number(view.reward)}"]
    if view.gold is not None:
        parts.append(f"gold {number(view.gold)}")
    if view.audit is not None:
        parts.append(f"audit {number(view.audit)}")
    if view.kl is not None:
        parts.append(f"KL {view.kl:.3f}")
    if view.words is not None:
        parts.append(f"{view.words:.0f} words")
    if view.unscored:
        parts.append(f"{view.unscored} unscored")
    parts.append(f"rubric {view.age}")
    if view.spent.calls:
        parts.append(f"cost {view.spent} of about {view.projected}")
    if view.left:
        parts.append(f"{view.left} left")
    return "  ".join(parts)


class LiveBoard:
    """A table on the terminal that is kept up to date."""

    def __init__(self, labels: Sequence[str], title: str, console: Console) -> None:
        self.views = {label: RunView(label) for label in labels}
        self._title = title
        self._started = time.monotonic()
        self._live = Live(
            console=console, get_renderable=self._table, refresh_per_second=4, transient=False
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def take(self, label: str, event: Event) -> None:
        self.views[label].take(event)

    def _table(self) -> Group:
        elapsed = int(time.monotonic() - self._started)
        table = Table(
            title=f"{self._title}  ({elapsed // 60}:{elapsed % 60:02d})",
            title_justify="left",
            box=None,
            pad_edge=False,
            collapse_padding=True,  # all of it fits 80 columns
        )
        for name in ("run", "", "step"):
            table.add_column(name, no_wrap=True)
        views = self.views.values()
        # The second RM's word where nobody measures: both would not fit.
        audited = all(view.gold is None for view in views) and any(
            view.audit is not None for view in views
        )
        for name in ("reward", "audit" if audited else "gold", "KL", "words", "unscored"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("rubric, age", "left"):
            table.add_column(name, no_wrap=True)
        for view in views:
            table.add_row(*_cells(view, audited))
        return Group(table, *self._notes())

    def _notes(self) -> list[Any]:
        """Below the table: in it, a long line would squeeze every column."""
        notes = []
        for view in self.views.values():
            prefix = f"{view.label}: " if len(self.views) > 1 else ""
            if view.note:
                notes.append(_styled(f"{view.label}: {view.note}", view.state))
            if view.title and len(self.views) == 1:
                notes.append(_styled(f"rubric #{view.rubric}: {view.title}", view.state))
            if view.meta:
                notes.append(_styled(prefix + view.meta_text, "meta"))
        begun = [view for view in self.views.values() if view.spent.calls]
        if begun:
            spent = sum((view.spent for view in begun[1:]), begun[0].spent)
            whole = sum((view.projected for view in begun[1:]), begun[0].projected)
            of = " of the runs begun" if len(begun) < len(self.views) else ""
            notes.append(_styled(f"cost{of}: {spent} so far, about {whole} in the end", "cost"))
        return notes


def _cells(view: RunView, audited: bool) -> tuple[Any, ...]:
    bar = ProgressBar(total=max(1, view.steps), completed=view.step, width=10)
    return (
        view.label,
        bar if view.state == "running" and view.steps else _styled(view.state, view.state),
        f"{view.step}/{view.steps}" if view.steps else "",
        number(view.reward),
        number(view.audit if audited else view.gold),
        number(view.kl, 3),
        number(view.words, 0),
        str(view.unscored or ""),
        view.age,
        view.left,
    )


def _styled(text: str, state: str) -> Any:
    from rich.text import Text

    return Text(text, style={"failed": "red", "done": "green", "meta": "yellow"}.get(state, "dim"))


def number(value: float | None, digits: int = 2) -> str:
    """A number for a table; an en dash where nothing is known (never 0)."""
    return "–" if value is None else f"{value:.{digits}f}"


def open_board(kind: str, labels: Sequence[str], title: str) -> Board:
    """The board for `auto` (live on a terminal, else plain), `live`, `plain` or `json`."""
    if kind == "json":
        return JsonBoard()
    console = Console(stderr=True)
    if kind == "live" or (kind == "auto" and console.is_terminal):
        return LiveBoard(labels, title, console)
    return PlainBoard(labels)
