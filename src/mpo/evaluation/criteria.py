"""Contribution of each criterion of a rubric, from the judgements of a run.

discrimination   correlation of a criterion with the others' sum: below 0.2 it measures
                 something else, or nothing
redundancy       its strongest correlation with another criterion: above 0.95 one of the two
                 can go
saturation       share of judgements at its highest and at its lowest score: above 0.97 it no
                 longer tells anything apart
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..errors import StoreError
from ..records import Case
from ..rubric import Rubric
from .intervals import Floats, np

__all__ = ["Criteria", "CriterionFigures", "criteria_figures"]

WEAK = 0.2
REDUNDANT = 0.95
SATURATED = 0.97


@dataclass(frozen=True)
class CriterionFigures:
    """Figures of one criterion. A correlation is None where one of the two sides never varies."""

    name: str
    mean: float
    """Mean of the criterion's own scores."""
    at_highest: float
    """Share of judgements at the highest score, 0 to 1."""
    at_lowest: float
    """Share of judgements at the lowest score, 0 to 1."""
    discrimination: float | None
    most_similar: str | None
    """Name of the criterion with which it correlates most."""
    similarity: float | None
    """The correlation with that one."""
    gold: float | None
    """Correlation with gold; None where gold is not known."""
    faults: list[str]
    """Faults in single words: saturated, weak, redundant, misaligned."""


@dataclass(frozen=True)
class Criteria:
    """Figures of all criteria of a rubric; the fields are the keys of its JSON."""

    rubric: str
    """Id of the rubric."""
    n: int
    """Number of judgements with a score for every criterion."""
    effective_criteria: float
    """Number of independent criteria to which its criteria amount: (Σλ)² / Σλ² over the eigenvalues
    of their correlations."""
    dead_groups: float | None
    """Share of groups of at least two completions that all got the same reward, 0 to 1: they teach
    a policy nothing. None where there is no group."""
    criteria: list[CriterionFigures]
    """Figures of the criteria in the rubric's order."""


def criteria_figures(
    cases: Sequence[Case], rubric: Rubric, gold: Mapping[str, float | None] | None = None
) -> Criteria:
    """Figures of a rubric's criteria.

    Args:
        cases: Judged rollouts. Those under another rubric, unscored, or decided by a rule are left
            out.
        rubric: The rubric.
        gold: Gold by rollout id; None where it is not known.

    Raises:
        StoreError: There is no judgement under the rubric.
    """
    judged = [c for c in cases if c.judgement.rubric_id == rubric.id and c.judgement.scores]
    if not judged:
        raise StoreError(
            f"there are no judgements under rubric {rubric.id} ({rubric.title!r}): score something "
            "with it first"
        )
    scores = np.array([[s.score for s in c.judgement.scores] for c in judged], dtype=np.float64)
    low = np.array([c.scores[0] for c in rubric.criteria], dtype=np.float64)
    high = np.array([c.scores[-1] for c in rubric.criteria], dtype=np.float64)
    weighted = (scores - low) * np.array([c.weight for c in rubric.criteria])
    rest = weighted.sum(1, keepdims=True) - weighted
    similarities = _correlations(scores)
    gold_by_row = [(n, (gold or {}).get(c.rollout.id)) for n, c in enumerate(judged)]
    known = [(n, value) for n, value in gold_by_row if value is not None]
    gold_values = np.array([value for _, value in known], dtype=np.float64)
    criteria = []
    for n, criterion in enumerate(rubric.criteria):
        at_highest = float((scores[:, n] == high[n]).mean())
        at_lowest = float((scores[:, n] == low[n]).mean())
        discrimination = _correlation(scores[:, n], rest[:, n])
        other, similarity = _most_similar(similarities, n)
        own = scores[[row for row, _ in known], n]
        with_gold = _correlation(own, gold_values)
        faults = {
            "saturated": max(at_highest, at_lowest) > SATURATED,
            "weak": discrimination is not None and discrimination < WEAK,
            "redundant": similarity is not None and similarity > REDUNDANT,
            "misaligned": with_gold is not None and with_gold <= 0,
        }
        criteria.append(
            CriterionFigures(
                name=criterion.name,
                mean=float(scores[:, n].mean()),
                at_highest=at_highest,
                at_lowest=at_lowest,
                discrimination=discrimination,
                most_similar=None if other is None else rubric.criteria[other].name,
                similarity=similarity,
                gold=with_gold,
                faults=[word for word, present in faults.items() if present],
            )
        )
    values = np.linalg.eigvalsh(np.nan_to_num(similarities) + np.eye(len(criteria)))
    return Criteria(
        rubric=rubric.id,
        n=len(judged),
        effective_criteria=float(values.sum() ** 2 / (values**2).sum()),
        dead_groups=_dead_groups(judged),
        criteria=criteria,
    )


def _correlations(scores: Floats) -> Floats:
    """Correlations between criteria; NaN where one never varies, and 0 on the diagonal."""
    centred = scores - scores.mean(0)
    norms = np.sqrt((centred**2).sum(0))
    norms[norms < 1e-9] = np.nan
    scaled = centred / norms
    correlations: Floats = scaled.T @ scaled
    np.fill_diagonal(correlations, 0.0)
    return correlations


def _most_similar(similarities: Floats, n: int) -> tuple[int | None, float | None]:
    row = np.delete(similarities[n], n)
    if not len(row) or np.isnan(row).all():
        return None, None
    best = int(np.nanargmax(row))
    return (best if best < n else best + 1), float(row[best])


def _correlation(one: Floats, other: Floats) -> float | None:
    if len(one) < 2 or one.std() < 1e-9 or other.std() < 1e-9:
        return None
    return float(np.corrcoef(one, other)[0, 1])


def _dead_groups(cases: Sequence[Case]) -> float | None:
    groups: dict[tuple[str, int], list[float]] = {}
    for case in cases:
        if case.judgement.normalized_reward is not None:
            key = (case.rollout.group, case.rollout.step)
            groups.setdefault(key, []).append(case.judgement.normalized_reward)
    several = [rewards for rewards in groups.values() if len(rewards) > 1]
    return sum(len(set(r)) == 1 for r in several) / len(several) if several else None
