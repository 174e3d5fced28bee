"""Games: each is one verdict of a judge on the responses of two models to one prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .rows import Row, text_column

__all__ = ["Game", "check_connected", "models_of", "read_games"]

_TIES = frozenset({"tie", "draw", "both", "equal", "neither", "tie (bothbad)"})
_SIDES = {"a": 0, "b": 1, "model_a": 0, "model_b": 1, "modela": 0, "modelb": 1}


@dataclass(frozen=True, slots=True)
class Game:
    """One verdict. The first model is the one whose response the judge saw first."""

    query: str
    first: str
    second: str
    score: float
    """Score of the first model: 1 won, 0.5 tie, 0 lost."""
    first_response: str | None = None
    second_response: str | None = None


def read_games(rows: Sequence[Row], where: str) -> tuple[list[Game], int]:
    """The games of a verdict file, in play order, and the number of rows without a verdict.

    A row has `query`, `model_a` (shown first), `model_b`, `winner`, and may have the two
    `model_a_response` and `model_b_response`. The winner is a model's name, `A` or `B`, `tie` or
    `draw`; null means that the judge gave no usable answer, which is no tie and is left out.

    Raises:
        DataError: There are no rows, a column is missing, or a winner is neither of the two.
    """
    if not rows:
        raise DataError(f"{where} is empty: it has no verdicts")
    if all(isinstance(row.get("game"), int) for row in rows):
        rows = sorted(rows, key=lambda row: int(row["game"]))  # written as the answers came in
    games = []
    for number, row in enumerate(rows, start=1):
        game = _game(row, f"{where}, row {number}")
        if game is not None:
            games.append(game)
    if not games:
        raise DataError(f"{where}: none of its {len(rows)} rows has a verdict")
    return games, len(rows) - len(games)


def _game(row: Mapping[str, Any], where: str) -> Game | None:
    query = text_column(row, ("query", "prompt"), where)
    first, second = text_column(row, ("model_a",), where), text_column(row, ("model_b",), where)
    if first == second:
        raise DataError(f"{where}: model {first!r} plays against itself")
    if "winner" not in row:
        raise DataError(f"{where}: has no column 'winner'; its columns are {', '.join(row)}")
    if row["winner"] is None:
        return None
    responses = [row.get("model_a_response"), row.get("model_b_response")]
    texts = [text if isinstance(text, str) else None for text in responses]
    return Game(query, first, second, _score(row["winner"], first, second, where), *texts)


def _score(winner: Any, first: str, second: str, where: str) -> float:
    # A model may be called "A" or "tie": names go before the other words.
    for name in (winner, winner.strip() if isinstance(winner, str) else winner):
        if name in (first, second):
            return float(name == first)
    word = winner.strip().lower() if isinstance(winner, str) else None
    if word in _TIES:
        return 0.5
    if word in _SIDES:
        return 1.0 - _SIDES[word]
    raise DataError(
        f"{where}: winner {winner!r:.60} is neither {first!r} nor {second!r}, nor 'tie' (null "
        "where there is no verdict)"
    )


def models_of(games: Iterable[Game]) -> list[str]:
    """The models' names, sorted."""
    return sorted({name for game in games for name in (game.first, game.second)})


def check_connected(pairs: Iterable[tuple[str, str]]) -> None:
    """Check that every model met every other one, directly or through others.

    Raises:
        DataError: The models fall into parts that never met: no rating could compare them.
    """
    part: dict[str, set[str]] = {}
    for one, other in pairs:
        joined = part.get(one, {one}) | part.get(other, {other})
        for name in joined:
            part[name] = joined
    parts = sorted({tuple(sorted(names)) for names in part.values()})
    if len(parts) > 1:
        shown = " | ".join(", ".join(names) for names in parts)
        raise DataError(
            f"the models fall into {len(parts)} parts that were never compared with each other: "
            f"{shown}; judge some pairs between them, or rank each part by itself"
        )
