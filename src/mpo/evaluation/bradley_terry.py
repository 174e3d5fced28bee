"""Bradley–Terry strengths by Newton's method, many fits at once, with clustered intervals.

    P(i beats j) = 1 / (1 + exp(θj - θi));  rating = 1000 + 400 / ln 10 · θ

A tie is half a win for each. The sum over prompts is all that the likelihood sees, so a resample
of prompts is a product of its multinomial weights with the tensor of counts by prompt, and 1,000
resamples are 1,000 small linear systems that numpy solves in one call.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..sanitize import count_words
from .bootstrap import RESAMPLES, Interval, cluster_numbers, draws, percentiles
from .games import Game
from .numeric import Floats, np

__all__ = ["LengthControl", "Strengths", "bradley_terry", "fit", "length_control", "unbounded"]

SCALE = 400 / math.log(10)
RIDGE = 1e-3
"""Keeps a model that won all its games finite. Moves a rating of 500 games by 0.0002."""

_LONGEST_STEP = 2.0  # logits; a longer Newton step may overshoot where all games are won
_ENOUGH = 1e-10


@dataclass(frozen=True)
class Strengths:
    """Ratings, and the gaps between them, with their intervals."""

    ratings: dict[str, Interval]
    """By model; the mean over models is the start."""
    gaps: dict[tuple[str, str], Interval]
    """Rating of the first minus rating of the second."""
    win_rates: dict[str, Interval]
    """Share of a model's games that it won, ties half."""


def fit(wins: Floats) -> Floats:
    """Strengths θ in logits, mean 0, for a batch of win matrices.

    Args:
        wins: [..., models, models]; entry i, j says how often i won against j, ties half.

    Returns:
        [..., models].
    """
    games = wins + np.swapaxes(wins, -1, -2)
    theta = np.zeros(wins.shape[:-1])
    eye = np.eye(wins.shape[-1])
    for _ in range(100):
        expected = 1 / (1 + np.exp(theta[..., None, :] - theta[..., :, None]))
        gradient = (wins - games * expected).sum(-1) - RIDGE * theta
        curvature = games * expected * (1 - expected)
        hessian = eye * (curvature.sum(-1) + RIDGE)[..., None] - curvature * (1 - eye)
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        longest = np.abs(step).max(-1, keepdims=True)
        theta = theta + step * np.minimum(1, _LONGEST_STEP / np.maximum(longest, _ENOUGH))
        if longest.max() < _ENOUGH:
            break
    centred: Floats = theta - theta.mean(-1, keepdims=True)
    return centred


