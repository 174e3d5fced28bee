"""Agreement with people's scores: scipy is the oracle."""

from __future__ import annotations

import itertools
import random
import time

import pytest

from mpo.errors import DataError
from mpo.evaluation.agreement import MOST, compare_rankings

pytest.importorskip("scipy")


def scores(n: int, seed: int) -> tuple[list[float], list[float], list[float], list[str]]:
    """What people said, a poor and a good judge, and prompts; with ties in all of them."""
    rng = random.Random(seed)
    human = [float(rng.randrange(6)) for _ in range(n)]
    poor = [float(rng.randrange(4)) for _ in range(n)]
    good = [h + rng.randrange(3) for h in human]
    return human, poor, good, [f"p{i // 2}" for i in range(n)]


def test_figures_equal_scipys() -> None:
    from scipy.stats import kendalltau, spearmanr

    human, poor, good, prompts = scores(60, 1)
    found = compare_rankings(human, poor, good, prompts)
    assert (found.n, found.prompts) == (60, 30)
    for ranks, values in ((found.before, poor), (found.after, good)):
        assert ranks.spearman is not None
        assert ranks.kendall is not None
        assert ranks.pairwise is not None
        assert ranks.spearman.value == pytest.approx(spearmanr(values, human)[0])
        assert ranks.kendall.value == pytest.approx(kendalltau(values, human)[0])
        assert ranks.pairwise.value == pytest.approx(share(values, human))
    assert found.change.pairwise is not None
    assert found.change.pairwise.low is not None
    assert found.change.pairwise.low > 0, "the better judge is better beyond chance"


def share(values: list[float], human: list[float]) -> float:
    """Of pairs that people tell apart, those ranked alike; a tie counts half."""
    pairs = [
        ((b - a) * (d - c))
        for (a, c), (b, d) in itertools.combinations(zip(values, human, strict=True), 2)
        if c != d
    ]
    return sum(1.0 if p > 0 else 0.5 if p == 0 else 0.0 for p in pairs) / len(pairs)


def test_the_interval_is_that_of_resampled_rows() -> None:
    """A resample with whole copies of rows, by scipy, against the products of weights."""
    from scipy.stats import kendalltau, spearmanr

    human, poor, good, _ = scores(12, 2)
    prompts = [str(i) for i in range(12)]
    rng = random.Random(0)
    drawn = [rng.choices(range(12), k=12) for _ in range(1000)]
    taus = sorted(kendalltau([good[i] for i in d], [human[i] for i in d])[0] for d in drawn)
    rhos = sorted(spearmanr([good[i] for i in d], [human[i] for i in d])[0] for d in drawn)
    found = compare_rankings(human, poor, good, prompts, resamples=4000).after
    assert found.kendall is not None
    assert found.spearman is not None
    assert found.kendall.low == pytest.approx(taus[25], abs=0.06)
    assert found.kendall.high == pytest.approx(taus[974], abs=0.06)
    assert found.spearman.low == pytest.approx(rhos[25], abs=0.06)


def test_what_is_not_defined_is_none() -> None:
    found = compare_rankings([1.0, 2.0, 3.0], [5.0] * 3, [1.0, 2.0, 3.0], ["a", "b", "c"])
    assert found.before.spearman is None
    assert found.before.kendall is None
    assert found.before.pairwise is not None
    assert found.before.pairwise.value == 0.5, "a judge that says nothing is a coin"
    assert found.after.pairwise is not None
    assert found.after.pairwise.value == 1.0
    one_prompt = compare_rankings([1.0, 2.0], [1.0, 2.0], [2.0, 1.0], ["a", "a"])
    assert one_prompt.before.kendall is not None
    assert one_prompt.before.kendall.low is None
    with pytest.raises(DataError, match="ranks need two"):
        compare_rankings([1.0], [1.0], [1.0], ["a"])


def test_many_rows_take_seconds() -> None:
    human, poor, good, prompts = scores(MOST + 500, 3)
    started = time.process_time()
    assert compare_rankings(human, poor, good, prompts, resamples=200).n == MOST
    assert time.process_time() - started < 20
