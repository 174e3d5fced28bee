"""A rubric on preference pairs, with a scripted reward model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from fakes import make_reward
from mpo.chat import Message, Schema, ScriptedChat
from mpo.data import read_table
from mpo.errors import ChatTransportError, DataError
from mpo.evaluation.judge_accuracy import (
    JudgedPair,
    PreferencePair,
    accuracy,
    read_pair,
    score_pairs,
)
from mpo.reward import EvolvingReward
from mpo.sanitize import find_fences

LLMBAR = [
    {"input": "Say A.", "output_1": "A, gladly, as you ask", "output_2": "A", "label": 2},
    {"input": "Say B.", "output_1": "B", "output_2": "C", "label": 1},
]


def pairs_of(rows: list[dict[str, Any]], folder: Path, subset: str = "") -> list[PreferencePair]:
    path = folder / "f.json"
    path.write_text(json.dumps(rows))
    return read_table(path, lambda row: read_pair(row, subset)).rows


def test_two_forms_of_pairs(tmp_path: Path) -> None:
    assert pairs_of(LLMBAR, tmp_path, "Natural") == [
        PreferencePair("Say A.", "A", "A, gladly, as you ask", "Natural"),
        PreferencePair("Say B.", "B", "C", "Natural"),
    ]
    rows = [{"prompt": "p", "chosen": "c", "rejected": "r", "subset": "hard"}]
    assert pairs_of(rows, tmp_path, "other") == [PreferencePair("p", "c", "r", "hard")]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "f.json is empty"),
        ([{"prompt": "p", "chosen": "c"}], "row 1: 'rejected' is missing"),
        ([LLMBAR[0], {**LLMBAR[1], "label": 0}], "row 2: label 0 is neither 1 nor 2"),
        ([{**LLMBAR[0], "label": None}], "label None is neither"),
    ],
)
def test_bad_pairs(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        pairs_of(rows, tmp_path)


def reward_with(path: Path, score: Any) -> tuple[EvolvingReward, ScriptedChat]:
    """An essay reward that gives every criterion the score of the response's text."""

    def reply(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        assert schema is not None
        (response,) = find_fences(messages[-1]["content"], "RESPONSE")
        given = score(response)
        if given is None:
            return "no JSON"
        return json.dumps({key: {"rationale": "", "score": given} for key in schema["required"]})

    chat = ScriptedChat(reply)
    return make_reward("essay", chat, path, every=None, max_unscored=1.0), chat


def judge(reward: EvolvingReward, pairs: Sequence[PreferencePair]) -> list[JudgedPair]:
    return asyncio.run(score_pairs(reward, pairs))


PAIRS = [
    PreferencePair("p1", "five 5", "two and some more words 2", "a"),
    PreferencePair("p2", "one 1", "four words are here 4", "a"),
    PreferencePair("p3", "three 3", "three too 3", "b"),
    PreferencePair("p4", "five 5", "nothing ?", "b"),
]


def last_digit(text: str) -> int | None:
    return int(text[-1]) if text[-1].isdigit() else None


def test_accuracy_ties_and_unscored(tmp_path: Path) -> None:
    reward, chat = reward_with(tmp_path / "mpo.db", last_digit)
    outcomes = judge(reward, PAIRS)
    assert [outcome.credit for outcome in outcomes] == [1, 0, 0.5, None]
    body = asdict(accuracy(outcomes))
    assert body["accuracy"] == 0.5
    assert body["strict_accuracy"] == pytest.approx(1 / 3)
    assert (body["pairs"], body["n"], body["ties"], body["unscored"]) == (4, 3, 1, 1)
    assert body["baselines"] == {"length": 0.125, "tie": 0.5}, "p4: 2 words against 2"
    head = reward.rubric()
    asked = len(chat.calls)
    assert judge(reward, PAIRS[:3])[1].credit == 0
    assert len(chat.calls) == asked, "what the store holds is not asked again"
    assert reward.rubric() == head, "an evaluation never moves the head"


def test_pairs_never_reach_the_mrm(tmp_path: Path) -> None:
    reward, _ = reward_with(tmp_path / "mpo.db", last_digit)
    judge(reward, PAIRS)
    assert reward.store.window(cohort=None) == []
    assert len(reward.store.window(cohort=None, mode="eval")) == 7


def test_nothing_scored_is_an_error_and_no_accuracy(tmp_path: Path) -> None:
    reward, _ = reward_with(tmp_path / "mpo.db", lambda text: None)
    with pytest.raises(ChatTransportError, match="none of the first 4 pairs.*invalid_json"):
        judge(reward, PAIRS)
    lost = accuracy(judge(reward_with(tmp_path / "b.db", last_digit)[0], PAIRS)[3:])
    assert lost.accuracy is None


def test_the_interval_of_a_perfect_judge_does_not_collapse(tmp_path: Path) -> None:
    reward, _ = reward_with(tmp_path / "mpo.db", lambda text: 5 if "good" in text else 0)
    pairs = [PreferencePair(f"p{n}", f"good {n}", f"bad {n}") for n in range(40)]
    found = accuracy(judge(reward, pairs))
    assert (found.accuracy, found.high) == (1, 1)
    assert found.low is not None
    assert 0.8 < found.low < 0.95
