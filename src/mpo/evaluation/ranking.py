"""Rankings from games: ratings with intervals, win rates, and how far the judge can be trusted.

Bradley–Terry is for conclusions. Elo is here to compare with published figures: it depends on the
order of the games, and shuffling 500 of them moves a rating by about 10.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .bradley_terry import LengthControl, Strengths, bradley_terry, length_control, unbounded
from .games import Game, check_connected, models_of
from .intervals import RESAMPLES, Interval

__all__ = ["START", "K", "Ranking", "Swaps", "elo", "merge", "rank", "swap_consistency"]

K = 4.0
START = 1000.0
"""Elo as in the paper (arXiv 2504.20157): K=4, start 1000, base 10, scale 400."""


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
        best_first = [(a, b) for n, a in enumerate(self.models) for b in self.models[n + 1 :]]
        return {
            "bt": {name: _rating(strengths.ratings[name]) for name in self.models},
            "gaps": [
                {"models": [a, b], **_rating(strengths.gaps[a, b], "gap")} for a, b in best_first
            ],
            "win_rate": {
                name: {
                    **_rating(strengths.win_rates[name], "raw"),
                    "length_controlled": self.length.win_rates[name] if self.length else None,
                }
                for name in self.models
            },
            "length": self._length(),
            "swap_consistency": {**asdict(self.swaps), "rate": self.swaps.rate},
            "first_shown_wins": self.first_wins,
            "games": self.games,
            "prompts": self.prompts,
            "ties": self.ties,
            "unbounded": list(self.unbounded),
        }

    def _length(self) -> dict[str, float] | None:
        if self.length is None:
            return None
        return {key: value for key, value in asdict(self.length).items() if key != "win_rates"}


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
