"""The outcome of a whole batch, in the form in which a run records it: gold of essays and
summaries, accuracy of verdicts, exact answers."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from mpo.errors import ConfigError
from mpo.judge import AnswerChecker
from mpo.records import Rollout
from mpo.task.rules import boxes

from .environments import ESSAY, environment_of
from .ethics import verdict_accuracy
from .gold import Gold
from .summarization import faithfulness_and_coverage

__all__ = ["SandboxGold"]

Audit = tuple[str, float | None, Mapping[str, float]]
"""Rollout id, value in [0, 1] (None for "no value"), and its parts."""


class SandboxGold:
    """Scores rollouts from outside. What it says is stored beside them and read by nobody else.

    Args:
        task: Name of the task; one that the sandbox does not know is taken for the essays'.
        answers: Compares final answers; for math.

    Raises:
        ConfigError: Math without `answers`.
    """

    def __init__(self, task: str = ESSAY, answers: AnswerChecker | None = None) -> None:
        if task == "math" and answers is None:
            raise ConfigError("exact answers of task 'math' need an AnswerChecker: pass answers=…")
        self._task = task
        self._answers = answers

    @property
    def measure(self) -> str:
        """Name of the measure."""
        return environment_of(self._task).measure

    def score(self, rollouts: Sequence[Rollout]) -> list[Audit]:
        """One audit per rollout, in order."""
        if self._task == "math":
            # Called from within a running loop, which must not be waited for in its own thread.
            with ThreadPoolExecutor(1) as thread:
                return thread.submit(asyncio.run, self._exact(rollouts)).result()
        return [(r.id, *self._one(r)) for r in rollouts]

    def _one(self, rollout: Rollout) -> tuple[float, Mapping[str, float]]:
        if self._task == "ethics":
            return verdict_accuracy(rollout.completion, rollout.columns)
        if self._task == "summarization":
            return faithfulness_and_coverage(rollout.prompt, rollout.completion)
        score = Gold.shared().score(rollout.prompt, rollout.completion)
        return score.value, {"fluency": score.fluency, "facts": score.facts}

    async def _exact(self, rollouts: Sequence[Rollout]) -> list[Audit]:
        assert self._answers is not None
        found: list[Audit] = []
        for rollout in rollouts:
            right = await self._answers.correct(rollout.completion, rollout.columns["solution"])
            given = any(box.content is not None for box in boxes(rollout.completion))
            value = None if right is None else float(right)
            found.append((rollout.id, value, {"answer_given": float(given)}))
        return found
