"""Grading by the final answer alone: no model is asked (arXiv 2504.20157, §3.3.3).

Half of the rollouts of a math task are graded so. The paper says "selected at random"; the
published code tosses one coin for a whole batch, so that a batch's rewards depend on it. Here the
default draws for each rollout; `per_batch` keeps the coin.
"""

from __future__ import annotations

from typing import Protocol

from ..records import CriterionScore, Rollout, content_hash
from ..rubric import Rubric
from ..sanitize import Cleaned
from ..task import Task
from .base import JudgeResult, RewardModel, judge_identity, seeded_random

__all__ = ["AnswerChecked", "AnswerChecker"]

ANSWER_PROTOCOL = "answer_only"
"""`JudgeResult.protocol` where the answer decided: the record of the draw."""


class AnswerChecker(Protocol):
    """Compares final answers; `mpo.task.answers.BoxedAnswers` does it for math."""

    async def correct(self, completion: str, reference: str) -> bool | None:
        """Compare the completion's final answer with the reference's.

        Args:
            completion: The policy's text.
            reference: The reference answer, or a solution that ends in it.

        Returns:
            True if they are equal; None if the reference has no answer that can be compared. A
            completion without an answer is wrong.
        """
        ...


class AnswerChecked:
    """A reward model that lets the final answer decide for some rollouts.

    Those get the highest or the lowest score of every criterion.

    Args:
        inner: Grades the others.
        task: Says how many, and which column holds the reference.
        answers: Compares final answers.
        seed: Random seed for the draw.
    """

    def __init__(
        self, inner: RewardModel, task: Task, answers: AnswerChecker, *, seed: int = 0
    ) -> None:
        self._inner = inner
        self._task = task
        self._answers = answers
        self._seed = seed
        self.protocol = inner.protocol

    @property
    def model(self) -> str:
        return self._inner.model

    @property
    def identity(self) -> str:
        return judge_identity(self._inner)

    @property
    def template_hash(self) -> str:
        rm = self._task.spec.rm
        return content_hash([self._inner.template_hash, rm.answer_check, rm.answer_share], 12)

    def by_answer(self, rollout: Rollout) -> bool:
        """True where the draw lets the answer decide. The same in every process."""
        rm = self._task.spec.rm
        batch = (rollout.mode, rollout.step)
        unit = (rollout.id,) if rm.answer_check == "per_rollout" else batch
        return seeded_random(self._seed, "answer_check", *unit).random() < rm.answer_share

    async def judge(
        self, rollout: Rollout, rubric: Rubric, cleaned: Cleaned | None = None
    ) -> JudgeResult:
        if not self.by_answer(rollout):
            return await self._inner.judge(rollout, rubric, cleaned)
        reference = self._task.reference_answer(rollout.columns)
        correct = await self._answers.correct(rollout.completion, reference)
        if correct is None:  # a proof, say: nothing to compare
            return await self._inner.judge(rollout, rubric, cleaned)
        rationale = "Graded by the final answer alone: it is " + (
            "the reference's." if correct else "not the reference's, or missing."
        )
        best = -1 if correct else 0
        scores = tuple(
            CriterionScore(criterion=key, score=criterion.scores[best], rationale=rationale)
            for key, criterion in rubric.keyed
        )
        return JudgeResult(scores=scores, protocol=ANSWER_PROTOCOL)
