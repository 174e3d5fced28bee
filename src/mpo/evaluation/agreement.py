"""Agreement of two judges, and agreement of a judge's ranking with people's.

Two judges are compared by Krippendorff's alpha, quadratic kappa and rank correlations. Alpha (by
`krippendorff`) and kappa fall where nearly all scores are equal, however often the judges agree; so
the plain share of equal scores and the spread of scores stand beside them.

A judge is compared with people before and after a change of the rubric, by figures for which the
scales do not matter: Spearman's rho, Kendall's tau-b, and the share of pairs that are ranked alike
(a tie of the scores counts half; pairs to which people gave equal scores are left out). Intervals
are from a bootstrap over prompts. Every figure is a product of a resample's weights with matrices
of signs, so 1,000 resamples are a few matrix products where scipy would need a call each.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import DataError
from ..records import Case, Judgement
from .intervals import (
    RESAMPLES,
    Floats,
    Interval,
    cluster_numbers,
    intervals,
    np,
    require,
    resample_weights,
)

__all__ = [
    "Agreement",
    "CaseAgreement",
    "RankAgreement",
    "Ranks",
    "agreement",
    "case_agreement",
    "compare_rankings",
    "krippendorff_alpha",
    "quadratic_kappa",
]

MOST_VALUES = 300
"""Number of different values up to which they are taken for the grades of a scale. Rewards that are
means of many scores have more, and only their ranks are compared."""
MOST = 1500
"""The most rows that are compared, since the signs of all pairs are held in memory. Of more rows,
as many are drawn at random."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of two judges on the same units.

    A figure is None where it is not defined: one of the judges always gives the same score, there
    are too many different values for a scale, or the scores are on scales that cannot be compared.
    """

    n: int
    """Number of units that both judges scored."""
    unscored: int
    """Number of units that one of the judges, or both, did not score. They are in no figure."""
    exact: float | None
    """Share of equal scores, 0 to 1."""
    alpha_nominal: float | None
    alpha_ordinal: float | None
    kappa_quadratic: float | None
    spearman: float | None
    kendall: float | None
    """Kendall's tau-b."""
    means: tuple[float, float]
    commonest: tuple[float, float]
    """Share of each judge's most frequent score: near 1, alpha and kappa say little."""


def agreement(
    one: Sequence[float | None], other: Sequence[float | None], *, comparable: bool = True
) -> Agreement:
    """Compare two judges by all figures.

    Args:
        one: Scores of the first judge; None where it did not score a unit.
        other: Scores of the second judge on the same units in the same order.
        comparable: The scores are on one scale. Without, only their ranks are compared.

    Raises:
        DataError: There is no unit that both judges scored.
        MissingExtraError: scipy or krippendorff is not installed.
    """
    both = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    if not both:
        raise DataError(
            f"there is nothing that both judges scored: of {len(one)} units the first scored "
            f"{_count(one)} and the second {_count(other)}"
        )
    first, second = [a for a, _ in both], [b for _, b in both]
    scores = np.array([first, second], dtype=np.float64)
    graded = comparable and len(np.unique(scores)) <= MOST_VALUES
    spearman, kendall = _rank_correlations(first, second)
    return Agreement(
        n=len(both),
        unscored=len(one) - len(both),
        exact=float((scores[0] == scores[1]).mean()) if comparable else None,
        alpha_nominal=krippendorff_alpha(scores, "nominal") if graded else None,
        alpha_ordinal=krippendorff_alpha(scores, "ordinal") if graded else None,
        kappa_quadratic=quadratic_kappa(first, second) if comparable else None,
        spearman=spearman,
        kendall=kendall,
        means=(float(scores[0].mean()), float(scores[1].mean())),
        commonest=(_commonest(first), _commonest(second)),
    )


def _count(scores: Sequence[float | None]) -> int:
    return sum(score is not None for score in scores)


def _commonest(scores: Sequence[float]) -> float:
    return Counter(scores).most_common(1)[0][1] / len(scores)


def krippendorff_alpha(
    scores: Floats, level: Literal["nominal", "ordinal", "interval"] = "ordinal"
) -> float | None:
    """Krippendorff's alpha.

    Args:
        scores: Scores of shape [raters, units]; NaN where a rater did not score a unit.
        level: Level of measurement.

    Returns:
        At most 1; None where no unit has two scores, or all scores of such units are equal.

    Raises:
        MissingExtraError: krippendorff is not installed.
    """
    require("krippendorff")
    import krippendorff

    # Alpha sees only units with two scores. The library raises an error where those do not differ.
    paired = scores[:, (~np.isnan(scores)).sum(0) > 1]
    if len(np.unique(paired[~np.isnan(paired)])) < 2:
        return None
    return float(krippendorff.alpha(reliability_data=paired, level_of_measurement=level))


