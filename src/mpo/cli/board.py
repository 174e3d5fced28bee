"""Progress of runs: a live table on a terminal, plain lines elsewhere, JSON lines for a program.

Progress goes to stderr, results to stdout (JSON progress too: it is for a program). A run speaks in
events, JSON objects with a `kind`:

    {"kind": "status", "message": …}
    {"kind": "step", "step": 3, "steps": 140, "reward": 0.61, "gold": 0.7, …}
    {"kind": "meta", "due": [10]}: updates whose meta step is under way; [] when none is any more
    {"kind": "done"} or {"kind": "failed", "message": …}
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..records import to_json
from .tables import EMPTY, clock, number

__all__ = ["Board", "Event", "RunView", "Spending", "open_board", "short"]

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Spending:
    """Use of all roles together."""

    calls: float = 0
    tokens: float = 0
    """Prompt and completion tokens."""
    usd: float | None = None
    """None where a model's price is not known."""

    @classmethod
    def of(cls, costs: Mapping[str, Mapping[str, Any]]) -> Spending:
        """The sum over roles of `summary.json`'s `cost`."""
        priced = [spent["usd"] for spent in costs.values()]
        return cls(
            calls=sum(spent["calls"] for spent in costs.values()),
            tokens=sum(s["prompt_tokens"] + s["completion_tokens"] for s in costs.values()),
            usd=None if None in priced or not priced else round(sum(priced), 6),
        )

    def __add__(self, other: Spending) -> Spending:
        known = self.usd is not None and other.usd is not None
        usd = (self.usd or 0) + (other.usd or 0) if known else None
        return Spending(self.calls + other.calls, self.tokens + other.tokens, usd)

    def __mul__(self, factor: float) -> Spending:
        usd = None if self.usd is None else self.usd * factor
        return Spending(self.calls * factor, self.tokens * factor, usd)

    def __str__(self) -> str:
        """Dollars where there is a price and it is not nothing, else calls and tokens."""
        if self.usd:
            return f"{self.usd:.2f} USD" if self.usd >= 0.1 else f"{self.usd:.4f} USD"
        return f"{short(self.calls)} calls, {short(self.tokens)} tokens"


def short(value: float) -> str:
    """A count in at most four digits: `812`, `9.4k`, `140k`, `2.1M`."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= limit * 0.9995:
            share = value / limit
            return f"{share:.1f}{unit}" if share < 99.95 else f"{share:.0f}{unit}"
    return f"{value:.0f}"


@dataclass
class RunView:
    """State of one run."""

    label: str
    state: str = "waiting"
    note: str = ""
    step: int = 0
    steps: int = 0
    reward: float | None = None
    gold: float | None = None
    audit: float | None = None
    unscored: int = 0
    words: float | None = None
    kl: float | None = None
    rubric: int | None = None
    """Number of the rubric in effect, 0 for the seed; None before the first step."""
    since: int = 0
    """Step at which it took effect."""
    title: str = ""
    alarm: str = ""
    """The last alarm, with its step."""
    meta: list[int] = field(default_factory=list)
    """Updates whose meta step is under way."""
    spent: Spending = field(default_factory=Spending)
    """Since the run began, in all processes that continued it."""
    pace: list[float] = field(default_factory=list)
    """Seconds of the last steps."""

    def take(self, event: Event) -> None:
        """Bring the view up to date."""
        kind = event.get("kind")
        if kind in ("status", "done", "failed"):
            self.state = "running" if kind == "status" else kind
            self.note = str(event.get("message", ""))
        elif kind == "meta":
            self.meta = [int(due) for due in event["due"]]
        elif kind == "step":
            self._step(event)
        if kind in ("done", "failed"):
            self.meta = []

    def _step(self, event: Event) -> None:
        self.state, self.note = "running", ""
        self.step, self.steps = int(event["step"]), int(event["steps"])
        self.reward, self.gold, self.audit = event["reward"], event["gold"], event["audit"]
        self.words, self.kl = event["words"], event["kl"]
        self.unscored += int(event["unscored"])
        self.pace = [*self.pace[-9:], float(event["seconds"])]
        self.rubric, self.since = int(event["rubric_number"]), int(event["rubric_since"])
        self.title = str(event["rubric_title"])
        for alarm in event.get("alarms", ()):
            self.alarm = f"alarm at step {self.step}: {alarm}"
        self.spent = Spending(**event["cost"])

    @property
    def age(self) -> str:
        """Rubric in effect and for how many steps: `#2, 14 steps`."""
        return f"#{self.rubric}, {self.step - self.since} steps" if self.rubric is not None else ""

    @property
    def projected(self) -> Spending:
        """Use at the end of the run, if it goes on as it did."""
        return self.spent * (self.steps / self.step) if self.step else self.spent

    @property
    def meta_text(self) -> str:
        """`meta step of update 10 under way`; empty where none is."""
        return f"meta step of update {', '.join(map(str, self.meta))} under way" * bool(self.meta)

    @property
    def left(self) -> str:
        """Time left at the pace of the last steps."""
        if self.state == "done" or not self.pace:
            return ""
        return clock((self.steps - self.step) * sum(self.pace) / len(self.pace))


class Board:
    """Shows events. A context manager: the terminal is left tidy however the block ends."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        return None

    def take(self, label: str, event: Event) -> None:
        """Show an event of the run `label`."""
        raise NotImplementedError


