"""Bradley–Terry and its intervals; scikit-learn, and evalica on single games, are oracles."""

from __future__ import annotations

import itertools
from pathlib import Path

import evalica
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from mpo.data import read_rows
from mpo.errors import DataError
from mpo.evaluation.games import Game, models_of, read_games
from mpo.evaluation.intervals import mean_interval
from mpo.evaluation.ranking import (
    SCALE,
    bradley_terry,
    fit,
    length_control,
    rank,
    unbounded,
)
from shared_data import shared_data

MODELS = [f"m{n}" for n in range(6)]


def tournament(prompts: int = 200, spread: float = 0.7, seed: int = 0) -> list[Game]:
    """Every pair on every prompt in both orders; models differ, and differ again on each prompt."""
    rng = np.random.default_rng(seed)
    strength = np.linspace(-0.7, 0.7, len(MODELS))
    games = []
    for prompt in range(prompts):
        here = strength + rng.normal(0, spread, len(MODELS))
        for i, j in itertools.permutations(range(len(MODELS)), 2):
            chance, drawn = 1 / (1 + np.exp(here[j] - here[i])), rng.random()
            score = 0.5 if abs(drawn - chance) < 0.05 else float(drawn < chance)
            games.append(Game(str(prompt), MODELS[i], MODELS[j], score, "a b c", "a b"))
    return games


def test_ratings_equal_evalica() -> None:
    games = tournament(60)
    ours = bradley_terry(games, MODELS, resamples=10).ratings
    winners = [
        evalica.Winner.Draw
        if game.score == 0.5
        else (evalica.Winner.X if game.score else evalica.Winner.Y)
        for game in games
    ]
    theirs = evalica.bradley_terry(
        [game.first for game in games],
        [game.second for game in games],
        winners,
        index=pd.Index(MODELS),
        tolerance=1e-12,
        limit=10_000,
    )
    logits = np.log(np.asarray(theirs.scores[MODELS], dtype=float))
    expected = 1000 + SCALE * (logits - logits.mean())
    found = np.array([ours[name].value for name in MODELS])
    assert np.abs(found - expected).max() < 0.01  # the prior wins


def test_ratings_equal_logistic_regression() -> None:
    games = [game for game in tournament(60) if game.score != 0.5]
    features = np.zeros((len(games), len(MODELS)))
    for row, game in zip(features, games, strict=True):
        row[MODELS.index(game.first)], row[MODELS.index(game.second)] = 1, -1
    wins = [game.score for game in games]
    oracle = LogisticRegression(C=1e6, fit_intercept=False, tol=1e-10).fit(features, wins)
    expected = 1000 + SCALE * (oracle.coef_[0] - oracle.coef_[0].mean())
    ratings = bradley_terry(games, MODELS, resamples=10).ratings
    assert np.abs(np.array([ratings[m].value for m in MODELS]) - expected).max() < 0.01


def test_the_intervals_hold_the_ratings_and_repeat() -> None:
    games = tournament()
    strengths = bradley_terry(games, MODELS, resamples=1000)
    for interval in strengths.ratings.values():
        assert interval.low is not None
        assert interval.high is not None
        assert interval.low < interval.value < interval.high
    assert bradley_terry(games, MODELS).ratings == strengths.ratings, "the same seed, the same"


def test_drawing_prompts_gives_wider_intervals_than_drawing_games() -> None:
    """Verdicts on one prompt hang together, which an interval over single games does not see."""
    games = tournament(50, spread=1.5)
    alone = [
        Game(str(n), g.first, g.second, g.score) for n, g in enumerate(games)
    ]  # each game its own prompt

    def width(played: list[Game]) -> float:
        gap = bradley_terry(played, MODELS).gaps["m5", "m0"]
        assert gap.low is not None
        assert gap.high is not None
        return gap.high - gap.low

    assert width(games) > 1.2 * width(alone)


def test_two_models_have_a_closed_form() -> None:
    strengths = fit(np.array([[0.0, 30.0], [10.0, 0.0]]))
    assert strengths[0] - strengths[1] == pytest.approx(np.log(3), abs=1e-3)
    assert strengths.sum() == pytest.approx(0, abs=1e-9)


# Of the published games: rating of 32b_72b, and the gap with its interval over single games
PUBLISHED = {
    1: (1009.7, 19.5, -11.1, 49.0),
    2: (1018.1, 36.3, 8.3, 66.1),
    3: (1018.8, 37.7, 6.9, 69.0),
    4: (1025.9, 51.8, 20.9, 82.1),
    5: (1016.7, 33.5, 4.1, 63.2),
}


def test_published_games() -> None:
    folder = shared_data("elo")
    pooled = []
    for number, (rating, gap, low, high) in PUBLISHED.items():
        path: Path = folder / f"32b_32b-vs-32b_72b-{number}.jsonl.gz"
        games, _ = read_games(read_rows(path), path.name)
        pooled += games
        found = bradley_terry(games, models_of(games))
        assert round(found.ratings["32b_72b"].value, 1) == rating
        between = found.gaps["32b_72b", "32b_32b"]
        assert round(between.value, 1) == gap
        assert (between.low, between.high) == pytest.approx((low, high), abs=6)
    ranking = rank(pooled)
    gap_all = ranking.strengths.gaps["32b_72b", "32b_32b"]
    assert round(gap_all.value, 1) == 35.7
    assert (gap_all.low, gap_all.high) == pytest.approx((18.4, 51.0), abs=1.5)
    assert ranking.prompts == 1852
    assert ranking.length is not None
    assert ranking.length.longer_wins == pytest.approx(0.60, abs=0.005)
    raw = ranking.strengths.win_rates["32b_72b"].value
    assert 0.5 < ranking.length.win_rates["32b_72b"] < raw, "part of its wins is length"


