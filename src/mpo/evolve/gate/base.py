"""The gate protocol, and the scoring of probes that gates have in common."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from ...judge import RewardModel, judge_identity
from ...records import Case, CriterionScore, Refinement, Rollout, Usage, total_usage
from ...rubric import Rubric
from ...sanitize import clean
from ...task import Task
from ...task.rules import first_rule

__all__ = ["Gate", "GateResult", "ProbeScorer", "Share"]

Share = Callable[[Rubric, Sequence[CriterionScore]], float]
"""Function from scores to 0..1: `mpo.judge.scale.normalized`. A gate compares rubrics on one
scale."""


@dataclass(frozen=True)
class GateResult:
    """A gate's answer."""

    accepted: bool
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """Measurements by name, stored with the decision."""
    usage: Usage = field(default_factory=Usage)
    """Usage of the RM; part of the meta step's."""


class Gate(Protocol):
    """Decides whether a proposal takes effect."""

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        """Decide on `refinement.rubric`, which would follow `parent`.

        Args:
            parent: The head.
            refinement: The proposal, with everything that led to it.
            evidence: Recent rollouts with their judgements, and those of the first step.

        Raises:
            MPOError: The gate could not decide: the head stays where it was.
        """
        ...


@dataclass
class ProbeScorer:
    """Scores texts that are no rollouts of the run, under any rubric.

    Nothing of it is stored: a text made here reaches neither the store nor the MRM, so that the
    MRM cannot write for the probes. The same text under the same rubric is scored once.
    """

    reward_model: RewardModel
    task: Task
    share: Share
    asked: int = 0
    """Judgements that the RM gave; those of a rule or of the run cost nothing."""
    unscored: int = 0
    usages: list[Usage] = field(default_factory=list)
    _known: dict[tuple[str, str, str], float | None] = field(default_factory=dict)

    @property
    def usage(self) -> Usage:
        return total_usage(self.usages)

    def know(self, cases: Iterable[Case], rubric: Rubric) -> None:
        """Take over judgements that the run has paid for, by this very model under this very
        rubric: scores of two models cannot be compared."""
        identity = judge_identity(self.reward_model)
        for case in cases:
            judgement = case.judgement
            if judgement.answered_by not in ("", identity):
                continue
            if judgement.rubric_id == rubric.id and judgement.normalized_reward is not None:
                self._known[_key(case.rollout, rubric)] = judgement.normalized_reward

    async def scores(self, rollouts: Sequence[Rollout], rubric: Rubric) -> list[float | None]:
        """Normalized reward of each rollout, in order; None where the RM gave no usable answer."""
        fresh = {_key(r, rubric): r for r in rollouts if _key(r, rubric) not in self._known}
        answers = await _all([self._one(r, rubric) for r in fresh.values()])
        self._known.update(zip(fresh, answers, strict=True))
        return [self._known[_key(r, rubric)] for r in rollouts]

    async def _one(self, rollout: Rollout, rubric: Rubric) -> float | None:
        if first_rule(self.task.spec, clean(rollout.completion)) is not None:
            return 0.0  # the floor of every scale, without a call
        result = await self.reward_model.judge(rollout, rubric)
        self.asked += 1
        self.usages.append(result.usage)
        if result.unscored is not None:
            self.unscored += 1
            return None
        return self.share(rubric, result.scores)


async def _all(calls: Sequence[Coroutine[Any, Any, float | None]]) -> list[float | None]:
    """Run all calls at once; the chat limits the requests in flight. An error ends the rest."""
    tasks = [asyncio.create_task(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _key(rollout: Rollout, rubric: Rubric) -> tuple[str, str, str]:
    return rollout.prompt, rollout.completion, rubric.id
