"""Scale: from the RM's scores to the reward that the trainer sees (DESIGN §5)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .records import CriterionScore
from .rubric import Rubric

__all__ = ["Normalized", "Raw", "Scale", "normalized", "weighted_sum"]


class Scale(Protocol):
    """Maps scores of one rollout to its reward."""

    name: str

    def reward(self, rubric: Rubric, scores: Sequence[CriterionScore]) -> float:
        """Reward of a scored rollout; `scores` in the rubric's order."""
        ...

    def floor(self, rubric: Rubric) -> float:
        """Lowest reward under the rubric: what a rule gives that fires before the RM is asked."""
        ...


def weighted_sum(rubric: Rubric, scores: Sequence[CriterionScore]) -> float:
    """Σ w·s over the criteria."""
    return sum(c.weight * s.score for c, s in zip(rubric.criteria, scores, strict=True))


def normalized(rubric: Rubric, scores: Sequence[CriterionScore]) -> float:
    """Σ w·(s−min) / Σ w·(max−min), 0 to 1."""
    low, high = rubric.score_range
    return (weighted_sum(rubric, scores) - low) / (high - low)


class Normalized:
    """0 to 1 under every rubric (the default). The paper plots it and trains on the raw sum."""

    name = "normalized"

    def reward(self, rubric: Rubric, scores: Sequence[CriterionScore]) -> float:
        return normalized(rubric, scores)

    def floor(self, rubric: Rubric) -> float:
        return 0.0


class Raw:
    """The paper's plain sum (§3.2): grows with the rubric."""

    name = "raw"

    def reward(self, rubric: Rubric, scores: Sequence[CriterionScore]) -> float:
        return weighted_sum(rubric, scores)

    def floor(self, rubric: Rubric) -> float:
        return rubric.score_range[0]