def test_a_model_that_wins_everything_stays_finite_and_is_named() -> None:
    games = [Game(str(n), "a", "b", 1) for n in range(20)]
    games += [Game(str(n), "b", "c", float(n % 2)) for n in range(20)]
    assert unbounded(games, ["a", "b", "c"]) == ["a", "b", "c"]
    games.append(Game("x", "a", "c", 0))
    assert unbounded(games, ["a", "b", "c"]) == []
    ratings = bradley_terry(games[:-1], ["a", "b", "c"]).ratings
    assert ratings["a"].value > ratings["b"].value
    assert max(interval.value for interval in ratings.values()) < 5000
    assert sorted(rank(games[:-1]).unbounded) == ["a", "b", "c"]


def test_length_control_equals_logistic_regression() -> None:
    rng = np.random.default_rng(2)
    games, features, wins = [], [], []
    for n in range(400):
        one, other = int(rng.integers(1, 40)), int(rng.integers(1, 40))
        score = float(rng.random() < 1 / (1 + np.exp(-0.3 - 0.1 * (one - other))))
        games.append(Game(str(n), "a", "b", score, "w " * one, "w " * other))
        features.append(one - other)
        wins.append(score)
    found = length_control(games, ["a", "b"])
    assert found is not None
    difference = np.array(features, dtype=float)
    design = np.column_stack([np.ones(400), np.tanh(difference / np.sqrt((difference**2).mean()))])
    oracle = LogisticRegression(C=1e6, fit_intercept=False, tol=1e-10).fit(design, wins)
    assert found.coefficient == pytest.approx(oracle.coef_[0][1], abs=1e-2)
    equal = 1 / (1 + np.exp(-oracle.coef_[0][0]))
    assert found.win_rates["a"] == pytest.approx(equal, abs=1e-3)
    assert found.win_rates["b"] == pytest.approx(1 - equal, abs=1e-3)
    assert found.confounded < 0.1


def test_length_control_says_when_it_cannot_tell() -> None:
    games = [Game(str(n), "a", "b", float(n % 3 > 0), "w w w w", "w") for n in range(30)]
    found = length_control(games, ["a", "b"])
    assert found is not None
    assert found.confounded > 0.99
    same = [Game(str(n), "a", "b", float(n % 3 > 0), "w", "w") for n in range(30)]
    level = length_control(same, ["a", "b"])
    assert level is not None
    assert level.coefficient == 0
    assert level.win_rates["a"] == pytest.approx(2 / 3, abs=1e-3)
    assert length_control([Game("q", "a", "b", 1.0)], ["a", "b"]) is None


def test_ranking_refuses_what_never_met() -> None:
    games = [Game("q", "a", "b", 1.0), Game("q", "c", "d", 1.0)]
    with pytest.raises(DataError, match="never compared"):
        rank(games)


def test_one_prompt_has_no_interval() -> None:
    body = rank([Game("q", "a", "b", 1.0), Game("q", "b", "a", 0.5)]).to_json()
    assert body["bt"]["a"]["low"] is None
    assert body["win_rate"]["a"]["raw"] == 0.75
    assert mean_interval([1, 0], ["p", "p"]).high is None


def test_mean_interval_counts_prompts_not_rows() -> None:
    rng = np.random.default_rng(3)
    by_prompt = np.repeat(rng.integers(0, 2, 50), 20).astype(float)
    names = np.repeat(np.arange(50), 20)
    clustered = mean_interval(list(by_prompt), list(names))
    single = mean_interval(list(by_prompt), list(range(1000)))
    assert clustered.low is not None
    assert clustered.high is not None
    assert single.low is not None
    assert single.high is not None
    spread = by_prompt.std() / np.sqrt(50)  # of 50 prompts, whatever the rows
    assert clustered.high - clustered.low == pytest.approx(2 * 1.96 * spread, rel=0.15)
    assert clustered.high - clustered.low > 3 * (single.high - single.low)


@pytest.mark.parametrize(("chance", "prompts", "rows", "alike"), [
    (0.9, 20, 1, 0.0), (0.99, 20, 1, 0.0), (0.9, 20, 5, 0.3), (0.5, 20, 1, 0.0),
])  # fmt: skip
def test_the_interval_of_a_share_covers_it(
    chance: float, prompts: int, rows: int, alike: float
) -> None:
    rng = np.random.default_rng(0)
    names = np.repeat(np.arange(prompts), rows).tolist()
    hits = 0
    for _ in range(1000):
        each = np.full(prompts, chance)
        if alike:
            many = (1 - alike) / alike
            each = rng.beta(chance * many, (1 - chance) * many, prompts)
        right = (rng.random((prompts, rows)) < each[:, None]).astype(float)
        interval = mean_interval(right.ravel().tolist(), names)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= chance <= interval.high
    assert hits >= 930