def quadratic_kappa(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Cohen's kappa with weights that grow with the square of the scores' difference.

    The difference is that of the scores themselves, so on a scale with gaps (0, 3, 5) it is not
    that of their places. None where neither judge ever varies.
    """
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    observed = float(((a - b) ** 2).mean())
    # The mean over all pairs of a score by one judge and a score by the other.
    expected = float(a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    return 1 - observed / expected if expected else None


def _rank_correlations(
    one: Sequence[float], other: Sequence[float]
) -> tuple[float | None, float | None]:
    """Spearman's rho and Kendall's tau-b; None where one of the two is constant."""
    require("scipy")
    from scipy.stats import kendalltau, spearmanr  # type: ignore[import-untyped]

    if len(set(one)) < 2 or len(set(other)) < 2:
        return None, None
    spearman, kendall = float(spearmanr(one, other)[0]), float(kendalltau(one, other)[0])
    return (None if math.isnan(spearman) else spearman), (None if math.isnan(kendall) else kendall)


@dataclass(frozen=True)
class CaseAgreement:
    """Agreement of two judges on the same responses."""

    reward: Agreement
    """Agreement of the normalized rewards."""
    criteria: dict[str, Agreement]
    """Agreement of the scores by criterion; empty where the judges had different rubrics."""
    other_rubric: int
    """Number of responses that the judges graded under different rubrics: their rewards are
    compared as shares of the points, and none of their criteria is."""


def case_agreement(one: Sequence[Case], other: Sequence[Case]) -> CaseAgreement:
    """Agreement on the responses that both judges saw.

    Args:
        one: Cases of the first judge; of several on one response the last scored one counts.
        other: Cases of the second judge.

    Raises:
        DataError: No response was scored by both judges.
        MissingExtraError: scipy or krippendorff is not installed.
    """
    first, second = _by_response(one), _by_response(other)
    both = [(first[key], second[key]) for key in first if key in second]
    if not any(
        a.normalized_reward is not None and b.normalized_reward is not None for a, b in both
    ):
        raise DataError(
            "the two judges have no response in common that both scored "
            f"({len(first)} and {len(second)} responses, {len(both)} in common)"
        )
    scores: dict[str, tuple[list[float], list[float]]] = {}
    for a, b in both:
        if a.rubric_id == b.rubric_id:
            for x, y in zip(a.scores, b.scores, strict=False):
                columns = scores.setdefault(x.criterion, ([], []))
                columns[0].append(float(x.score))
                columns[1].append(float(y.score))
    return CaseAgreement(
        reward=agreement(
            [a.normalized_reward for a, _ in both], [b.normalized_reward for _, b in both]
        ),
        criteria={name: agreement(*columns) for name, columns in scores.items()},
        other_rubric=sum(a.rubric_id != b.rubric_id for a, b in both),
    )


def _by_response(cases: Sequence[Case]) -> dict[tuple[str, str], Judgement]:
    judgements: dict[tuple[str, str], Judgement] = {}
    for case in cases:
        key = (case.rollout.prompt, case.rollout.completion)
        if case.judgement.normalized_reward is not None or key not in judgements:
            judgements[key] = case.judgement
    return judgements


# ---------------------------------------------------------------------- judge and people


@dataclass(frozen=True)
class Ranks:
    """Agreement of one column of scores with people's.

    A figure is None where it is not defined: one side gave everything the same score.
    """

    spearman: Interval | None
    kendall: Interval | None
    pairwise: Interval | None
    """Share of pairs ranked alike, 0 to 1; 0.5 for scores at random."""


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
        blocks = resample_weights(count, resamples, seed)
        weights = np.concatenate([weights, *(block[:, numbers] for block in blocks)])
    people = _Signs(np.asarray(human, dtype=np.float64)[rows], weights)
    first = _figures(_Signs(np.asarray(before, dtype=np.float64)[rows], weights), people)
    second = _figures(_Signs(np.asarray(after, dtype=np.float64)[rows], weights), people)
    return RankAgreement(
        n=len(rows),
        prompts=count,
        before=_ranks(first),
        after=_ranks(second),
        change=_ranks({name: second[name] - first[name] for name in first}),
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


def _ranks(figures: Mapping[str, Floats]) -> Ranks:
    return Ranks(**{name: _interval(values) for name, values in figures.items()})


def _interval(values: Floats) -> Interval | None:
    if np.isnan(values[0]):
        return None
    return intervals(values[~np.isnan(values)][:, None])[0]
