"""What each criterion of a rubric contributes, from the judgements of a run.

    discrimination   correlation of a criterion with the others' sum: below 0.2 it measures
                     something else, or nothing
    redundancy       its strongest correlation with another criterion: above 0.95 one of the two
                     can go
    saturation       share of judgements at its highest and at its lowest score: above 0.97 it no
                     longer tells anything apart

Thresholds are those of notes/judge.md §7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import StoreError
from ..records import Case
from ..rubric import Rubric
from .numeric import Floats, np

__all__ = ["Criteria", "CriterionFigures", "criteria_figures"]

WEAK = 0.2
REDUNDANT = 0.95
SATURATED = 0.97


@dataclass(frozen=True)
class CriterionFigures:
    """Of one criterion. A correlation is None where one of the two never varies."""

    name: str
    mean: float
    """In the criterion's own scores."""
    at_highest: float
    at_lowest: float
    """Shares of judgements."""
    discrimination: float | None
    like: str | None
    """The criterion that it is most like."""
    likeness: float | None
    """The correlation with that one."""
    gold: float | None
    """Correlation with the audit's score; None where there is none."""

    @property
    def faults(self) -> list[str]:
        """In single words: saturated, weak, redundant, misaligned."""
        found = []
        if max(self.at_highest, self.at_lowest) > SATURATED:
            found.append("saturated")
        if self.discrimination is not None and self.discrimination < WEAK:
            found.append("weak")
        if self.likeness is not None and self.likeness > REDUNDANT:
            found.append("redundant")
        if self.gold is not None and self.gold <= 0:
            found.append("misaligned")
        return found


@dataclass(frozen=True)
class Criteria:
    """Of a whole rubric."""

    rubric: Rubric
    n: int
    """Judgements with a score for every criterion."""
    figures: tuple[CriterionFigures, ...]
    """In the rubric's order."""
    effective: float
    """As many independent criteria as its criteria amount to: (Σλ)² / Σλ² over the eigenvalues of
    their correlations."""
    dead_groups: float | None
    """Share of groups of at least two completions that all got the same reward: they teach a
    policy nothing. None where there is no group."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "rubric": self.rubric.id,
            "n": self.n,
            "effective_criteria": self.effective,
            "dead_groups": self.dead_groups,
            "criteria": [{**asdict(one), "faults": one.faults} for one in self.figures],
        }


def criteria_figures(
    cases: Sequence[Case], rubric: Rubric, gold: Mapping[str, float | None] | None = None
) -> Criteria:
    """Figures of a rubric's criteria.

    Args:
        cases: Those judged under another rubric, unscored or decided by a rule are left out.
        rubric: The rubric.
        gold: Scores from outside by rollout id.

    Raises:
        StoreError: No judgement is left.
    """
    kept = [c for c in cases if c.judgement.rubric_id == rubric.id and c.judgement.scores]
    if not kept:
        raise StoreError(
            f"there are no judgements under rubric {rubric.id} ({rubric.title!r}): score something "
            "with it first"
        )
    scores = np.array([[s.score for s in c.judgement.scores] for c in kept], dtype=np.float64)
    low = np.array([c.scores[0] for c in rubric.criteria], dtype=np.float64)
    high = np.array([c.scores[-1] for c in rubric.criteria], dtype=np.float64)
    weighted = (scores - low) * np.array([c.weight for c in rubric.criteria])
    rest = weighted.sum(1, keepdims=True) - weighted
    likeness = _correlations(scores)
    audited = [(n, (gold or {}).get(c.rollout.id)) for n, c in enumerate(kept)]
    known = [(n, value) for n, value in audited if value is not None]
    outside = np.array([value for _, value in known], dtype=np.float64)
    figures = []
    for n, criterion in enumerate(rubric.criteria):
        like, strength = _most_like(likeness, n)
        figures.append(
            CriterionFigures(
                name=criterion.name,
                mean=float(scores[:, n].mean()),
                at_highest=float((scores[:, n] == high[n]).mean()),
                at_lowest=float((scores[:, n] == low[n]).mean()),
                discrimination=_correlation(scores[:, n], rest[:, n]),
                like=None if like is None else rubric.criteria[like].name,
                likeness=strength,
                gold=_correlation(scores[[i for i, _ in known], n], outside) if known else None,
            )
        )
    values = np.linalg.eigvalsh(np.nan_to_num(likeness) + np.eye(len(figures)))
    return Criteria(
        rubric=rubric,
        n=len(kept),
        figures=tuple(figures),
        effective=float(values.sum() ** 2 / (values**2).sum()),
        dead_groups=_dead_groups(kept),
    )


def _correlations(scores: Floats) -> Floats:
    """Between criteria; NaN where one never varies, and 0 on the diagonal."""
    centred = scores - scores.mean(0)
    norms = np.sqrt((centred**2).sum(0))
    norms[norms < 1e-9] = np.nan
    scaled = centred / norms
    found: Floats = scaled.T @ scaled
    np.fill_diagonal(found, 0.0)
    return found


def _most_like(likeness: Floats, n: int) -> tuple[int | None, float | None]:
    row = np.delete(likeness[n], n)
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
