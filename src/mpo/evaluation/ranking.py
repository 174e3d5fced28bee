"""Rankings from games: ratings with intervals, win rates, and how far the judge can be trusted.

Bradley–Terry is for conclusions; `evalica` fits it:

    P(i beats j) = 1 / (1 + exp(θj - θi));  rating = 1000 + 400 / ln 10 · θ

A tie is half a win for each model. The likelihood sees only how often each model beat each other
one, so a resample of prompts is a product of its weights with the win counts by prompt.

Elo is here to compare with published figures: it depends on the order of the games, and shuffling
500 of them moves a rating by about 10.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..sanitize import count_words
from .games import Game, check_connected, models_of
from .intervals import (
    RESAMPLES,
    Floats,
    Interval,
    Ints,
    cluster_numbers,
    intervals,
    mean_interval,
    np,
    require,
    resample_weights,
)

__all__ = [
    "SCALE",
    "START",
    "K",
    "LengthControl",
    "Ranking",
    "Strengths",
    "Swaps",
    "bradley_terry",
    "elo",
    "fit",
    "length_control",
    "merge",
    "rank",
    "swap_consistency",
    "unbounded",
]

K = 4.0
START = 1000.0
"""Elo as in the paper (arXiv 2504.20157): K=4, start 1000, base 10, scale 400."""
SCALE = 400 / math.log(10)
PRIOR = 1e-3
"""Wins that every model gets against every other one beforehand. They keep the rating of a model
that won all its games finite, and move one of 500 games by less than 0.01."""
RIDGE = 1e-3
"""The same for the logistic regression of `length_control`."""


def elo(games: Iterable[Game], *, k: float = K, start: float = START) -> dict[str, float]:
    """Elo ratings after all games, one after the other.

    Not by `evalica`, whose ratings differ from the published files in the last bits.

    Args:
        games: Games in play order.
        k: The most that one game moves a rating.
        start: Rating of a model before its first game.
    """
    ratings: dict[str, float] = {}
    for game in games:
        one, other = ratings.get(game.first, start), ratings.get(game.second, start)
        # Each expectation by itself: 1 - expected differs from it in the last bit.
        expected_one = 1 / (1 + 10 ** ((other - one) / 400))
        expected_other = 1 / (1 + 10 ** ((one - other) / 400))
        ratings[game.first] = one + k * (game.score - expected_one)
        ratings[game.second] = other + k * ((1 - game.score) - expected_other)
    return ratings


def merge(runs: Sequence[Mapping[str, float]]) -> tuple[dict[str, float], dict[str, float]]:
    """Mean and population standard deviation of each model's rating over several runs.

    A model counts in the runs that it played in.
    """
    means, deviations = {}, {}
    for name in sorted({name for run in runs for name in run}):
        values = [run[name] for run in runs if name in run]
        mean = sum(values) / len(values)
        means[name] = mean
        deviations[name] = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return means, deviations


# ---------------------------------------------------------------------- Bradley–Terry


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
    require("evalica")
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
    start: float = START,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Strengths:
    """Ratings with 95 % percentile intervals from a bootstrap over prompts, and win rates.

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
    by_sample = [wins.sum(0)[None]]
    if prompts > 1:
        by_sample += [weights @ wins for weights in resample_weights(prompts, resamples, seed)]
    sampled = np.concatenate(by_sample).reshape(-1, len(models), len(models))
    ratings = start + SCALE * np.array([fit(one) for one in sampled])
    pairs = [(i, j) for i in range(len(models)) for j in range(len(models)) if i != j]
    gaps = ratings[:, [i for i, _ in pairs]] - ratings[:, [j for _, j in pairs]]
    names = [(models[i], models[j]) for i, j in pairs]
    return Strengths(
        ratings=dict(zip(models, intervals(ratings), strict=True)),
        gaps=dict(zip(names, intervals(gaps), strict=True)),
        win_rates={model: _win_rate(games, model) for model in models},
    )


def _win_rate(games: Sequence[Game], model: str) -> Interval:
    scores = [(game.query, game.score) for game in games if game.first == model]
    scores += [(game.query, 1 - game.score) for game in games if game.second == model]
    if not scores:
        return Interval(0.5, None, None)
    return mean_interval([score for _, score in scores], [query for query, _ in scores])


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


