"""How well scores rank texts as people did, before and after a change of rubric.

Three figures, none of which cares on what scale either side scored: Spearman's rho, Kendall's
tau-b, and the share of pairs that are ranked alike (a tie of the scores counts half; pairs that
people scored alike are left out). Intervals are from a bootstrap over prompts.

All of it is products of a resample's weights with matrices of signs, so 1,000 resamples are a few
matrix products. scipy is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .bootstrap import RESAMPLES, Interval, cluster_numbers, draws
from .numeric import Floats, np

__all__ = ["FIGURES", "MOST", "Alike", "Ranks", "compare_rankings"]

FIGURES = ("spearman", "kendall", "pairwise")
MOST = 1500
"""Rows that are compared; of more, as many at random: the signs of all pairs are held at once."""


@dataclass(frozen=True)
class Ranks:
    """Agreement of one column of scores with people's. A figure is None where it is not defined:
    one side scored everything alike."""

    spearman: Interval | None
    kendall: Interval | None
    pairwise: Interval | None
    """0 to 1; 0.5 for scores that know nothing."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {name: _json(getattr(self, name)) for name in FIGURES}


@dataclass(frozen=True)
class Alike:
    """Before and after, on the same rows."""

    n: int
    """Rows that people scored, and that have a score before and after."""
    prompts: int
    before: Ranks
    after: Ranks
    change: Ranks
    """After minus before, with the interval of the difference."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "n": self.n,
            "prompts": self.prompts,
            "before": self.before.to_json(),
            "after": self.after.to_json(),
            "change": self.change.to_json(),
        }


def _json(interval: Interval | None) -> dict[str, float | None] | None:
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def compare_rankings(
    human: Sequence[float],
    before: Sequence[float],
    after: Sequence[float],
    prompts: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Alike:
    """Agreement with people of the scores before and after.

    Args:
        human: What people said, by row, on any scale.
        before: Scores of the same rows, on any scale.
        after: Scores of the same rows, on any scale.
        prompts: The prompt of each row.
        resamples: Bootstrap draws over prompts.
        seed: Of the draws, and of the choice among too many rows.

    Raises:
        DataError: Fewer than two rows.
    """
    if len(human) < 2:
        raise DataError(f"{len(human)} rows with a human_score and both scores: ranks need two")
    rows = np.arange(len(human))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST, replace=False))
    numbers, count = cluster_numbers([prompts[row] for row in rows.tolist()])
    weights = np.ones((1, len(rows)))
    if count > 1:
        drawn = [block[:, numbers] for block in draws(count, resamples, seed)]
        weights = np.concatenate([weights, *drawn])
    people = _Signs(np.asarray(human, dtype=np.float64)[rows], weights)
    first = _figures(_Signs(np.asarray(before, dtype=np.float64)[rows], weights), people)
    second = _figures(_Signs(np.asarray(after, dtype=np.float64)[rows], weights), people)
    return Alike(
        n=len(rows),
        prompts=count,
        before=_ranks(first),
        after=_ranks(second),
        change=_ranks({name: second[name] - first[name] for name in FIGURES}),
    )


class _Signs:
    """Who is above whom.

    Args:
        values: [rows].
        weights: [resamples, rows], how often each row counts.
    """

    def __init__(self, values: Floats, weights: Floats) -> None:
        self.signs: Floats = np.sign(values[:, None] - values[None, :])
        self.weights = weights
        self.ranks: Floats = weights @ self.signs.T
        """Twice the mid-ranks less their mean: [resamples, rows]."""
        self.different = _both(weights, np.abs(self.signs))


def _both(weights: Floats, matrix: Floats) -> Floats:
    """The weighted sum of a symmetric matrix, for each resample."""
    summed: Floats = ((weights @ matrix) * weights).sum(1)
    return summed


def _figures(scores: _Signs, people: _Signs) -> dict[str, Floats]:
    """Each figure by resample; the first is that of all rows. NaN where it is not defined."""
    weights = people.weights
    alike = _both(weights, scores.signs * people.signs)
    products = (weights * scores.ranks * people.ranks).sum(1)
    squares = (weights * scores.ranks**2).sum(1) * (weights * people.ranks**2).sum(1)
    return {
        "spearman": _over(products, np.sqrt(squares)),
        "kendall": _over(alike, np.sqrt(scores.different * people.different)),
        "pairwise": (1 + _over(alike, people.different)) / 2,
    }


def _over(one: Floats, other: Floats) -> Floats:
    share: Floats = np.divide(one, other, out=np.full_like(one, np.nan), where=other > 0)
    return share


def _ranks(figures: dict[str, Floats]) -> Ranks:
    return Ranks(**{name: _interval(figures[name]) for name in FIGURES})


def _interval(values: Floats) -> Interval | None:
    if np.isnan(values[0]):
        return None
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return Interval(float(values[0]), None, None)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Interval(float(values[0]), float(low), float(high))
