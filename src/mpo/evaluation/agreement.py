"""Agreement of two judges: Krippendorff's alpha, quadratic kappa, rank correlations.

Alpha and kappa fall where nearly all scores are the same, however often the judges agree; so the
plain share of equal scores and the spread of scores stand beside them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Literal

from ..errors import DataError, MissingExtraError
from ..records import Case, Judgement
from .numeric import Floats, np

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
"""Different values up to which they are taken for the grades of a scale. Rewards that are means of
many scores have more, and only their ranks are compared."""


@dataclass(frozen=True)
class Agreement:
    """Of two judges on the same units. A figure is None where it is not defined: one of the
    judges always says the same, or there are too many different values for a scale."""

    n: int
    """Units that both judged."""
    exact: float
    """Share of equal scores."""
    alpha_nominal: float | None
    alpha_ordinal: float | None
    kappa_quadratic: float | None
    spearman: float | None
    kendall: float | None
    """Tau-b."""
    means: tuple[float, float]
    commonest: tuple[float, float]
    """Share of each judge's most frequent score: near 1, alpha and kappa say little."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "n": self.n,
            "exact": self.exact,
            "alpha_nominal": self.alpha_nominal,
            "alpha_ordinal": self.alpha_ordinal,
            "kappa_quadratic": self.kappa_quadratic,
            "spearman": self.spearman,
            "kendall": self.kendall,
            "means": list(self.means),
            "commonest": list(self.commonest),
        }


def agreement(one: Sequence[float], other: Sequence[float]) -> Agreement:
    """All of it.

    Args:
        one: Scores of the first judge.
        other: Scores of the second, of the same units in the same order.

    Raises:
        DataError: No units.
        MissingExtraError: scipy is not installed.
    """
    if not one:
        raise DataError("there is nothing that both judges scored")
    scores = np.array([one, other], dtype=np.float64)
    graded = len(np.unique(scores)) <= MOST_VALUES
    spearman, kendall = rank_correlations(one, other)
    return Agreement(
        n=len(one),
        exact=float((scores[0] == scores[1]).mean()),
        alpha_nominal=krippendorff_alpha(scores, "nominal") if graded else None,
        alpha_ordinal=krippendorff_alpha(scores, "ordinal") if graded else None,
        kappa_quadratic=quadratic_kappa(one, other),
        spearman=spearman,
        kendall=kendall,
        means=(float(scores[0].mean()), float(scores[1].mean())),
        commonest=(_commonest(one), _commonest(other)),
    )


def _commonest(scores: Sequence[float]) -> float:
    return Counter(scores).most_common(1)[0][1] / len(scores)


def krippendorff_alpha(
    scores: Floats, level: Literal["nominal", "ordinal", "interval"] = "ordinal"
) -> float | None:
    """Krippendorff's alpha.

    Args:
        scores: [raters, units]; NaN where a rater did not score a unit.
        level: Of measurement.

    Returns:
        At most 1; None where no unit has two scores, or all of them are the same.
    """
    values, codes = np.unique(scores, return_inverse=True)
    values = values[~np.isnan(values)]
    codes = codes.reshape(scores.shape)
    units = scores.shape[1]
    counts = np.zeros((units, len(values) + 1))
    np.add.at(
        counts, (np.broadcast_to(np.arange(units), codes.shape), np.minimum(codes, len(values))), 1
    )
    counts = counts[:, : len(values)]  # without the column of NaN
    paired = counts[counts.sum(1) > 1]
    if not len(paired):
        return None
    weight = 1 / (paired.sum(1) - 1)
    coincidences = (paired * weight[:, None]).T @ paired - np.diag(weight @ paired)
    margins = coincidences.sum(1)
    distances = _distances(values, margins, level)
    expected = float(margins @ distances @ margins)
    if not expected:
        return None
    observed = float((coincidences * distances).sum())
    return 1 - (float(margins.sum()) - 1) * observed / expected


def _distances(values: Floats, margins: Floats, level: str) -> Floats:
    """Squared differences between values."""
    if level == "nominal":
        different: Floats = 1 - np.eye(len(values))
        return different
    # On an ordinal scale values are as far apart as there are scores between them.
    place = np.cumsum(margins) - margins / 2 if level == "ordinal" else values
    squared: Floats = (place[:, None] - place[None, :]) ** 2
    return squared


def quadratic_kappa(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Cohen's kappa with weights that grow with the square of the scores' difference.

    The difference is that of the scores themselves, so on a scale with gaps (0, 3, 5) it is not
    that of their places. None where neither judge ever varies.
    """
    a, b = np.asarray(one, dtype=np.float64), np.asarray(other, dtype=np.float64)
    observed = float(((a - b) ** 2).mean())
    # The mean over all pairs of a score of one and a score of the other.
    expected = float(a.var() + b.var() + (a.mean() - b.mean()) ** 2)
    return 1 - observed / expected if expected else None


def rank_correlations(
    one: Sequence[float], other: Sequence[float]
) -> tuple[float | None, float | None]:
    """Spearman's rho and Kendall's tau-b; None where one of the two always says the same.

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
    """Of two judges on the same responses."""

    reward: Agreement
    """Of the normalized rewards."""
    criteria: dict[str, Agreement]
    """Of the scores by criterion; empty where the judges had different rubrics."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        criteria = {name: one.to_json() for name, one in self.criteria.items()}
        return {"reward": self.reward.to_json(), "criteria": criteria}


def case_agreement(one: Sequence[Case], other: Sequence[Case]) -> CaseAgreement:
    """Agreement on the responses that both judges scored.

    Args:
        one: Cases of the first judge; of several of one response the last counts.
        other: Cases of the second.

    Raises:
        DataError: No response is common to both.
    """
    first, second = _by_response(one), _by_response(other)
    both = [(first[key], second[key]) for key in first if key in second]
    if not both:
        raise DataError(
            f"the two judges have no response in common ({len(first)} and {len(second)} scored)"
        )
    rewards = [
        (a.normalized_reward, b.normalized_reward)
        for a, b in both
        if a.normalized_reward is not None and b.normalized_reward is not None
    ]
    scores: dict[str, list[tuple[float, float]]] = {}
    for a, b in both:
        if a.rubric_id == b.rubric_id:
            for x, y in zip(a.scores, b.scores, strict=False):
                scores.setdefault(x.criterion, []).append((float(x.score), float(y.score)))
    return CaseAgreement(
        reward=_of_pairs(rewards),
        criteria={name: _of_pairs(pairs) for name, pairs in scores.items()},
    )


def _by_response(cases: Sequence[Case]) -> dict[tuple[str, str], Judgement]:
    return {
        (case.rollout.prompt, case.rollout.completion): case.judgement
        for case in cases
        if case.judgement.normalized_reward is not None
    }


def _of_pairs(pairs: Sequence[tuple[float, float]]) -> Agreement:
    return agreement([a for a, _ in pairs], [b for _, b in pairs])
