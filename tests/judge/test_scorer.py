"""`max_unscored` over a whole step, and counts of reasons: failure is missing data."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import batch, judge_reply, loop_answer, make_reward, text_of
from mpo.chat import ChatRequest, Completion, Message, Schema, ScriptedChat
from mpo.errors import ChatReplyError, ChatTransportError, UnscoredError
from mpo.records import Rollout
from mpo.reward import EvolvingReward
from mpo.store import Store
from mpo.task import load_task


def failing(*marks: str, error: Exception | None = None) -> ScriptedChat:
    """An RM that fails for texts with one of the marks."""

    def answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> Any:
        text = text_of(messages)
        if any(mark in text for mark in marks):
            return error or ChatTransportError("unreachable: down")
        assert schema is not None
        return judge_reply(messages, schema)

    return ScriptedChat(answer)


def make(path: Path, chat: ScriptedChat, **options: Any) -> EvolvingReward:
    return make_reward("essay", chat, path, **{"every": None, **options})


def score(reward: EvolvingReward, rollouts: Sequence[Rollout]) -> list[float | None]:
    return [j.reward for j in asyncio.run(reward.score(rollouts))]


def numbered(step: int, numbers: range, bad: Sequence[int] = ()) -> list[Rollout]:
    return [
        Rollout(prompt="p", completion=f"text {n} {'BAD' if n in bad else 'good'}", step=step)
        for n in numbers
    ]


def test_failures_of_several_calls_add_up_over_the_step(tmp_path: Path) -> None:
    reward = make(tmp_path / "a.db", failing("BAD"))
    score(reward, numbered(0, range(32)))
    # One of eight is unscored in each call: none is too many in itself, nor are two of the step.
    for first in (0, 8):
        got = score(reward, numbered(1, range(first, first + 8), bad=[first]))
        assert got.count(None) == 1
    reward = make(tmp_path / "b.db", failing("BAD"), max_unscored=0.05)
    score(reward, numbered(0, range(32)))
    score(reward, numbered(1, range(8), bad=[0]))
    with pytest.raises(UnscoredError, match=r"2 of 16 rollouts of step 1 .*max_unscored=0.05"):
        score(reward, numbered(1, range(8, 16), bad=[8]))


def test_a_small_call_is_measured_by_the_step_before(tmp_path: Path) -> None:
    """Two of four failed, but the step will have 32: a micro-batch must not stop the run."""
    reward = make(tmp_path / "a.db", failing("BAD"))
    score(reward, numbered(0, range(32)))
    assert score(reward, numbered(1, range(4), bad=[0, 1])).count(None) == 2
    score(reward, numbered(1, range(4, 32)))
    assert asyncio.run(reward.step(2)) is None, "2 of 32 are few enough"


def test_a_step_that_stayed_small_is_found_at_its_end(tmp_path: Path) -> None:
    reward = make(tmp_path / "a.db", failing("BAD"))
    score(reward, numbered(0, range(32)))
    score(reward, numbered(1, range(4), bad=[0, 1]))
    with pytest.raises(UnscoredError, match="2 of 4 rollouts of step 1"):
        asyncio.run(reward.step(2))
    # The endpoint is back, and the same rollouts are asked for again.
    mended = make(tmp_path / "a.db", failing())
    score(mended, numbered(1, range(4), bad=[0, 1]))
    assert asyncio.run(mended.step(2)) is None


def test_ranks_count_together(tmp_path: Path) -> None:
    """Two objects on one file, as two processes have them."""
    path = tmp_path / "a.db"
    ranks = [make(path, failing("BAD")) for _ in range(2)]
    score(ranks[0], numbered(0, range(10)))
    assert score(ranks[0], numbered(1, range(8), bad=[0])).count(None) == 1
    with pytest.raises(UnscoredError, match="4 of 12"):
        score(ranks[1], numbered(1, range(8, 12), bad=[8, 9, 10]))


def test_evaluation_is_counted_apart(tmp_path: Path) -> None:
    reward = make(tmp_path / "a.db", failing("BAD"))
    evals = [
        Rollout(prompt="p", completion=r.completion, step=1, mode="eval")
        for r in numbered(1, range(4), bad=[0])
    ]
    score(reward, numbered(1, range(8), bad=[0]))
    assert score(reward, evals).count(None) == 1


def test_one_failure_never_stops_a_run(tmp_path: Path) -> None:
    reward = make(tmp_path / "a.db", failing("BAD"), max_unscored=0.0)
    assert score(reward, numbered(0, range(1), bad=[0])) == [None]


def test_reasons_are_counted_by_their_first_word(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    down = make(path, failing("BAD"), max_unscored=1.0)
    score(down, numbered(0, range(8), bad=[0, 1]))
    refused = make(path, failing("about 1", error=ChatReplyError("refused: \ud800 no: way")))
    score(refused, batch(3, prompts=10, group=1))
    with Store(path) as store:
        assert store.unscored() == {"unreachable": 2, "refused": 1}
        assert store.unscored(mode="eval") == {}
        assert store.unscored(cohort="elsewhere") == {}
        before = store.snapshot(4)
    # Scored later: the failure is history.
    score(make(path, ScriptedChat(loop_answer)), numbered(0, range(8), bad=[0, 1]))
    with Store(path) as store:
        assert store.unscored() == {"refused": 1}
        store.restore(before)
        assert store.unscored() == {"unreachable": 2, "refused": 1}


class Slow:
    """An RM that answers in time, or in an hour."""

    name = "slow"

    def __init__(self) -> None:
        self.inner = failing()

    async def complete(self, request: ChatRequest) -> Completion:
        await asyncio.sleep(3600 if "BAD" in text_of(request.messages) else 0)
        return await self.inner.complete(request)

    async def aclose(self) -> None:
        return None


def test_a_step_ends_by_its_deadline(tmp_path: Path) -> None:
    with Store(tmp_path / "a.db") as store:
        reward = make_reward("essay", Slow(), store, every=None, deadline_s=0.3, max_unscored=0.5)
        judgements = asyncio.run(reward.score(numbered(0, range(6), bad=[2, 4])))
        late = [n for n, judgement in enumerate(judgements) if judgement.reward is None]
        assert late == [2, 4]
        assert judgements[2].unscored == "deadline: no answer within the 0.3 s that a step may take"
        assert store.count(scored=None) == 6
        assert store.unscored() == {"deadline": 2}


def test_a_judgement_at_another_temperature_is_another(tmp_path: Path) -> None:
    chat = failing()
    rollouts = numbered(0, range(3))
    task = load_task("essay")
    for temperature, asked in ((0.0, 3), (0.7, 6), (0.7, 6), (0.0, 6)):
        score(make_reward(task.with_rm(temperature=temperature), chat, tmp_path / "a.db"), rollouts)
        assert len(chat.calls) == asked