def bradley_terry(
    games: Sequence[Game],
    models: Sequence[str],
    *,
    start: float = 1000.0,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Strengths:
    """Ratings with 95 % percentile intervals from a bootstrap over prompts.

    Args:
        games: At least one.
        models: All that play.
        start: Mean of all ratings.
        resamples: Bootstrap draws.
        seed: Of the draws.
    """
    wins, prompts = _wins_by_prompt(games, models)
    total = wins.sum(0).reshape(len(models), len(models))
    resampled = None
    if prompts > 1:
        blocks = [weights @ wins for weights in draws(prompts, resamples, seed)]
        resampled = np.concatenate(blocks).reshape(-1, len(models), len(models))
    ratings = start + SCALE * fit(total)
    many = None if resampled is None else start + SCALE * fit(resampled)
    place = {name: number for number, name in enumerate(models)}
    pairs = [(a, b) for a in models for b in models if a != b]
    one, other = [place[a] for a, _ in pairs], [place[b] for _, b in pairs]
    gaps = _intervals(
        ratings[one] - ratings[other], None if many is None else many[:, one] - many[:, other]
    )
    return Strengths(
        ratings=dict(zip(models, _intervals(ratings, many), strict=True)),
        gaps=dict(zip(pairs, gaps, strict=True)),
        win_rates=dict(zip(models, _rate_intervals(total, resampled), strict=True)),
    )


def _wins_by_prompt(games: Sequence[Game], models: Sequence[str]) -> tuple[Floats, int]:
    """[prompts, models x models], and how many prompts."""
    numbers, prompts = cluster_numbers([game.query for game in games])
    place = {name: number for number, name in enumerate(models)}
    first = np.array([place[game.first] for game in games])
    second = np.array([place[game.second] for game in games])
    score = np.array([game.score for game in games])
    wins = np.zeros((prompts, len(models), len(models)))
    np.add.at(wins, (numbers, first, second), score)
    np.add.at(wins, (numbers, second, first), 1 - score)
    return wins.reshape(prompts, -1), prompts


def _rate_intervals(total: Floats, resampled: Floats | None) -> list[Interval]:
    def rates(wins: Floats) -> Floats:
        won = wins.sum(-1)
        played = won + wins.sum(-2)
        # A resample may miss all games of a model that played on few prompts.
        shares: Floats = np.divide(won, played, out=np.full_like(won, 0.5), where=played > 0)
        return shares

    return _intervals(rates(total), None if resampled is None else rates(resampled))


def _intervals(values: Floats, resampled: Floats | None) -> list[Interval]:
    if resampled is None:
        return [Interval(float(value), None, None) for value in values]
    low, high = percentiles(resampled)
    return [
        Interval(float(v), float(lo), float(hi))
        for v, lo, hi in zip(values, low, high, strict=True)
    ]


def unbounded(games: Sequence[Game], models: Sequence[str]) -> list[str]:
    """Models that nobody outside some group of them took a point from, or the other way round.

    Their ratings have no finite estimate; what is printed for them is how far the ridge lets it go.
    """
    wins, _ = _wins_by_prompt(games, models)
    reach = wins.sum(0).reshape(len(models), len(models)) > 0
    np.fill_diagonal(reach, True)
    for middle in range(len(models)):  # who can be reached through a chain of wins
        reach |= reach[:, middle, None] & reach[None, middle, :]
    apart = ~(reach & reach.T).all(1)
    return [name for name, alone in zip(models, apart, strict=True) if alone]


@dataclass(frozen=True)
class LengthControl:
    """What is left of the win rates where both responses are of the same length."""

    win_rates: dict[str, float]
    """By model, at equal length, against the opponents that it had."""
    coefficient: float
    """Logits that a much longer response gains."""
    longer_wins: float
    """Share of games that the longer response won, ties half; games of equal length left out."""
    confounded: float
    """How much of the difference in length the models alone explain (R², 0 to 1). Near 1, length
    and model cannot be told apart, and the control says nothing."""


def length_control(games: Sequence[Game], models: Sequence[str]) -> LengthControl | None:
    """Win rates at equal length; None where a response is missing.

    Bradley–Terry with one more feature, the tanh of the difference in words (in units of its root
    mean square), as in length-controlled AlpacaEval; its coefficient is common to all models.
    """
    lengths = _lengths(games)
    if lengths is None:
        return None
    place = {name: number for number, name in enumerate(models)}
    rows = np.arange(len(games))
    first = np.array([place[game.first] for game in games])
    second = np.array([place[game.second] for game in games])
    score = np.array([game.score for game in games])
    spread = math.sqrt(float((lengths**2).mean()))
    feature = np.tanh(lengths / spread) if spread else np.zeros_like(lengths)
    sides = np.zeros((len(games), len(models)))
    sides[rows, first], sides[rows, second] = 1.0, -1.0
    weights = _logistic(np.column_stack([sides, feature]), score)
    chance = 1 / (1 + np.exp(weights[second] - weights[first]))
    won = np.bincount(first, chance, len(models)) + np.bincount(second, 1 - chance, len(models))
    played = np.bincount(first, minlength=len(models)) + np.bincount(second, minlength=len(models))
    longer = np.where(lengths > 0, score, 1 - score)[lengths != 0]
    return LengthControl(
        win_rates={name: float(won[n] / played[n]) for name, n in place.items()},
        coefficient=float(weights[-1]),
        longer_wins=float(longer.mean()) if len(longer) else 0.5,
        confounded=_explained(sides, feature),
    )


def _lengths(games: Sequence[Game]) -> Floats | None:
    """Words of the first response minus words of the second, by game."""
    known: dict[str, int] = {}  # the same response plays many games

    def words(text: str) -> int:
        if text not in known:
            known[text] = count_words(text)
        return known[text]

    found = []
    for game in games:
        if game.first_response is None or game.second_response is None:
            return None
        found.append(words(game.first_response) - words(game.second_response))
    return np.array(found, dtype=np.float64)


def _logistic(features: Floats, target: Floats) -> Floats:
    """Weights of a logistic regression without intercept, with the ridge of `fit`."""
    weights = np.zeros(features.shape[1])
    ridge = RIDGE * np.eye(len(weights))
    for _ in range(100):
        chance = 1 / (1 + np.exp(-(features @ weights)))
        gradient = features.T @ (target - chance) - RIDGE * weights
        hessian = (features * (chance * (1 - chance))[:, None]).T @ features + ridge
        step = np.linalg.solve(hessian, gradient)
        longest = float(np.abs(step).max())
        weights = weights + step * min(1, _LONGEST_STEP / max(longest, _ENOUGH))
        if longest < _ENOUGH:
            break
    return weights


def _explained(sides: Floats, feature: Floats) -> float:
    total = float((feature**2).sum())
    if not total:
        return 0.0
    solution = np.linalg.lstsq(sides, feature, rcond=None)[0]
    rest = feature - sides @ solution
    return 1 - float((rest**2).sum()) / total
