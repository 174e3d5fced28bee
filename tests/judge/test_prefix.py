"""What a server's prefix cache sees: the bytes before the response are the group's, not the
rollout's, in every protocol and in a whole run through `EvolvingReward`."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import make_reward, text_of
from mpo.chat import ChatRequest, Message, Schema, ScriptedChat
from mpo.records import Rollout
from mpo.rubric import Criterion, Rubric
from mpo.task import load_task

GROUP = 6
RUBRIC = Rubric(criteria=tuple(Criterion(name=f"c{n}", text="Look. " * 40) for n in range(4)))
GUIDELINES = Rubric(criteria=(Criterion(name="Guidelines", text="Check each step. " * 20),))
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "single": ("essay", {"protocol": "single"}, 1),
    "single, in order": ("essay", {"protocol": "single", "shuffle": False}, 1),
    "single, split": ("essay", {"protocol": "single", "criteria_per_call": 2}, 2),
    "per_criterion": ("essay", {"protocol": "per_criterion"}, 4),
    "dialogue": ("essay", {"protocol": "dialogue"}, 8),
    "plan_execute": ("math", {"protocol": "plan_execute", "answer_check": "off"}, 3),
}


def answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    if schema is None:
        return "It does what it says."
    if schema["title"] == "score":
        return '{"score": 3}'
    entry = {"rationale": "because", "score": 3}
    return json.dumps(dict.fromkeys(schema["properties"], entry))


def asked(tmp_path: Path, case: str) -> list[ChatRequest]:
    """All calls for two groups that differ in their prompts."""
    name, rm, per_rollout = CASES[case]
    chat = ScriptedChat(answer)
    reward = make_reward(
        load_task(name).with_rm(**rm),
        chat,
        tmp_path / "a.db",
        rubric=GUIDELINES if name == "math" else RUBRIC,
        every=None,
    )
    rollouts = [
        Rollout(
            prompt=f"Task {p}",
            completion=f"Completion {g} of task {p}. " * (10 + g),
            columns={"solution": f"solution {p}"},
            step=4,
            index=GROUP * p + g,
        )
        for p in range(2)
        for g in range(GROUP)
    ]
    judgements = asyncio.run(reward.score(rollouts))
    assert all(j.reward is not None for j in judgements)
    assert len(chat.calls) == 2 * GROUP * per_rollout
    return chat.calls


def prefixes(calls: Sequence[ChatRequest], prompt: str) -> list[bytes]:
    """Of each call of a group: everything before the response."""
    texts = [text_of(call.messages) for call in calls]
    return [text.partition("<RESPONSE")[0].encode() for text in texts if prompt in text]


@pytest.mark.parametrize("case", CASES)
def test_bytes_before_the_response_are_the_same_for_a_group(tmp_path: Path, case: str) -> None:
    calls = asked(tmp_path, case)
    # Calls of one rollout differ where criteria come before the response: as many as there are
    # parts, and no more however large the group.
    distinct = {"single, split": 2, "plan_execute": 2}.get(case, 1)
    for prompt in ("Task 0", "Task 1"):
        found = [p for p in prefixes(calls, prompt) if b"EXECUTION" not in p]
        assert len(found) >= GROUP
        assert len(set(found)) == distinct
        assert all(len(prefix) > 300 for prefix in found)


def test_the_rubric_stands_before_the_response_where_it_can(tmp_path: Path) -> None:
    """So that a group pays for it once, and in the rubric's own order a whole step does."""
    calls = asked(tmp_path, "single, in order")
    first, other = (prefixes(calls, prompt)[0] for prompt in ("Task 0", "Task 1"))
    shared = next(n for n, (a, b) in enumerate(zip(first, other, strict=False)) if a != b)
    assert b"Look. " in first[:shared]
    # Fence ids differ, though one time in sixteen not in their first digit.
    assert re.search(rb'<PROMPT id="[0-9a-f]*$', first[:shared]), "they part where the task begins"


def test_a_plan_is_the_same_question_for_the_whole_group(tmp_path: Path) -> None:
    plans = [c for c in asked(tmp_path, "plan_execute") if "<RESPONSE" not in text_of(c.messages)]
    texts = {text_of(c.messages) for c in plans if "<EXECUTION" not in text_of(c.messages)}
    assert len(texts) == 2, "one for each problem: a reply cache answers the others"
