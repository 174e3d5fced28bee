"""Scale: from the RM's scores to the reward that the trainer sees.

`Raw` is the paper's plain sum; it jumps whenever the rubric changes its size. `Normalized` lies in
0 to 1 under every rubric and still jumps, since the next rubric is stricter or milder.
`Anchored` does less: a sample of rollouts keeps the mean and the standard deviation of its reward
through a change, as far as the bounds permit.

A scale has no state. At a switch the meta step scores `anchors` under both rubrics and asks for a
`refit`; the map is stored with the decision, and the scorer passes it to `reward` and `floor`:

    anchors = scale.anchors(known)
    before, after = ...                      # normalized rewards of the anchors, None if unscored
    fitted = scale.refit(before, after, store.scale_map(parent.id))
    reward = scale.reward(rubric, scores, fitted)
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Protocol

from ..records import Case, CriterionScore, ScaleMap
from ..rubric import Rubric

__all__ = [
    "ANCHORS",
    "Anchored",
    "Normalized",
    "Raw",
    "Scale",
    "fit_map",
    "jump",
    "normalized",
    "weighted_sum",
]

ANCHORS = 16
"""Rollouts that are scored under both rubrics at a switch, to undo its jump."""
FIRST_ANCHORS = 4
"""How many of them come from the first step. They are the same at every switch; the others show
what the switch does to the policy as it is."""

LEAST_SPREAD = 0.03
"""Standard deviation of normalized rewards below which the anchors count as all alike: stretching
that to a real spread would amplify the RM's noise."""
SLOPES = (0.5, 2.0)
"""Bounds of a map's slope. Rubrics that grow ever stricter would let it grow without end: after 40
of them a normalized reward of 0.6 was worth 6."""
REWARDS = (-0.5, 1.5)
"""Bounds of an anchored reward. With the least slope of a half, what they cut off the correction is
at most half of the jump that `Normalized` would make."""


class Scale(Protocol):
    """Maps the scores of one rollout to its reward. Subclass it for a scale of your own."""

    name: str
    """Name for messages and the config."""

    def reward(
        self,
        rubric: Rubric,
        scores: Sequence[CriterionScore],
        scale_map: ScaleMap | None = None,
    ) -> float:
        """Reward of a scored rollout.

        Args:
            rubric: The rubric that it was scored under.
            scores: One score per criterion, in the rubric's order.
            scale_map: The rubric's map from the store; None where nothing was fitted.
        """
        ...

    def floor(self, rubric: Rubric, scale_map: ScaleMap | None = None) -> float:
        """Lowest reward under the rubric: what a task rule gives before the RM is asked."""
        ...

    def anchors(self, known: Sequence[Case]) -> list[Case]:
        """Cases to be scored under both rubrics at a switch; none where no map is needed."""
        return []

    def refit(
        self,
        before: Sequence[float | None],
        after: Sequence[float | None],
        previous: ScaleMap | None,
    ) -> ScaleMap | None:
        """The next rubric's map, stored with its decision; None where the scale needs none.

        Args:
            before: Normalized rewards of the anchors under the head; None is unscored.
            after: The same under the next rubric.
            previous: The head's map; None where nothing was fitted.
        """
        return None


def weighted_sum(rubric: Rubric, scores: Sequence[CriterionScore]) -> float:
    """Σ w·s over the criteria."""
    return sum(c.weight * s.score for c, s in zip(rubric.criteria, scores, strict=True))


def normalized(rubric: Rubric, scores: Sequence[CriterionScore]) -> float:
    """Σ w·(s−min) / Σ w·(max−min), 0 to 1."""
    low, high = rubric.score_range
    return (weighted_sum(rubric, scores) - low) / (high - low)


class Normalized(Scale):
    """0 to 1 under every rubric (the default). The paper plots it and trains on the raw sum."""

    name = "normalized"

    def reward(
        self,
        rubric: Rubric,
        scores: Sequence[CriterionScore],
        scale_map: ScaleMap | None = None,
    ) -> float:
        return normalized(rubric, scores)

    def floor(self, rubric: Rubric, scale_map: ScaleMap | None = None) -> float:
        return 0.0


class Raw(Scale):
    """The paper's plain sum (§3.2): grows with the rubric."""

    name = "raw"

    def reward(
        self,
        rubric: Rubric,
        scores: Sequence[CriterionScore],
        scale_map: ScaleMap | None = None,
    ) -> float:
        return weighted_sum(rubric, scores)

    def floor(self, rubric: Rubric, scale_map: ScaleMap | None = None) -> float:
        return rubric.score_range[0]


