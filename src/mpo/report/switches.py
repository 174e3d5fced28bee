"""Switches of the rubric: the mean before and after, in points and as a share of the points.

A plain sum of points jumps whenever the rubric changes its size, with the same policy (in the
published run from 3.35 of 5 to 30.9 of 52, notes on the paper's Fig. 4). The share of the points
that can be had does not, so the two side by side tell a change of scale from one of quality.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..records import Decision
from ..rubric import Rubric
from ..store import StepSummary

__all__ = ["Switch", "find_switches", "number_rubrics"]

SIDE = 5
"""Steps on each side of a switch that are compared, where the rubric held for so many."""
SCALE = 1.25
"""The attainable points changed by this factor or more: the sums before and after are in other
units."""


@dataclass(frozen=True)
class Switch:
    """Another rubric came into force."""

    index: int
    """Of its decision in the lineage."""
    step: int
    cohort: str
    old: int | None
    """Number of the rubric before; None where it was never in force."""
    new: int
    old_range: tuple[float, float]
    """Least and most points."""
    new_range: tuple[float, float]
    share_before: float | None
    """Mean normalized reward, 0 to 1, on the last steps under the old rubric; None: not known."""
    share_after: float | None

    @property
    def points_before(self) -> float | None:
        """The paper's plain sum, in the old rubric's points."""
        return _points(self.share_before, self.old_range)

    @property
    def points_after(self) -> float | None:
        """The same in the new rubric's points."""
        return _points(self.share_after, self.new_range)

    @property
    def rescaled(self) -> bool:
        """The points that can be had changed so much that sums cannot be compared."""
        old, new = (high - low for low, high in (self.old_range, self.new_range))
        return max(old, new) >= SCALE * min(old, new)


def number_rubrics(decisions: Sequence[Decision]) -> dict[tuple[str, str], int]:
    """Rubrics that came into force, numbered from 0 (the seed) in each cohort's order."""
    numbers: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}
    for decision in decisions:
        key = (decision.cohort, decision.proposed or "")
        if decision.accepted and decision.proposed and key not in numbers:
            numbers[key] = counts.get(decision.cohort, 0)
            counts[decision.cohort] = numbers[key] + 1
    return numbers


def find_switches(
    decisions: Sequence[Decision],
    steps: Mapping[str, Sequence[StepSummary]],
    rubrics: Mapping[str, Rubric],
    numbers: Mapping[tuple[str, str], int],
) -> list[Switch]:
    """All switches of a run, oldest first.

    Args:
        decisions: The lineage.
        steps: What each step's rollouts got, by cohort.
        rubrics: By id.
        numbers: As `number_rubrics`.
    """
    found = []
    for index, decision in enumerate(decisions):
        parent, proposed = decision.parent, decision.proposed
        if not decision.accepted or parent is None or proposed is None or parent == proposed:
            continue
        of_cohort = steps[decision.cohort]
        before, after = _around(of_cohort, parent, proposed, decision.step)
        found.append(
            Switch(
                index=index,
                step=decision.step,
                cohort=decision.cohort,
                old=numbers.get((decision.cohort, parent)),
                new=numbers[decision.cohort, proposed],
                old_range=rubrics[parent].score_range,
                new_range=rubrics[proposed].score_range,
                share_before=before,
                share_after=after,
            )
        )
    return found


def _around(
    steps: Sequence[StepSummary], parent: str, proposed: str, at: int
) -> tuple[float | None, float | None]:
    """Mean shares of the last steps under one rubric, and the first under the next."""
    alone = [s for s in steps if len(s.rubric_ids) == 1 and s.mean_normalized is not None]
    before = [s for s in alone if s.rubric_ids[0] == parent and s.step <= at][-SIDE:]
    after = [s for s in alone if s.rubric_ids[0] == proposed and s.step >= at][:SIDE]
    return _mean(before), _mean(after)


def _mean(steps: Sequence[StepSummary]) -> float | None:
    return (
        fmean(s.mean_normalized for s in steps if s.mean_normalized is not None) if steps else None
    )


def _points(share: float | None, limits: tuple[float, float]) -> float | None:
    low, high = limits
    return None if share is None else low + share * (high - low)
