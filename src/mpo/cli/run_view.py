"""A run's state while it works: events, and the view that they add up to.

A run speaks in events, JSON objects with a `kind`:

    {"kind": "status", "message": …}
    {"kind": "step", "step": 3, "steps": 140, "reward": 0.61, "gold": 0.7, …}
    {"kind": "meta", "due": [10]}: updates whose meta step is under way; [] when none is any more
    {"kind": "done"} or {"kind": "failed", "message": …}
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..reward import EvolvingReward
from ..store import Store
from ..training.reporting import StepReport

__all__ = ["Ages", "Event", "PendingStepsWatch", "RunView", "Spending", "step_event"]

Event = Mapping[str, Any]


class Age(NamedTuple):
    """A rubric in effect."""

    number: int
    """Place in the order in which the run's rubrics first took effect; 0 is the seed, as in
    `mpo replay` and the report."""
    since: int
    """Update after which it took effect."""
    title: str
    """At most 40 printable characters: a model may have written it."""


class Ages:
    """Number, beginning and title of the rubric in effect, also in a run that was continued.

    Args:
        store: The run's store.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: tuple[str, Age] = ("", Age(0, 0, ""))

    def of(self, rubric: str) -> Age:
        """Number, beginning and title of the rubric with this id."""
        # The lineage holds every analysis: it is read when the rubric changes, not at each step.
        if self._known[0] != rubric:
            accepted = [d for d in self._store.lineage() if d.accepted]
            distinct = list(dict.fromkeys(d.proposed for d in accepted))
            number = distinct.index(rubric) if rubric in distinct else len(distinct)
            since = max((d.step for d in accepted if d.proposed == rubric), default=0)
            self._known = (rubric, Age(number, since, _title(self._store.rubric(rubric).title)))
        return self._known[1]


def _title(text: str) -> str:
    # What is not printable could move the cursor, or colour the screen.
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:40]


def step_event(
    report: StepReport, ages: Ages, costs: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A step of the trainer as an event. Without long texts of a model: it must fit a line.

    Args:
        report: The trainer's report of the step.
        ages: Ages of the run's rubrics.
        costs: Use by role since the run began.
    """
    decision = report.decision
    age = ages.of(report.rubric_id)
    return {
        "kind": "step",
        "step": report.step,
        "steps": report.steps,
        "reward": report.reward,
        "gold": report.gold,
        "audit": report.audit,
        "unscored": report.unscored,
        "words": report.words,
        "kl": report.kl,
        "rubric": report.rubric_id,
        "rubric_number": age.number,
        "rubric_since": age.since,
        "rubric_title": age.title,
        "cost": Spending.of(costs).to_json(),
        "seconds": report.seconds,
        "accepted": None if decision is None else decision.accepted,
        "reason": None if decision is None else " ".join(decision.reason.split())[:200],
    }


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

    def to_json(self) -> dict[str, float | None]:
        """JSON values."""
        return {"calls": self.calls, "tokens": self.tokens, "usd": self.usd}

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
    meta: list[int] = field(default_factory=list)
    """Updates whose meta step is under way."""
    spent: Spending = field(default_factory=Spending)
    """Since the run began, in all processes that continued it."""
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
        seconds = (self.steps - self.step) * sum(self.pace) / len(self.pace)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class PendingStepsWatch:
    """Tells of meta steps under way while its block lasts, from a thread: one that training waits
    for cannot tell of itself.

    Args:
        reward: The run's reward.
        tell: Receives the updates whose meta step is under way, whenever they change.
        every_s: Seconds between two looks; a shorter meta step may be missed.
    """

    def __init__(
        self, reward: EvolvingReward, tell: Callable[[list[int]], None], every_s: float = 0.5
    ) -> None:
        self._reward, self._tell, self._every_s = reward, tell, every_s
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="mpo-meta", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        known: list[int] = []
        while not self._over.wait(self._every_s):
            due = self._reward.pending_steps
            if due != known:
                self._tell(due)
                known = due
