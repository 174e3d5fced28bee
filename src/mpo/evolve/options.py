"""`Evolve`: when and how the rubric is rewritten. Options of `EvolvingReward`, and the config's
`meta:`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from ..judge import RewardModel
from ..judge.options import name_or_object
from ..judge.scale import normalized
from ..task import Task
from .gate import AllOf, Always, Gate, Pairs, Probes, load_pairs
from .meta_reward_model import AnalysisMode
from .schedule import SELECTIONS, Every, Never, Schedule, Selection

__all__ = ["Evolve"]


class Evolve(BaseModel):
    """When and from what the rubric is rewritten, and what a proposal must pass.

    The defaults are checked: no proposal takes effect before linter and gate have seen it, and
    canaries watch the rubric that took effect. `Evolve.paper()` is the published method, unchecked.

    Raises:
        pydantic.ValidationError: An unknown name, or a value out of range (a `ValueError`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    every: int | Schedule | None = 10
    """Updates between meta steps, at least 1 (paper §3.2: 10 for essays). None: the schedule asks
    for none, and the seed rubric stays in effect. In Python also an object that satisfies
    `mpo.evolve.schedule.Schedule`."""
    samples: int = Field(default=16, ge=1)
    """Rollouts per meta step."""
    selection: Literal["uniform", "stratified", "prescreen", "prescreen+uniform"] | Selection = (
        "uniform"
    )
    """How they are picked; `prescreen` has the MRM label all of them first. In Python also an
    object that satisfies `mpo.evolve.schedule.Selection`."""
    context_cases: int = Field(default=6, ge=0)
    """Other cases of the sample that the MRM sees beside each."""
    baseline_cases: int = Field(default=6, ge=0)
    """Cases from the start of the run that it sees for comparison."""
    gate: str | Gate | tuple[str | Gate, ...] = "probes"
    """The gate decides whether a proposal becomes the rubric: `always` (the paper), `probes`,
    `pairs:FILE` (labelled preference pairs), or a list of which all must accept. In Python also
    objects that satisfy `mpo.evolve.gate.Gate`."""
    lint: bool = True
    """Check proposals without a model, have the MRM fix one with errors once, then refuse it."""
    delay: int = Field(default=4, ge=0)
    """Updates between a meta step's start and its decision; it runs in the background meanwhile.
    0 waits for it (the paper)."""
    canaries: bool | None = None
    """Read texts of known rank after each rubric change, and go back to an earlier rubric where
    they fail twice in a row (`mpo.watch`). None: on where proposals are checked, i.e. with any gate
    but `always`."""
    alarm_distance: int | None = Field(default=None, ge=1)
    """A monitor's alarm calls for a meta step too, at least so many updates after the last one;
    alarms only inform if None."""
    analysis: AnalysisMode = "per_case"
    """An analysis per case and one merge, or one of all cases and no merge (the paper's math)."""
    rationales: bool = True
    """Show the MRM scores and rationales per criterion; the published code shows the total."""

    @classmethod
    def paper(cls, **changes: Any) -> Evolve:
        """The published method (arXiv 2504.20157): every proposal takes effect at once, unchecked,
        and the MRM sees one case at a time with its total score.

        Args:
            changes: Fields that differ from it.
        """
        published = {
            "gate": "always",
            "lint": False,
            "canaries": False,
            "delay": 0,
            "context_cases": 0,
            "baseline_cases": 0,
            "rationales": False,
        }
        return cls(**{**published, **changes})

    # ------------------------------------------------------------------ checks

    @field_validator("every", mode="plain")
    @classmethod
    def _known_schedule(cls, every: Any) -> Any:
        if every is None or callable(getattr(every, "due", None)):
            return every
        if not isinstance(every, int) or isinstance(every, bool) or every < 1:
            raise ValueError(f"should be an integer of at least 1, or null, not {every!r:.80}")
        return every

    @field_validator("selection", mode="plain")
    @classmethod
    def _known_selection(cls, selection: Any) -> Any:
        return name_or_object(selection, SELECTIONS, ("pick", "needs_labels"))

    @field_validator("gate", mode="plain")
    @classmethod
    def _known_gate(cls, gate: Any) -> Any:
        if not isinstance(gate, list | tuple):
            return _one_gate(gate)
        if not gate:
            raise ValueError(f"an empty list names no gate; write {_GATE_CHOICES}")
        return tuple(_one_gate(part) for part in gate)

    @model_validator(mode="after")
    def _one_at_a_time(self) -> Evolve:
        if isinstance(self.every, int) and self.delay >= self.every:
            raise ValueError(
                f"delay={self.delay} must be below every={self.every}: a meta step is "
                "decided before the next one starts"
            )
        return self

    # ------------------------------------------------------------------ what the names stand for

    @property
    def gates(self) -> tuple[str | Gate, ...]:
        """The gates of which all must accept."""
        return self.gate if isinstance(self.gate, tuple) else (self.gate,)

    @property
    def reads_canaries(self) -> bool:
        """True where canaries are read: as `canaries` says, or where rubrics change and a gate
        checks them. Under `always` nothing stands in the way of a proposal (the paper)."""
        if self.canaries is not None:
            return self.canaries
        schedule = self.make_schedule()
        changes = not isinstance(schedule, Never) or self.alarm_distance is not None
        return changes and any(gate != "always" for gate in self.gates)

    def make_schedule(self) -> Schedule:
        """The schedule that `every` stands for, or the caller's own."""
        if self.every is None:
            return Never()
        return Every(self.every) if isinstance(self.every, int) else self.every

    def make_selection(self) -> Selection:
        """The selection that `selection` names, or the caller's own."""
        return SELECTIONS[self.selection]() if isinstance(self.selection, str) else self.selection

    def make_gate(self, reward_model: RewardModel, task: Task, seed: int) -> Gate:
        """The gate that `gate` names, or the caller's own.

        Args:
            reward_model: The RM that the gate asks.
            task: Its rules and prompts are the RM's.
            seed: Random seed for the gate's draws.

        Raises:
            DataError: A file of pairs cannot be read.
        """
        gates = [_make_gate(gate, reward_model, task, seed) for gate in self.gates]
        return gates[0] if len(gates) == 1 else AllOf(gates)


_GATE_CHOICES = "always, probes, pairs:FILE, or a list of these"


def _one_gate(gate: Any) -> Any:
    if isinstance(gate, str):
        kind, _, argument = gate.partition(":")
        known = gate in ("always", "probes") or (kind == "pairs" and argument != "")
    else:
        known = callable(getattr(gate, "check", None)) and not isinstance(gate, type)
    if not known:
        raise ValueError(
            f"unknown gate {gate!r:.80}; write {_GATE_CHOICES}, or pass an object with check()"
        )
    return gate


def _make_gate(gate: str | Gate, reward_model: RewardModel, task: Task, seed: int) -> Gate:
    if not isinstance(gate, str):
        return gate
    if gate == "always":
        return Always()
    if gate == "probes":
        return Probes(reward_model, task, normalized, seed=seed)
    pairs = load_pairs(Path(gate.partition(":")[2]))
    return Pairs(reward_model, task, normalized, pairs, seed=seed)
