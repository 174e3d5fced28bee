"""Agreement of scores with people's ranking of texts, before and after a change of the rubric.

Three figures, none of which cares on what scale either side scored: Spearman's rho, Kendall's
tau-b, and the share of pairs that are ranked alike (a tie of the scores counts half; pairs to
which people gave equal scores are left out). Intervals are from a bootstrap over prompts.

Every figure is a product of a resample's weights with matrices of signs, so 1,000 resamples are a
few matrix products where scipy would need a call each. scipy is the oracle in the tests.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .intervals import RESAMPLES, Floats, Interval, cluster_numbers, np, percentiles
from .intervals import resample_weights as weights_by_resample

__all__ = ["FIGURES", "MOST", "RankAgreement", "Ranks", "compare_rankings"]

FIGURES = ("spearman", "kendall", "pairwise")
MOST = 1500
"""The most rows that are compared, since the signs of all pairs are held in memory. Of more rows,
as many are drawn at random."""


@dataclass(frozen=True)
class Ranks:
    """Agreement of one column of scores with people's.

    A figure is None where it is not defined: one side gave everything the same score.
    """

    spearman: Interval | None
    kendall: Interval | None
    pairwise: Interval | None
    """Share of pairs ranked alike, 0 to 1; 0.5 for scores at random."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {name: _json(getattr(self, name)) for name in FIGURES}


@dataclass(frozen=True)
class RankAgreement:
    """Agreement with people before and after, on the same rows."""

    n: int
    """Number of rows with a human score and a score before and after."""
    prompts: int
    before: Ranks
    after: Ranks
    change: Ranks
    """Figures after minus figures before, with the interval of the difference."""

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
) -> RankAgreement:
    """Agreement with people of the scores before and after.

    Args:
        human: Human scores by row, on any scale.
        before: Scores of the same rows before the change, on any scale.
        after: Scores of the same rows after the change, on any scale.
        prompts: The prompt of each row.
        resamples: Number of bootstrap resamples over prompts.
        seed: Random seed for the resamples, and for the choice among too many rows.

    Raises:
        DataError: There are fewer than two rows.
    """
    if len(human) < 2:
        raise DataError(f"{len(human)} rows with a human_score and both scores: ranks need two")
    rows = np.arange(len(human))
    if len(rows) > MOST:
        rows = np.sort(np.random.default_rng(seed).choice(rows, MOST, replace=False))
    numbers, count = cluster_numbers([prompts[row] for row in rows.tolist()])
    weights = np.ones((1, len(rows)))
    if count > 1:
        blocks = weights_by_resample(count, resamples, seed)
        weights = np.concatenate([weights, *(block[:, numbers] for block in blocks)])
    people = _Signs(np.asarray(human, dtype=np.float64)[rows], weights)
    first = _figures(_Signs(np.asarray(before, dtype=np.float64)[rows], weights), people)
    second = _figures(_Signs(np.asarray(after, dtype=np.float64)[rows], weights), people)
    return RankAgreement(
        n=len(rows),
        prompts=count,
        before=_ranks(first),
        after=_ranks(second),
        change=_ranks({name: second[name] - first[name] for name in FIGURES}),
    )


class _Signs:
    """Signs of the differences of all pairs of rows, and what follows from them by resample.

    Args:
        values: Scores of shape [rows].
        weights: How often each row counts, of shape [resamples, rows].
    """

    def __init__(self, values: Floats, weights: Floats) -> None:
        self.signs: Floats = np.sign(values[:, None] - values[None, :])
        self.weights = weights
        self.ranks: Floats = weights @ self.signs.T
        """Twice the mid-ranks less their mean, of shape [resamples, rows]."""
        self.different = _quadratic_form(weights, np.abs(self.signs))


def _quadratic_form(weights: Floats, matrix: Floats) -> Floats:
    """The weighted sum of a symmetric matrix, by resample."""
    summed: Floats = ((weights @ matrix) * weights).sum(1)
    return summed


def _figures(scores: _Signs, people: _Signs) -> dict[str, Floats]:
    """Each figure by resample; entry 0 is that of all rows. NaN where it is not defined."""
    weights = people.weights
    alike = _quadratic_form(weights, scores.signs * people.signs)
    products = (weights * scores.ranks * people.ranks).sum(1)
    squares = (weights * scores.ranks**2).sum(1) * (weights * people.ranks**2).sum(1)
    return {
        "spearman": _ratio(products, np.sqrt(squares)),
        "kendall": _ratio(alike, np.sqrt(scores.different * people.different)),
        "pairwise": (1 + _ratio(alike, people.different)) / 2,
    }


def _ratio(one: Floats, other: Floats) -> Floats:
    ratio: Floats = np.divide(one, other, out=np.full_like(one, np.nan), where=other > 0)
    return ratio


def _ranks(figures: dict[str, Floats]) -> Ranks:
    return Ranks(**{name: _interval(figures[name]) for name in FIGURES})


def _interval(values: Floats) -> Interval | None:
    if np.isnan(values[0]):
        return None
    resampled = values[1:][~np.isnan(values[1:])]
    if not len(resampled):
        return Interval(float(values[0]), None, None)
    low, high = percentiles(resampled)
    return Interval(float(values[0]), float(low), float(high))
