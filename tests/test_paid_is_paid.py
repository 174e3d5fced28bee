"""What was paid for is counted once and everywhere (law 15), and not asked for in vain."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import batch, loop_answer, loop_chat, make_reward, meta_reply
from mpo.chat import Chat, Message, Schema, ScriptedChat
from mpo.chat.base import ChatRequest, ChatWrapper, Completion
from mpo.chat.event_loop import run_in_loop
from mpo.config import compose
from mpo.config.chats import Chats
from mpo.config.schema import BudgetConfig
from mpo.errors import BudgetError, ChatReplyError
from mpo.records import Usage
from mpo.reward import EvolvingReward
from mpo.store import Store

PRICES = {"rm": [1.0, 10.0], "mrm": [2.0, 20.0], "second": [3.0, 30.0]}


def composed(
    store: Store, mrm: Chat, *, calls: int | None = None, rm: Chat | None = None, delay: int = 2
) -> tuple[Chats, EvolvingReward]:
    chats = compose(
        rm or loop_chat("rm"),
        mrm,
        BudgetConfig(prices=PRICES, calls=calls),
        store,
        cache=True,
        second_judge=loop_chat("second"),
    )
    reward = make_reward(
        "essay",
        chats.rm,
        store,
        meta_chat=chats.mrm,
        second_judge=chats.audit,
        every=4,
        delay=delay,
        samples=2,
    )
    return chats, reward


def train(reward: EvolvingReward, first: int, last: int, end: int | None = None) -> None:
    for n in range(first, last + 1):
        run_in_loop(reward.score(batch(n - 1, prompts=4)))
        run_in_loop(reward.step(n, end))


class Stalled(ChatWrapper):
    """A chat that stops answering after so many calls."""

    def __init__(self, inner: Chat, answers: int) -> None:
        super().__init__(inner)
        self.left = answers

    async def complete(self, request: ChatRequest) -> Completion:
        self.left -= 1
        if self.left < 0:
            await asyncio.Event().wait()
        return await self.inner.complete(request)


def faulty(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> Any:
    """An MRM whose analyses can be used, and whose rubrics cannot be read."""
    assert schema is not None
    if schema["title"] == "analysis":
        return meta_reply(messages, schema)
    return ChatReplyError("malformed: the reply has no choices")


def figures(chats: Chats, store: Store) -> dict[str, dict[str, int]]:
    """The run's usage by role: one number, wherever it is read."""
    stored = {role: usage.model_dump() for role, usage in store.usage().items() if usage.calls}
    printed = {
        role: {key: count for key, count in cost.items() if key != "usd"}
        for role, cost in chats.costs().items()
    }
    capped = {role: spent.usage.model_dump() for role, spent in chats.budget.ledger.items()}
    with Store(store.path) as other:
        store.flush()
        read = {role: usage.model_dump() for role, usage in other.usage().items() if usage.calls}
    assert stored == printed == capped == read
    assert sum(cost["usd"] for cost in chats.costs().values()) == pytest.approx(
        chats.budget.spent.usd
    )
    return stored


def given_up(store: Store) -> list[Any]:
    return [d for d in store.lineage() if d.kind == "given_up"]


def test_all_figures_are_one_number_whatever_happened(tmp_path: Path) -> None:
    rm, mrm = loop_chat("rm"), ScriptedChat(faulty, name="mrm")
    with Store(tmp_path / "mpo.db") as store:
        chats, reward = composed(store, mrm, rm=rm)
        train(reward, 1, 6)
        (decision,) = [d for d in store.lineage() if d.kind == "evolve"]
        assert not decision.accepted, "the MRM failed, and was paid all the same"
        before = figures(chats, store)
        assert before["mrm"]["calls"] == len(mrm.calls) == decision.usage.calls
        assert store.stored_usage() == store.usage()
        assert before["rm"]["calls"] == len(rm.calls)
        # Another start, which finds judgements and answers there, and goes on.
        chats, reward = composed(store, loop_chat("mrm"), rm=rm)
        assert figures(chats, store) == before
        train(reward, 5, 9)
        run_in_loop(reward.aclose())
        after = figures(chats, store)
        assert after["rm"]["calls"] == len(rm.calls) > before["rm"]["calls"]
        assert after["mrm"]["calls"] > before["mrm"]["calls"]
        assert store.stored_usage() == store.usage()