class _JsonBoard(Board):
    """One JSON object per line on stdout."""

    def take(self, label: str, event: Event) -> None:
        typer.echo(to_json({"run": label, **event}))
        sys.stdout.flush()


class _PlainBoard(Board):
    """A line for the title, each tenth of a run, each change of rubric, each start and end."""

    def __init__(self, labels: Sequence[str], title: str) -> None:
        self._title = title
        self.views = {label: RunView(label) for label in labels}
        self._shown: dict[str, str] = {}

    def __enter__(self) -> Self:
        typer.echo(self._title, err=True)
        return self

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
        for alarm in event.get("alarms", ()):
            self._say(label, f"step {view.step}: alarm: {alarm}")
        every = max(1, view.steps // 10)
        if view.step == 1 or view.step == view.steps or view.step % every == 0:
            self._say(label, _line(view))

    def _say(self, label: str, text: str) -> None:
        typer.echo(f"{label}  {text}", err=True)


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


class _LiveBoard(Board):
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
        table = Table(
            title=f"{self._title}  ({clock(time.monotonic() - self._started)})",
            title_justify="left",
            box=None,
            pad_edge=False,
            collapse_padding=True,  # all of it fits 80 columns
        )
        views = self.views.values()
        # The second RM's word where nobody measures: both would not fit.
        audited = all(view.gold is None for view in views) and any(
            view.audit is not None for view in views
        )
        rows = [_cells(view, audited) for view in views]
        heads = ["run", "", "step", "reward", "audit" if audited else "gold"]
        heads += ["KL", "words", "unscored", "rubric, age", "left"]
        # A column comes with its first value.
        shown = [n for n in range(len(heads)) if n < 4 or any(row[n] not in EMPTY for row in rows)]
        for n in shown:
            figures = heads[n] in ("reward", "audit", "gold", "KL", "words", "unscored")
            table.add_column(heads[n], justify="right" if figures else "left", no_wrap=True)
        for row in rows:
            table.add_row(*(row[n] for n in shown))
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
            if view.alarm:
                notes.append(_styled(prefix + view.alarm, "meta"))
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
    return Text(text, style={"failed": "red", "done": "green", "meta": "yellow"}.get(state, "dim"))


def open_board(kind: str, labels: Sequence[str], title: str) -> Board:
    """The board for `auto` (live on a terminal, else plain), `live`, `plain` or `json`."""
    if kind == "json":
        return _JsonBoard()
    console = Console(stderr=True)
    if kind == "live" or (kind == "auto" and console.is_terminal):
        return _LiveBoard(labels, title, console)
    return _PlainBoard(labels, title)
