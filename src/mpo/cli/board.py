"""What is shown while runs work: a live table on a terminal, plain lines elsewhere, JSON lines
for a program. Progress goes to stderr, results to stdout (JSON progress too: it is for a program).

A run speaks in events, JSON objects with a `kind`:

    {"kind": "status", "message": …}
    {"kind": "step", "step": 3, "steps": 140, "reward": 0.61, "gold": 0.7, …}
    {"kind": "done"} or {"kind": "failed", "message": …}
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from ..store import Store
from ..training.run import StepReport

__all__ = [
    "Ages",
    "Board",
    "JsonBoard",
    "LiveBoard",
    "PlainBoard",
    "RunView",
    "open_board",
    "step_event",
]

Event = Mapping[str, Any]


class Ages:
    """Which rubric is in force and since when, also in a run that was continued.

    Args:
        store: Of the run.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: tuple[str, int, int] = ("", 0, 0)

    def of(self, rubric: str) -> tuple[int, int]:
        """Number of the rubric, from 1, and the step since which it is in force."""
        # The lineage holds every analysis: it is read when the rubric changes, not at each step.
        if self._known[0] != rubric:
            accepted = [d for d in self._store.lineage() if d.accepted]
            distinct = dict.fromkeys(d.proposed for d in accepted)
            since = max((d.step for d in accepted if d.proposed == rubric), default=0)
            self._known = (rubric, len(distinct), since)
        return self._known[1:]


def step_event(report: StepReport, ages: Ages) -> dict[str, Any]:
    """A step of the trainer as an event. Without texts of a model: it must fit a line."""
    decision = report.decision
    number, since = ages.of(report.rubric_id)
    return {
        "kind": "step",
        "step": report.step,
        "steps": report.steps,
        "reward": report.reward,
        "gold": report.gold,
        "unscored": report.unscored,
        "words": report.words,
        "kl": report.kl,
        "rubric": report.rubric_id,
        "rubric_number": number,
        "rubric_since": since,
        "seconds": report.seconds,
        "accepted": None if decision is None else decision.accepted,
        "reason": None if decision is None else " ".join(decision.reason.split())[:200],
    }


@dataclass
class RunView:
    """What is known of one run."""

    label: str
    state: str = "waiting"
    note: str = ""
    step: int = 0
    steps: int = 0
    reward: float | None = None
    gold: float | None = None
    unscored: int = 0
    words: float | None = None
    kl: float | None = None
    rubric: int = 0
    """Number of the rubric in force; 0 before the first step."""
    since: int = 0
    """Step at which it came into force."""
    pace: list[float] = field(default_factory=list)
    """Seconds of the last steps."""

    def take(self, event: Event) -> None:
        """Bring the view up to date."""
        kind = event.get("kind")
        if kind == "status":
            self.state, self.note = "running", str(event.get("message", ""))
        elif kind == "done":
            self.state, self.note = "done", str(event.get("message", ""))
        elif kind == "failed":
            self.state, self.note = "failed", str(event.get("message", ""))
        elif kind == "step":
            self._step(event)

    def _step(self, event: Event) -> None:
        self.state, self.note = "running", ""
        self.step, self.steps = int(event["step"]), int(event["steps"])
        self.reward, self.gold = event["reward"], event["gold"]
        self.words, self.kl = event["words"], event["kl"]
        self.unscored += int(event["unscored"])
        self.pace = [*self.pace[-9:], float(event["seconds"])]
        self.rubric, self.since = int(event["rubric_number"]), int(event["rubric_since"])

    @property
    def age(self) -> str:
        """Which rubric is in force and for how many steps: `#2, 14 steps`."""
        return f"#{self.rubric}, {self.step - self.since} steps" if self.rubric else ""

    @property
    def left(self) -> str:
        """Time left at the pace of the last steps."""
        if self.state == "done" or not self.pace:
            return ""
        seconds = (self.steps - self.step) * sum(self.pace) / len(self.pace)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


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
    if view.kl is not None:
        parts.append(f"KL {view.kl:.3f}")
    if view.words is not None:
        parts.append(f"{view.words:.0f} words")
    if view.unscored:
        parts.append(f"{view.unscored} unscored")
    parts.append(f"rubric {view.age}")
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
        for name in ("reward", "gold", "KL", "words", "unscored"):
            table.add_column(name, justify="right", no_wrap=True)
        for name in ("rubric, age", "left"):
            table.add_column(name, no_wrap=True)
        for view in self.views.values():
            table.add_row(*_cells(view))
        # Below the table: in it, a long line would squeeze every column.
        notes = [
            _styled(f"{view.label}: {view.note}", view.state)
            for view in self.views.values()
            if view.note
        ]
        return Group(table, *notes)


def _cells(view: RunView) -> tuple[Any, ...]:
    bar = ProgressBar(total=max(1, view.steps), completed=view.step, width=10)
    return (
        view.label,
        bar if view.state == "running" and view.steps else _styled(view.state, view.state),
        f"{view.step}/{view.steps}" if view.steps else "",
        number(view.reward),
        number(view.gold),
        number(view.kl, 3),
        number(view.words, 0),
        str(view.unscored or ""),
        view.age,
        view.left,
    )


def _styled(text: str, state: str) -> Any:
    from rich.text import Text

    return Text(text, style={"failed": "red", "done": "green"}.get(state, "dim"))


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
