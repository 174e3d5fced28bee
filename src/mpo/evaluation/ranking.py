"""A ranking from games: ratings with intervals, win rates, and how far the judge can be trusted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .bootstrap import RESAMPLES, Interval
from .bradley_terry import LengthControl, Strengths, bradley_terry, length_control, unbounded
from .elo import START
from .games import Game, check_connected, models_of

__all__ = ["Ranking", "Swaps", "rank", "swap_consistency"]


@dataclass(frozen=True)
class Swaps:
    """Verdicts on the same two responses in both orders."""

    pairs: int
    """Pairs of verdicts, one of either order."""
    same: int
    """Of them, those that say the same of the responses."""

    @property
    def rate(self) -> float | None:
        """Share that agrees; None where nothing was judged in both orders."""
        return self.same / self.pairs if self.pairs else None


@dataclass(frozen=True)
class Ranking:
    """What games say of the models that played them."""

    models: tuple[str, ...]
    """Best first, by Bradley–Terry."""
    games: int
    prompts: int
    ties: int
    strengths: Strengths
    length: LengthControl | None
    """None where the games do not hold the responses."""
    swaps: Swaps
    first_wins: float
    """Share of games that the response shown first won, ties half: 0.5 for a judge without
    position bias, if each pair was judged in both orders."""
    unbounded: tuple[str, ...]
    """Models whose rating has no finite estimate: they won or lost all games against some
    others."""

    def to_json(self) -> dict[str, Any]:
        """JSON values; ratings in points, rates 0 to 1, bounds null where one prompt is all."""
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
        games: At least one.
        start: Mean of all ratings.
        resamples: Bootstrap draws over prompts.
        seed: Of the draws.

    Raises:
        DataError: Some models never met, not even through others.
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
    """How often the judge says the same of two responses when they change places."""
    met: dict[tuple[str, ...], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    for game in games:
        sides = ((game.first, game.first_response), (game.second, game.second_response))
        turned = sides[0][0] > sides[1][0]
        ordered = sides[::-1] if turned else sides
        key = (game.query, *(str(part) for side in ordered for part in side))
        # Always the score of the same model, in the pile of the order in which it was shown.
        met[key][turned].append(1 - game.score if turned else game.score)
    pairs = same = 0
    for straight, turned_round in met.values():
        pairs += len(straight) * len(turned_round)
        same += sum(one == other for one in straight for other in turned_round)
    return Swaps(pairs, same)
