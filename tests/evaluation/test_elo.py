"""Elo in play order: bit for bit what the paper's files say; and reading verdicts."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from mpo.data import read_rows
from mpo.errors import DataError
from mpo.evaluation.games import Game, check_connected, models_of, read_games
from mpo.evaluation.ranking import elo, merge, swap_consistency
from shared_data import shared_data


def real_runs(folder: Path) -> dict[str, list[Game]]:
    return {
        path.name.removesuffix(".jsonl.gz"): read_games(read_rows(path), path.name)[0]
        for path in sorted(folder.glob("*.jsonl.gz"))
    }


def test_elo_of_the_published_games_is_exact() -> None:
    folder = shared_data("elo")
    runs = real_runs(folder)
    assert len(runs) == 5
    ratings = []
    for name, games in runs.items():
        stored = json.loads((folder / f"{name}.scores.json").read_text())
        ratings.append(elo(games, k=4, start=1000))
        assert ratings[-1] == stored
    (merged,) = folder.glob("*merged.scores.json")
    means, deviations = merge(ratings)
    assert {"mean elo": means, "mean stds": deviations} == json.loads(merged.read_text())


def test_swap_consistency_of_the_published_games() -> None:
    games = [game for run in real_runs(shared_data("elo")).values() for game in run]
    swaps = swap_consistency(games)
    assert (swaps.same, swaps.pairs) == (291, 401)
    assert sum(game.score for game in games) == 1460, "the first place wins 58.4 %"


def row(a: str, b: str, winner: Any, query: str = "q") -> dict[str, Any]:
    return {"query": query, "model_a": a, "model_b": b, "winner": winner}


def test_k_start_and_ties() -> None:
    (game,) = read_games([row("a", "b", "tie")], "f")[0]
    assert elo([game]) == {"a": 1000, "b": 1000}
    won = read_games([row("a", "b", "a")], "f")[0]
    assert elo(won, k=32, start=1500) == {"a": 1516, "b": 1484}
    order = read_games([row("a", "b", "a"), row("a", "b", "b")], "f")[0]
    assert elo(order) != elo(order[::-1]), "the order of play counts"


@pytest.mark.parametrize(
    ("winner", "score"),
    [("x", 1), ("y", 0), ("tie", 0.5), ("Draw", 0.5), ("A", 1), ("model_b", 0), ("ModelA", 1)],
)
def test_ways_to_name_a_winner(winner: str, score: float) -> None:
    games, missing = read_games([row("x", "y", winner)], "f")
    assert (games[0].score, missing) == (score, 0)


def test_names_go_before_other_words() -> None:
    """Two models called B and A: `A` is the second one's name, not the first place."""
    assert read_games([row("B", "A", "A")], "f")[0][0].score == 0


def test_no_verdict_is_no_tie() -> None:
    games, missing = read_games([row("a", "b", None), row("a", "b", "b")], "f")
    assert (len(games), missing) == (1, 1)
    with pytest.raises(DataError, match="none of its 1 rows has a verdict"):
        read_games([row("a", "b", None)], "f")


def test_own_verdict_files_are_read_in_play_order() -> None:
    rows = [{**row("a", "b", "a"), "game": 1}, {**row("a", "b", "b"), "game": 0}]
    assert [game.score for game in read_games(rows, "f")[0]] == [0, 1]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "f is empty"),
        ([row("a", "a", "a")], "row 1: model 'a' plays against itself"),
        ([row("a", "b", "a"), row("a", "b", "c")], "row 2: winner 'c' is neither 'a' nor 'b'"),
        ([row("a", "b", 1)], "winner 1 is neither"),
        ([{"query": "q", "model_a": "a", "winner": "a"}], "no column 'model_b'"),
        ([{"query": "q", "model_a": "a", "model_b": "b"}], "no column 'winner'"),
        ([{"model_a": "a", "model_b": "b", "winner": "a"}], "no column 'query'"),
    ],
)
def test_bad_verdicts_are_named(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_games(rows, "f")


def test_a_disconnected_graph_is_refused() -> None:
    check_connected([("a", "b"), ("c", "d"), ("d", "a")])
    with pytest.raises(DataError, match=r"2 parts .* a, b | c, d"):
        check_connected([("a", "b"), ("c", "d")])


@pytest.mark.parametrize("form", ["lines", "list", "gz", "bom"])
def test_forms_of_a_file(tmp_path: Path, form: str) -> None:
    rows = [row("a", "b", "a", "one\u2028two"), row("b", "a", "tie")]
    text = "\n".join(json.dumps(one, ensure_ascii=False) for one in rows)
    content = {
        "lines": text.encode(),
        "list": json.dumps(rows, indent=1).encode(),
        "gz": gzip.compress(json.dumps(rows).encode()),
        "bom": b"\xef\xbb\xbf" + text.encode() + b"\n",
    }[form]
    path = tmp_path / "verdicts.any"
    path.write_bytes(content)
    assert read_rows(path) == rows
    assert models_of(read_games(read_rows(path), "f")[0]) == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"a": 1}\n{"a": \n', "f:2: not JSON"),
        (b"[1, 2]", "row 1: must be a JSON object"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8"),
        (b"\x1f\x8b\x08nothing", "cannot be read"),
    ],
)
def test_what_is_no_file_of_rows(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_rows(tmp_path / "f")
    with pytest.raises(DataError, match="no such file"):
        read_rows(tmp_path / "g")