class Anchored(Scale):
    """`Normalized`, then an affine map per rubric that keeps the anchors' mean and spread.

    Slope and reward are bounded by `SLOPES` and `REWARDS`. The seed rubric has the identity. The
    floor of a rule is the map's value at 0: lower than every reward under the same rubric, though
    not the same number under each.
    """

    name = "anchored"

    def reward(
        self,
        rubric: Rubric,
        scores: Sequence[CriterionScore],
        scale_map: ScaleMap | None = None,
    ) -> float:
        return (scale_map or ScaleMap())(normalized(rubric, scores))

    def floor(self, rubric: Rubric, scale_map: ScaleMap | None = None) -> float:
        return (scale_map or ScaleMap())(0.0)

    def anchors(self, known: Sequence[Case]) -> list[Case]:
        """A few from the first step, always the same, and the others from the latest steps."""
        # The id is a hash: as good as a draw, and the same one in every process.
        graded = sorted(
            (c for c in known if c.judgement.rule is None), key=lambda case: case.rollout.id
        )
        start = min((case.rollout.step for case in known), default=0)
        first = [case for case in graded if case.rollout.step == start]
        later = [case for case in graded if case.rollout.step > start]
        # A stable sort: the latest step first, and within it by id.
        later.sort(key=lambda case: -case.rollout.step)
        recent = later[: ANCHORS - FIRST_ANCHORS]
        return [*first[: ANCHORS - len(recent)], *recent]

    def refit(
        self,
        before: Sequence[float | None],
        after: Sequence[float | None],
        previous: ScaleMap | None,
    ) -> ScaleMap | None:
        return fit_map(before, after, previous)


def fit_map(
    before: Sequence[float | None],
    after: Sequence[float | None],
    previous: ScaleMap | None = None,
) -> ScaleMap:
    """The map under which the anchors keep the mean and standard deviation of their reward.

    Anchors that one of the rubrics left unscored are left out on both sides. Where the anchors
    are all alike under one of the rubrics (or fewer than two are left), no slope can keep the
    spread: the previous slope stays, and the mean alone is kept. With no anchor at all the
    previous map stays as it is. The slope stays within `SLOPES`, and no normalized reward of 0 to
    1 is mapped out of `REWARDS`: where both cannot hold, the spread gives way first, then the mean.

    Args:
        before: Normalized rewards of the anchors under the head, in a fixed order.
        after: The same under the new rubric.
        previous: The head's map; the identity if None.
    """
    old = previous if previous is not None else ScaleMap()
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    if not pairs:
        return ScaleMap(slope=old.slope, offset=old.offset, degenerate=True)
    was, now = [b for b, _ in pairs], [a for _, a in pairs]
    spread_was, spread_now = pstdev(was), pstdev(now)
    degenerate = min(spread_was, spread_now) < LEAST_SPREAD
    slope = old.slope if degenerate else old.slope * spread_was / spread_now
    slope, offset = _bounded(slope, old(fmean(was)), fmean(now))
    return ScaleMap(slope=slope, offset=offset, anchors=len(pairs), degenerate=degenerate)


def _bounded(slope: float, reward: float, at: float) -> tuple[float, float]:
    """The slope and offset nearest to the wanted slope that map `at` to `reward`."""
    (least, most), (low, high) = SLOPES, REWARDS
    if at > 0:
        most = min(most, (reward - low) / at)
    if at < 1:
        most = min(most, (high - reward) / (1 - at))
    slope = max(least, min(most, slope))
    return slope, max(low, min(high - slope, reward - slope * at))


def jump(before: Sequence[float | None], after: Sequence[float | None]) -> dict[str, float]:
    """How the same rollouts' reward changes at a switch, for the log and `Decision.figures`.

    Args:
        before: Rewards in the run's scale under the head; None is unscored and left out.
        after: The same under the new rubric.
    """
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    if not pairs:
        return {}
    was, now = [b for b, _ in pairs], [a for _, a in pairs]
    return {
        "scale_mean_before": fmean(was),
        "scale_mean_after": fmean(now),
        "scale_std_before": pstdev(was),
        "scale_std_after": pstdev(now),
        "scale_jump": fmean(now) - fmean(was),
    }
