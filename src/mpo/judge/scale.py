"""Scale: from the RM's scores to the reward that the trainer sees (DESIGN §5).

`Raw` is the paper's plain sum; it jumps whenever the rubric changes its size. `Normalized` lies in
0 to 1 under every rubric and still jumps, since the next rubric is stricter or milder.
`Anchored` does not: a fixed sample of rollouts keeps the mean and the standard deviation of its
reward through every change.

    shares_before = [normalized(old, …) for the anchors]      # known since `old` came into force
    shares_after = [normalized(new, …) for the anchors]       # one judgement per anchor
    fitted = fit_map(new.id, shares_before, shares_after, scale.map(old.id))
    decision.figures |= fitted.figures()                      # so it survives with the decision
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Protocol

from ..records import CriterionScore
from ..rubric import Rubric

__all__ = [
    "Anchored",
    "Normalized",
    "Raw",
    "Scale",
    "ScaleMap",
    "fit_map",
    "jump",
    "normalized",
    "weighted_sum",
]

LEAST_SPREAD = 1e-3
"""Standard deviation of shares below which the anchors count as all alike: stretching that to a
real spread would blow up the RM's noise a hundredfold."""


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


@dataclass(frozen=True)
class ScaleMap:
    """reward = slope · share + offset, for one rubric; and what it was fitted to."""

    rubric_id: str
    slope: float = 1.0
    offset: float = 0.0
    anchors: int = 0
    """Rollouts scored under both rubrics; 0 for a rubric that nothing was fitted for."""
    degenerate: bool = False
    """One of the two spreads was nil: the mean is kept, the standard deviation is not."""

    def __call__(self, share: float) -> float:
        return self.slope * share + self.offset

    def figures(self) -> dict[str, float]:
        """For `Decision.figures`: the map is stored with the decision that it belongs to."""
        return {
            "scale_slope": self.slope,
            "scale_offset": self.offset,
            "scale_anchors": float(self.anchors),
            "scale_degenerate": float(self.degenerate),
        }

    @classmethod
    def from_figures(cls, rubric_id: str, figures: Mapping[str, float]) -> ScaleMap | None:
        """The map of a stored decision, bit for bit; None where it has none."""
        if "scale_slope" not in figures or "scale_offset" not in figures:
            return None
        return cls(
            rubric_id=rubric_id,
            slope=figures["scale_slope"],
            offset=figures["scale_offset"],
            anchors=int(figures.get("scale_anchors", 0)),
            degenerate=bool(figures.get("scale_degenerate", 0)),
        )


def fit_map(
    rubric_id: str,
    before: Sequence[float | None],
    after: Sequence[float | None],
    previous: ScaleMap | None = None,
) -> ScaleMap:
    """The map under which the anchors keep the mean and standard deviation of their reward.

    Anchors that one of the rubrics left unscored are left out on both sides. Where the anchors
    are all alike under one of the rubrics (or fewer than two are left), no slope can keep the
    spread: the previous slope stays, and the mean alone is kept. With no anchor at all the
    previous map stays as it is.

    Args:
        rubric_id: The rubric that comes into force.
        before: Shares (0..1) of the anchors under the head, in a fixed order.
        after: The same under the new rubric.
        previous: The head's map; the identity if None.
    """
    old = previous if previous is not None else ScaleMap("")
    pairs = [(b, a) for b, a in zip(before, after, strict=True) if b is not None and a is not None]
    if not pairs:
        return ScaleMap(rubric_id, old.slope, old.offset, 0, degenerate=True)
    was, now = [b for b, _ in pairs], [a for _, a in pairs]
    spread_was, spread_now = pstdev(was), pstdev(now)
    degenerate = min(spread_was, spread_now) < LEAST_SPREAD
    slope = old.slope if degenerate else old.slope * spread_was / spread_now
    offset = old(fmean(was)) - slope * fmean(now)
    return ScaleMap(rubric_id, slope, offset, len(pairs), degenerate)


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


class Anchored:
    """`Normalized`, then an affine map per rubric that keeps the anchors' mean and spread.

    The seed rubric has the identity. The floor of a rule is the map's value at share 0: lower
    than every reward under the same rubric, though not the same number under each.

    Args:
        lookup: Map of a rubric id; None where there is none. It reads the store's decisions, so
            that every rank and every resumed run sees the same map.
    """

    name = "anchored"

    def __init__(self, lookup: Callable[[str], ScaleMap | None] = lambda rubric_id: None) -> None:
        self._lookup = lookup

    def map(self, rubric_id: str) -> ScaleMap:
        """The rubric's map; the identity where none was fitted."""
        found = self._lookup(rubric_id)
        return found if found is not None else ScaleMap(rubric_id)

    def reward(self, rubric: Rubric, scores: Sequence[CriterionScore]) -> float:
        return self.map(rubric.id)(normalized(rubric, scores))

    def floor(self, rubric: Rubric) -> float:
        return self.map(rubric.id)(0.0)