def unbounded(games: Sequence[Game], models: Sequence[str]) -> list[str]:
    """The models whose rating has no finite estimate: all of them, or none.

    Ratings are finite only if every model can be reached from every other one through a chain of
    wins. Otherwise some models won or lost all their games against the rest, and how far they
    stand apart is decided by `PRIOR`.

    Raises:
        MissingExtraError: scipy is not installed.
    """
    require("scipy")
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
    require("scipy")
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


# ---------------------------------------------------------------------- ranking


@dataclass(frozen=True)
class Swaps:
    """Consistency of the verdicts on the same two responses in both orders."""

    pairs: int
    """Number of pairs of verdicts, one verdict in each order."""
    same: int
    """Number of those pairs that agree on the responses."""

    @property
    def rate(self) -> float | None:
        """Share of pairs that agree, 0 to 1; None where nothing was judged in both orders."""
        return self.same / self.pairs if self.pairs else None


@dataclass(frozen=True)
class Ranking:
    """Ranking of the models that played, and figures on the judge."""

    models: tuple[str, ...]
    """Models by Bradley–Terry rating, best first."""
    games: int
    prompts: int
    ties: int
    strengths: Strengths
    length: LengthControl | None
    """Length-controlled win rates; None where the games do not hold the responses."""
    swaps: Swaps
    first_wins: float
    """Share of games that the response shown first won, ties half: 0.5 for a judge without
    position bias, if each pair was judged in both orders."""
    unbounded: tuple[str, ...]
    """Models whose rating has no finite estimate, since some won or lost all their games."""

    def to_json(self) -> dict[str, Any]:
        """JSON values; ratings in points, rates 0 to 1, bounds null where there is one prompt."""
        strengths = self.strengths
        length = asdict(self.length) if self.length else None
        controlled = length.pop("win_rates") if length else {}
        best_first = [(a, b) for n, a in enumerate(self.models) for b in self.models[n + 1 :]]
        return {
            "bt": {name: _rating(strengths.ratings[name]) for name in self.models},
            "gaps": [
                {"models": [a, b], **_rating(strengths.gaps[a, b], "gap")} for a, b in best_first
            ],
            "win_rate": {
                name: {
                    **_rating(strengths.win_rates[name], "raw"),
                    "length_controlled": controlled.get(name),
                }
                for name in self.models
            },
            "length": length,
            "swap_consistency": {**asdict(self.swaps), "rate": self.swaps.rate},
            "first_shown_wins": self.first_wins,
            "games": self.games,
            "prompts": self.prompts,
            "ties": self.ties,
            "unbounded": list(self.unbounded),
        }


def _rating(interval: Interval, name: str = "rating") -> dict[str, float | None]:
    return {name: interval.value, "low": interval.low, "high": interval.high}


def rank(
    games: Sequence[Game], *, start: float = START, resamples: int = RESAMPLES, seed: int = 0
) -> Ranking:
    """Rank the models that played.

    Args:
        games: At least one game.
        start: Mean of all ratings.
        resamples: Number of bootstrap resamples over prompts.
        seed: Random seed for the resamples.

    Raises:
        DataError: Some models never met, not even through others.
        MissingExtraError: evalica or scipy is not installed.
    """
    check_connected((game.first, game.second) for game in games)
    models = models_of(games)
    strengths = bradley_terry(games, models, start=start, resamples=resamples, seed=seed)
    return Ranking(
        models=tuple(sorted(models, key=lambda name: -strengths.ratings[name].value)),
        games=len(games),
        prompts=len({game.query for game in games}),
        ties=sum(game.score == 0.5 for game in games),
        strengths=strengths,
        length=length_control(games, models),
        swaps=swap_consistency(games),
        first_wins=sum(game.score for game in games) / len(games),
        unbounded=tuple(unbounded(games, models)),
    )


def swap_consistency(games: Sequence[Game]) -> Swaps:
    """Count pairs of games on the same two responses in both orders, and their equal verdicts."""
    met: dict[tuple[str, ...], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for game in games:
        sides = ((game.first, game.first_response), (game.second, game.second_response))
        reversed_order = sides[0][0] > sides[1][0]
        ordered = sides[::-1] if reversed_order else sides
        key = (game.query, *(str(part) for side in ordered for part in side))
        # Always the score of the same model, in the pile of the order in which it was shown.
        met[key][reversed_order].append(1 - game.score if reversed_order else game.score)
    pairs = same = 0
    for scores, reversed_scores in met.values():
        pairs += len(scores) * len(reversed_scores)
        same += sum(one == other for one in scores for other in reversed_scores)
    return Swaps(pairs, same)
