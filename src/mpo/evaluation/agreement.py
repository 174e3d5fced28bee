"""Agreement of two judges: Krippendorff's alpha, quadratic kappa, rank correlations.

Alpha (by `krippendorff`) and kappa fall where nearly all scores are equal, however often the judges
agree; so the plain share of equal scores and the spread of scores stand beside them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from typing import Any, Literal

from ..errors import DataError, MissingExtraError
from ..records import Case, Judgement
from .intervals import Floats, np

__all__ = [
    "Agreement",
    "CaseAgreement",
    "agreement",
    "case_agreement",
    "krippendorff_alpha",
    "quadratic_kappa",
    "rank_correlations",
]

MOST_VALUES = 300
"""Number of different values up to which they are taken for the grades of a scale. Rewards that are
means of many scores have more, and only their ranks are compared."""


@dataclass(frozen=True)
class Agreement:
    """Agreement of two judges on the same units.

    A figure is None where it is not defined: one of the judges always gives the same score, or
    there are too many different values for a scale.
    """

    n: int
    """Number of units that both judges scored."""
    unscored: int
    """Number of units that one of the judges, or both, did not score. They are in no figure."""
    exact: float
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

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {**asdict(self), "means": list(self.means), "commonest": list(self.commonest)}


def agreement(one: Sequence[float | None], other: Sequence[float | None]) -> Agreement:
    """Compare two judges by all figures.

    Args:
        one: Scores of the first judge; None where it did not score a unit.
        other: Scores of the second judge on the same units in the same order.

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
    graded = len(np.unique(scores)) <= MOST_VALUES
    spearman, kendall = rank_correlations(first, second)
    return Agreement(
        n=len(both),
        unscored=len(one) - len(both),
        exact=float((scores[0] == scores[1]).mean()),
        alpha_nominal=krippendorff_alpha(scores, "nominal") if graded else None,
        alpha_ordinal=krippendorff_alpha(scores, "ordinal") if graded else None,
        kappa_quadratic=quadratic_kappa(first, second),
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
    if find_spec("krippendorff") is None:
        raise MissingExtraError("krippendorff", "eval")
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


def rank_correlations(
    one: Sequence[float], other: Sequence[float]
) -> tuple[float | None, float | None]:
    """Spearman's rho and Kendall's tau-b; None where one of the two is constant.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    if find_spec("scipy") is None:
        raise MissingExtraError("scipy", "eval")
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

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        criteria = {name: one.to_json() for name, one in self.criteria.items()}
        return {"reward": self.reward.to_json(), "criteria": criteria}


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
    )


def _by_response(cases: Sequence[Case]) -> dict[tuple[str, str], Judgement]:
    judgements: dict[tuple[str, str], Judgement] = {}
    for case in cases:
        key = (case.rollout.prompt, case.rollout.completion)
        if case.judgement.normalized_reward is not None or key not in judgements:
            judgements[key] = case.judgement
    return judgements
