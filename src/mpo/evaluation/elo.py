"""Elo in play order, as in the paper (§3.2): K=4, start 1000, base 10, scale 400.

Elo depends on the order of the games; shuffling 500 of them moves a rating by about 10
(notes/reference.md §C). It is here to compare with published figures; for conclusions there is
Bradley–Terry.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

from .games import Game

__all__ = ["START", "K", "elo", "merge"]

K = 4.0
START = 1000.0


def elo(games: Iterable[Game], *, k: float = K, start: float = START) -> dict[str, float]:
    """Ratings after all games, one after the other.

    Args:
        games: In play order.
        k: Most that one game moves a rating.
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
