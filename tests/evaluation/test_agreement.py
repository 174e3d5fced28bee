"""Agreement and criterion figures; evalica, scipy and scikit-learn are the oracles."""

from __future__ import annotations

from pathlib import Path

import evalica
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau, spearmanr
from sklearn.metrics import cohen_kappa_score

from mpo.errors import DataError, StoreError
from mpo.evaluation.agreement import agreement, case_agreement, krippendorff_alpha, quadratic_kappa
from mpo.evaluation.criteria import criteria_figures
from mpo.records import Case, CriterionScore, Judgement, Rollout
from mpo.rubric import Rubric, parse_rubric


def ratings(units: int = 500, raters: int = 3, missing: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 6, units)
    scores = np.clip(truth + rng.integers(-1, 2, (raters, units)), 0, 5).astype(float)
    scores[rng.random(scores.shape) < missing] = np.nan
    return scores


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("missing", [0.0, 0.1, 0.6])
def test_alpha_equals_evalicas(level: str, missing: float) -> None:
    scores = ratings(missing=missing)
    ours = krippendorff_alpha(scores, level)  # type: ignore[arg-type]
    other = evalica.alpha(pd.DataFrame(scores), distance=level)  # type: ignore[arg-type]
    assert ours == pytest.approx(other.alpha, abs=1e-9)


def test_alpha_where_it_is_not_defined() -> None:
    assert krippendorff_alpha(np.array([[3.0, 3.0], [3.0, 3.0]])) is None
    assert krippendorff_alpha(np.array([[3.0, np.nan], [np.nan, 1.0]])) is None


def test_kappa_and_rank_correlations_equal_the_libraries() -> None:
    scores = ratings(raters=2, missing=0)
    one, other = scores[0].tolist(), scores[1].tolist()
    found = agreement(one, other)
    labels = list(range(6))
    oracle = cohen_kappa_score(
        scores[0].astype(int), scores[1].astype(int), labels=labels, weights="quadratic"
    )
    assert found.kappa_quadratic == pytest.approx(oracle, abs=1e-12)
    assert found.spearman == pytest.approx(spearmanr(one, other)[0])
    assert found.kendall == pytest.approx(kendalltau(one, other)[0])
    assert found.exact == float((scores[0] == scores[1]).mean())
    assert found.n == 500


def test_unscored_units_are_counted_and_in_no_figure() -> None:
    found = agreement([1.0, None, 3.0, None], [1.0, 2.0, None, None])
    assert (found.n, found.unscored, found.exact) == (1, 3, 1)
    with pytest.raises(DataError, match="of 2 units the first scored 1 and the second 1"):
        agreement([1.0, None], [None, 2.0])


def test_kappa_on_a_scale_with_gaps_uses_the_scores() -> None:
    near = quadratic_kappa([0, 3, 5, 5], [0, 3, 5, 3])
    far = quadratic_kappa([0, 3, 5, 5], [0, 3, 5, 0])
    assert near is not None
    assert far is not None
    assert near > far


def test_prevalence_stands_beside_a_collapsed_alpha() -> None:
    one = [1.0] * 97 + [0.0, 1.0, 0.0]
    other = [1.0] * 97 + [1.0, 0.0, 1.0]
    found = agreement(one, other)
    assert found.exact == 0.97
    assert found.alpha_nominal is not None
    assert found.alpha_nominal < 0.05
    assert found.commonest == (0.98, 0.99)
    always = agreement([1.0] * 9, other[-9:])
    assert always.spearman is None
    assert always.kendall is None


def test_rewards_with_many_values_are_compared_by_rank() -> None:
    one = [n / 997 for n in range(400)]
    found = agreement(one, [value**2 for value in one])
    assert found.alpha_ordinal is None
    assert found.spearman == pytest.approx(1)


RUBRIC = parse_rubric("# R\n" + "".join(f"## {name}\nHow.\n" for name in ("One", "Two", "Three")))


def case(number: int, scores: tuple[int, ...], rubric: Rubric = RUBRIC, group: str = "") -> Case:
    rollout = Rollout(prompt="p", completion=f"c{number}", group=group or str(number))
    reward = sum(scores) / (5 * len(scores)) if scores else None
    judgement = Judgement(
        key=f"{number}{rubric.id}",
        rollout_id=rollout.id,
        rubric_id=rubric.id,
        scores=tuple(
            CriterionScore(criterion=key, score=score)
            for key, score in zip(rubric.criterion_ids, scores, strict=False)
        ),
        reward=reward,
        normalized_reward=reward,
        unscored=None if scores else "truncated: cut",
    )
    return Case(rollout=rollout, judgement=judgement)


def test_two_judges_on_the_same_responses() -> None:
    one = [case(n, (n % 6, 5 - n % 6, 2)) for n in range(30)]
    other = [case(n, (n % 6, n % 6, 2)) for n in range(10, 40)] + [case(0, ()), case(99, ())]
    found = case_agreement(one, other)
    assert (found.reward.n, found.reward.unscored) == (20, 1)
    first, second, third = (found.criteria[key] for key in RUBRIC.criterion_ids)
    assert (first.exact, first.alpha_ordinal, first.kappa_quadratic) == (1, 1, 1)
    assert second.spearman == pytest.approx(-1)
    assert (third.exact, third.alpha_nominal) == (1, None)
    with pytest.raises(DataError, match="no response in common"):
        case_agreement(one[:5], other[10:])
    narrow = parse_rubric("# R\n## One\nHow.\n")
    elsewhere = [case(n, (n % 6,), narrow) for n in range(30)]
    assert case_agreement(one, elsewhere).criteria == {}, "other rubrics, other criteria"


def test_criteria_figures() -> None:
    rng = np.random.default_rng(4)
    quality = rng.integers(0, 6, 300)
    scores = [(int(q), int(q), 5) for q in quality]
    gold = {}
    cases = []
    for n, score in enumerate(scores):
        cases.append(case(n, score, group=f"g{n // 3}"))
        gold[cases[-1].rollout.id] = None if n % 2 else float(-score[0])
    found = criteria_figures([*cases, case(999, ())], RUBRIC, gold)
    one, two, three = found.criteria
    assert found.n == 300
    assert one.discrimination == pytest.approx(1)
    assert (one.most_similar, two.most_similar) == ("Two", "One")
    assert one.faults == ["redundant", "misaligned"]
    assert one.gold == pytest.approx(-1)
    assert (three.at_highest, three.discrimination, three.most_similar) == (1, None, None)
    assert three.faults == ["saturated"]
    # Two of three say the same, and the third nothing: eigenvalues 2, 0, 1.
    assert found.effective_criteria == pytest.approx(9 / 5)
    dead = [len(set(quality[3 * g : 3 * g + 3])) == 1 for g in range(100)]
    assert found.dead_groups == pytest.approx(sum(dead) / 100)


def test_independent_criteria_count_fully() -> None:
    rng = np.random.default_rng(5)
    cases = [case(n, tuple(int(s) for s in rng.integers(0, 6, 3))) for n in range(400)]
    found = criteria_figures(cases, RUBRIC)
    assert found.effective_criteria == pytest.approx(3, abs=0.1)
    assert [one.faults for one in found.criteria] == [["weak"]] * 3
    assert found.dead_groups is None, "every group has one completion"
    assert found.criteria[0].gold is None


def test_a_run_without_judgements(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=f"no judgements under rubric {RUBRIC.id}"):
        criteria_figures([case(1, ())], RUBRIC)
