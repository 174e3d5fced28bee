"""One meta step: from frozen evidence to a ruling, and the thread that it may run in.

    refine (MRM) → lint → repair once (MRM) → gate (RM) → scale

A meta step writes nothing: `EvolvingReward.step` turns its outcome into a decision. So it may run
while training goes on, be given up, or be done again from the same evidence.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ..chat import Chat
from ..errors import ChatError, MetaStepError
from ..judge import RewardModel
from ..judge.injection_flags import RubricWatch
from ..judge.scale import Scale, jump, normalized
from ..records import Case, Proposal, Refinement, ScaleMap, Usage
from ..rubric import Rubric
from ..task import Task
from .gate import Gate, ProbeScorer
from .lint import Finding, has_errors, lint, missing_criteria
from .meta_reward_model import MetaRewardModel
from .mrm_cases import Evidence

__all__ = ["Background", "MetaStep", "Outcome"]

SUSPECT = ("grader_directed", "control_string", "url")
"""Warnings that the MRM is asked to mend all the same: what a rubric says to its grader came from a
text that it was written on, or from a model that was talked round."""

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome:
    """What a meta step came to."""

    accepted: bool
    reason: str
    refinement: Refinement | None = None
    evidence: Evidence | None = None
    """What the MRM saw; None where the choice itself failed."""
    figures: dict[str, float] = field(default_factory=dict)
    """Of lint, gate and scale, by name."""
    scale_map: ScaleMap | None = None
    """Map of the proposal, where it was accepted and the scale needs one."""
    findings: tuple[str, ...] = ()
    """What lint found in the proposal that was ruled on, one line each."""
    usage: Usage = field(default_factory=Usage)
    """Of the MRM, failed calls that were billed included."""
    rm_usage: Usage = field(default_factory=Usage)
    """Of the RM, asked by gate and scale."""


@dataclass
class _Draft:
    """What a meta step has so far; a failure keeps what came before it."""

    meter: RubricWatch
    evidence: Evidence | None = None
    refinement: Refinement | None = None
    figures: dict[str, float] = field(default_factory=dict)
    scale_map: ScaleMap | None = None
    findings: tuple[str, ...] = ()
    asked: Usage = field(default_factory=Usage)
    """Usage of the RM, by gate and scale."""


@dataclass
class MetaStep:
    """Runs meta steps.

    Args:
        task: Gives the limits that lint checks against.
        chat: The MRM's, unmetered.
        model: Rewrites the rubric.
        reward_model: Asked for the anchors, and by the gate.
        gate: Rules on proposals.
        scale: Of the run.
        checks: Lint proposals, have the MRM mend one with faults once, and refuse what has errors
            even then.
    """

    task: Task
    chat: Chat
    model: MetaRewardModel
    reward_model: RewardModel
    gate: Gate
    scale: Scale
    checks: bool = True
    head_map: ScaleMap | None = None
    """The head's map, for the scale."""

    async def run(
        self,
        choice: Callable[[MetaRewardModel], Awaitable[Evidence]],
        parent: Rubric,
        known: Sequence[Case],
        *,
        seed: int,
    ) -> Outcome:
        """From evidence to a ruling. A failure of a model is an outcome, not an error.

        Args:
            choice: Picks the evidence; may ask the model that it is given (the prescreen).
            parent: The rubric in force.
            known: Recent and early cases, for the gate.
            seed: Of the model calls.

        Raises:
            StoreError: A cache in the store cannot be read or written.
            BudgetError: The budget is spent.
        """
        draft = _Draft(RubricWatch(self.chat))
        try:
            accepted, reason = await self._rule(draft, choice, parent, known, seed)
        except (ChatError, MetaStepError) as error:
            accepted, reason = False, f"the meta step failed: {error}"
        return Outcome(
            accepted=accepted,
            reason=reason,
            refinement=draft.refinement,
            evidence=draft.evidence,
            figures=draft.figures,
            scale_map=draft.scale_map,
            findings=draft.findings,
            usage=draft.meter.usage,
            rm_usage=draft.asked,
        )

    async def _rule(
        self,
        draft: _Draft,
        choice: Callable[[MetaRewardModel], Awaitable[Evidence]],
        parent: Rubric,
        known: Sequence[Case],
        seed: int,
    ) -> tuple[bool, str]:
        model = self.model.using(draft.meter)
        draft.evidence = evidence = await choice(model)
        draft.refinement = await model.run(evidence, parent, seed=seed)
        draft.refinement, found = await self._mended(
            model, draft.refinement, evidence, parent, seed
        )
        draft.findings = tuple(str(finding) for finding in found)
        draft.figures |= _counts(found) | draft.meter.figures(draft.refinement.rubric)
        if has_errors(found):
            return False, f"refused by lint: {next(f for f in found if f.severity == 'error')}"
        ruling = await self.gate.check(parent, draft.refinement, known)
        draft.figures |= ruling.figures
        draft.asked = draft.asked + ruling.usage
        if ruling.accepted:
            usage = await self._scaled(draft, parent, draft.refinement.rubric, known)
            draft.asked = draft.asked + usage
        return ruling.accepted, ruling.reason

    async def _mended(
        self,
        model: MetaRewardModel,
        refinement: Refinement,
        evidence: Evidence,
        parent: Rubric,
        seed: int,
    ) -> tuple[Refinement, list[Finding]]:
        """The proposal, or what the MRM made of it when shown its faults, with what lint finds.

        Words to the grader, links and control strings are shown to it too. They are warnings: they
        refuse nothing. A repair that fails, breaks something or loses a criterion that had no fault
        is not taken: the proposal stays as it was.
        """
        if not self.checks:
            return refinement, []
        found = self._lint(refinement, parent, evidence)
        faults = [str(f) for f in found if f.severity == "error" or f.code in SUSPECT]
        if not faults:
            return refinement, found
        broken = Proposal(
            rollout_id=refinement.evidence[0] if refinement.evidence else "",
            rubric=refinement.rubric,
            reasons=refinement.reasons,
        )
        try:
            mended = await model.repair(broken, faults, parent, seed=seed + 1)
        except ChatError:
            if has_errors(found):
                raise
            return refinement, found
        after = refinement.model_copy(update={"rubric": mended.rubric, "reasons": mended.reasons})
        left = self._lint(after, parent, evidence)
        worse = has_errors(left) and not has_errors(found)
        faulty = {f.criterion for f in found if f.severity == "error" or f.code in SUSPECT}
        sound = [c for n, c in enumerate(refinement.rubric.criteria, start=1) if n not in faulty]
        if worse or missing_criteria(sound, after.rubric):
            return refinement, found
        return after, left

    def _lint(self, refinement: Refinement, parent: Rubric, evidence: Evidence) -> list[Finding]:
        return lint(
            refinement.rubric,
            task=self.task,
            parent=parent,
            evidence=evidence.cases,
            reasons=refinement.reasons,
        )

    async def _scaled(
        self, draft: _Draft, parent: Rubric, rubric: Rubric, known: Sequence[Case]
    ) -> Usage:
        """Fit the map that keeps the anchors' reward through the switch, where the scale asks."""
        anchors = self.scale.anchors(known)
        panel = ProbeScorer(self.reward_model, self.task, normalized)
        panel.know(anchors, parent)
        texts = [case.rollout for case in anchors]
        before, after = await panel.scores(texts, parent), await panel.scores(texts, rubric)
        old = self.head_map if self.head_map is not None else ScaleMap()
        new = draft.scale_map = self.scale.refit(before, after, self.head_map)
        if new is not None:
            draft.figures |= jump(
                [None if reward is None else old(reward) for reward in before],
                [None if reward is None else new(reward) for reward in after],
            )
        return panel.usage


def _counts(findings: Sequence[Finding]) -> dict[str, float]:
    """`lint.<code>` → how often; empty where nothing was found."""
    counts: dict[str, float] = {}
    for finding in findings:
        name = f"lint.{finding.code}"
        counts[name] = counts.get(name, 0.0) + 1.0
    return counts


class Background:
    """A thread with an event loop of its own, started on first use.

    A trainer's loop may live only as long as one call, and a meta step outlives several: it needs
    a loop that nobody else closes. Not carried over by pickling or forking; the copy starts anew.
    """

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Background], tuple[()]]:
        return Background, ()

    @property
    def started(self) -> bool:
        return self._loop is not None

    def submit(self, work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Start work; the future may be awaited from any loop with `asyncio.wrap_future`."""
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=self._loop.run_forever, name="mpo-meta-step", daemon=True
                ).start()
        return asyncio.run_coroutine_threadsafe(work, self._loop)
