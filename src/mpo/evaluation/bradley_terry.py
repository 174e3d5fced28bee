"""Bradley–Terry strengths by `evalica`, with clustered intervals, and control for length.

    P(i beats j) = 1 / (1 + exp(θj - θi));  rating = 1000 + 400 / ln 10 · θ

A tie is half a win for each model. The likelihood sees only how often each model beat each other
one, so a resample of prompts is a product of its weights with the win counts by prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import MissingExtraError
from ..sanitize import count_words
from .games import Game
from .intervals import RESAMPLES, Floats, Interval, Ints, cluster_numbers, np, percentiles
from .intervals import resample_weights as weights_by_resample

__all__ = ["LengthControl", "Strengths", "bradley_terry", "fit", "length_control", "unbounded"]

SCALE = 400 / math.log(10)
PRIOR = 1e-3
"""Wins that every model gets against every other one beforehand. They keep the rating of a model
that won all its games finite, and move one of 500 games by less than 0.01."""
RIDGE = 1e-3
"""The same for the logistic regression of `length_control`."""


@dataclass(frozen=True)
class Strengths:
    """Ratings, and the gaps between them, with their intervals."""

    ratings: dict[str, Interval]
    """Rating by model; the mean over models is `start`."""
    gaps: dict[tuple[str, str], Interval]
    """Rating of the first model minus rating of the second."""
    win_rates: dict[str, Interval]
    """Share of a model's games that it won, 0 to 1; a tie counts half."""


def fit(wins: Floats) -> Floats:
    """Strengths θ in logits, mean 0, shape [models].

    Args:
        wins: [models, models]; entry i, j says how often i won against j, ties half.

    Raises:
        MissingExtraError: evalica is not installed.
    """
    if find_spec("evalica") is None:
        raise MissingExtraError("evalica", "eval")
    import evalica

    winners, losers = np.nonzero(~np.eye(len(wins), dtype=bool))
    result = evalica.bradley_terry(
        winners.tolist(),
        losers.tolist(),
        [evalica.Winner.X] * len(winners),
        weights=(wins[winners, losers] + PRIOR).tolist(),
        tolerance=1e-8,
        limit=10_000,
    )
    theta: Floats = np.log(result.scores.sort_index().to_numpy())
    centred: Floats = theta - theta.mean()
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
        games: At least one game.
        models: Names of all models that play.
        start: Mean of all ratings.
        resamples: Number of bootstrap resamples.
        seed: Random seed for the resamples.

    Raises:
        MissingExtraError: evalica is not installed.
    """
    wins, prompts = _wins_by_prompt(games, models)
    total = wins.sum(0).reshape(len(models), len(models))
    ratings = start + SCALE * fit(total)
    resampled = resampled_ratings = None
    if prompts > 1:
        blocks = [weights @ wins for weights in weights_by_resample(prompts, resamples, seed)]
        resampled = np.concatenate(blocks).reshape(-1, len(models), len(models))
        resampled_ratings = start + SCALE * np.array([fit(one) for one in resampled])
    place = {name: number for number, name in enumerate(models)}
    pairs = [(a, b) for a in models for b in models if a != b]
    one, other = [place[a] for a, _ in pairs], [place[b] for _, b in pairs]
    gaps = _intervals(
        ratings[one] - ratings[other],
        None
        if resampled_ratings is None
        else resampled_ratings[:, one] - resampled_ratings[:, other],
    )
    return Strengths(
        ratings=dict(zip(models, _intervals(ratings, resampled_ratings), strict=True)),
        gaps=dict(zip(pairs, gaps, strict=True)),
        win_rates=dict(zip(models, _rate_intervals(total, resampled), strict=True)),
    )


def _wins_by_prompt(games: Sequence[Game], models: Sequence[str]) -> tuple[Floats, int]:
    """[prompts, models x models], and the number of prompts."""
    numbers, prompts = cluster_numbers([game.query for game in games])
    first, second, score = _columns(games, models)
    wins = np.zeros((prompts, len(models), len(models)))
    np.add.at(wins, (numbers, first, second), score)
    np.add.at(wins, (numbers, second, first), 1 - score)
    return wins.reshape(prompts, -1), prompts


def _columns(games: Sequence[Game], models: Sequence[str]) -> tuple[Ints, Ints, Floats]:
    """The number of the first model, that of the second, and the score, by game."""
    place = {name: number for number, name in enumerate(models)}
    return (
        np.array([place[game.first] for game in games]),
        np.array([place[game.second] for game in games]),
        np.array([game.score for game in games]),
    )


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
    bounds = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*row) for row in bounds]


def unbounded(games: Sequence[Game], models: Sequence[str]) -> list[str]:
    """The models whose rating has no finite estimate: all of them, or none.

    Ratings are finite only if every model can be reached from every other one through a chain of
    wins. Otherwise some models won or lost all their games against the rest, and how far they
    stand apart is decided by `PRIOR`.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    if find_spec("scipy") is None:
        raise MissingExtraError("scipy", "eval")
    from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

    wins, _ = _wins_by_prompt(games, models)
    total = wins.sum(0).reshape(len(models), len(models))
    parts, _ = connected_components(total > 0, connection="strong")
    return list(models) if parts > 1 else []