def test_a_meta_step_that_is_given_up_is_in_the_store_with_its_usage(tmp_path: Path) -> None:
    mrm = Stalled(loop_chat("mrm"), answers=3)
    with Store(tmp_path / "mpo.db") as store:
        chats, reward = composed(store, mrm)
        train(reward, 1, 4)
        while mrm.left >= 0:  # the shared loop works on it
            run_in_loop(asyncio.sleep(0.01))
        run_in_loop(reward.aclose())
        (decision,) = given_up(store)
        assert decision.usage.calls == 3
        assert (decision.due, decision.step, decision.accepted) == (4, 4, False)
        assert decision.reason == "given up: the run was stopped"
        assert figures(chats, store)["mrm"]["calls"] == 3
        # It decides nothing: the next start holds it again.
        _, reward = composed(store, loop_chat("mrm"))
        train(reward, 5, 6)
        evolved = [d for d in store.lineage() if d.kind == "evolve"]
        assert [(d.due, d.step) for d in evolved] == [(4, 6)]


def test_going_back_while_one_is_pending_keeps_its_usage(tmp_path: Path) -> None:
    with Store(tmp_path / "mpo.db") as store:
        chats, reward = composed(store, loop_chat("mrm"))
        train(reward, 1, 3)
        snapshot = reward.snapshot(3)
        train(reward, 4, 4)
        while reward.pending_steps and not chats.budget.ledger.get("mrm"):
            run_in_loop(asyncio.sleep(0.01))
        reward.restore(snapshot)
        assert given_up(store) == [], "it is on the branch that was left"
        assert figures(chats, store)["mrm"]["calls"] > 0


def test_a_spent_budget_keeps_the_usage_of_the_meta_step_that_it_ends(tmp_path: Path) -> None:
    with Store(tmp_path / "mpo.db") as store:
        chats, reward = composed(store, loop_chat("mrm"), calls=4 * 8 + 3, delay=0)
        with pytest.raises(BudgetError):
            train(reward, 1, 4)
        spent = figures(chats, store)
        assert sum(part["calls"] for part in spent.values()) == 4 * 8 + 3
        (decision,) = given_up(store)
        assert decision.reason == "given up: ended by BudgetError"
        assert decision.usage.calls == spent["mrm"]["calls"] > 0


@pytest.mark.parametrize(("last", "started"), [(5, False), (6, True), (None, True)])
def test_no_meta_step_starts_that_could_not_be_decided(
    tmp_path: Path, last: int | None, started: bool
) -> None:
    mrm = ScriptedChat(loop_answer, name="mrm")
    reward = make_reward(
        "essay", loop_chat("rm"), tmp_path / "a.db", meta_chat=mrm, every=4, delay=2, samples=2
    )
    train(reward, 1, 4, last)
    assert reward.pending_steps == ([4] if started else [])
    train(reward, 5, 5, last)
    run_in_loop(reward.aclose())
    assert bool(mrm.calls) is started


def test_a_run_that_is_given_more_updates_holds_what_it_left_out(tmp_path: Path) -> None:
    """As if it had been asked for all of them at the start."""
    heads = []
    for name, ends in (("once", [8]), ("twice", [5, 8])):
        first = 1
        for end in ends:
            reward = make_reward(
                "essay", loop_chat(), tmp_path / f"{name}.db", every=4, delay=2, samples=2
            )
            train(reward, first, end, end)
            run_in_loop(reward.aclose())
            first = end + 1
        heads.append([(d.due, d.step, d.proposed) for d in reward.store.lineage()])
    assert heads[0] == heads[1]
    assert (4, 6) in [head[:2] for head in heads[0]]


def test_a_forked_child_does_not_enter_what_its_parent_spent(tmp_path: Path) -> None:
    usage = Usage(calls=1, prompt_tokens=7)

    async def spend(store: Store) -> None:
        store.add_spending("rm", usage, 0.5)  # waits for its commit
        child = os.fork()
        if not child:
            store.flush()
            os._exit(0)
        os.waitpid(child, 0)
        store.flush()

    with Store(tmp_path / "mpo.db") as store:
        asyncio.run(spend(store))
        assert store.spending() == {"rm": (usage, 0.5)}