# ---------------------------------------------------------------------- length


@dataclass(frozen=True)
class LengthControl:
    """The win rates that remain where both responses are of the same length."""

    win_rates: dict[str, float]
    """Win rate by model at equal length, against the opponents that it had."""
    coefficient: float
    """Logits that a much longer response gains."""
    longer_wins: float
    """Share of games that the longer response won, ties half; games of equal length left out."""
    confounded: float
    """Share of the difference in length that the models alone explain (R², 0 to 1). Near 1, length
    and model cannot be separated, and the control says nothing."""


def length_control(games: Sequence[Game], models: Sequence[str]) -> LengthControl | None:
    """Win rates at equal length; None where a response is missing.

    Bradley–Terry with one more feature, the tanh of the difference in words (in units of its root
    mean square), as in length-controlled AlpacaEval; its coefficient is common to all models.
    """
    lengths = _length_differences(games)
    if lengths is None:
        return None
    first, second, score = _columns(games, models)
    rows = np.arange(len(games))
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
        win_rates={name: float(won[n] / played[n]) for n, name in enumerate(models)},
        coefficient=float(weights[-1]),
        longer_wins=float(longer.mean()) if len(longer) else 0.5,
        confounded=_explained(sides, feature),
    )


def _length_differences(games: Sequence[Game]) -> Floats | None:
    """Words of the first response minus words of the second, by game."""
    known: dict[str, int] = {}  # the same response plays many games

    def words(text: str) -> int:
        if text not in known:
            known[text] = count_words(text)
        return known[text]

    differences = []
    for game in games:
        if game.first_response is None or game.second_response is None:
            return None
        differences.append(words(game.first_response) - words(game.second_response))
    return np.array(differences, dtype=np.float64)


def _logistic(features: Floats, target: Floats) -> Floats:
    """Weights of a logistic regression without intercept; targets may be 0.5."""
    if find_spec("scipy") is None:
        raise MissingExtraError("scipy", "eval")
    from scipy.optimize import minimize  # type: ignore[import-untyped]

    def loss(weights: Floats) -> tuple[float, Floats]:
        logits = features @ weights
        fitted = np.logaddexp(0, logits).sum() - target @ logits
        gradient = features.T @ (1 / (1 + np.exp(-logits)) - target)
        return fitted + RIDGE / 2 * weights @ weights, gradient + RIDGE * weights

    options = {"gtol": 1e-8}
    solution: Floats = minimize(loss, np.zeros(features.shape[1]), jac=True, options=options).x
    return solution


def _explained(sides: Floats, feature: Floats) -> float:
    total = float((feature**2).sum())
    if not total:
        return 0.0
    solution = np.linalg.lstsq(sides, feature, rcond=None)[0]
    rest = feature - sides @ solution
    return 1 - float((rest**2).sum()) / total
