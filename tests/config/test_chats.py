"""What `build` puts around a client: one budget, one cache, one limit for each endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import batch, loop_chat, make_reward
from mpo.chat import (
    CachedChat,
    Chat,
    ChatRequest,
    OpenAIChat,
    Price,
    ScriptedChat,
    WindowedChat,
)
from mpo.config import Endpoints, compose, load_chat_config, load_config, make_chat
from mpo.config.schema import BudgetConfig, ChatConfig
from mpo.errors import BudgetError, ConfigError
from mpo.records import Usage
from mpo.reward import EvolvingReward
from mpo.store import Store

URL = "http://127.0.0.1:9/v1"


def made(endpoints: Endpoints, model: str, **options: Any) -> OpenAIChat:
    config = ChatConfig(base_url=URL, model=model, **options)
    chat = make_chat(config, 0, endpoints)
    assert isinstance(chat, OpenAIChat)
    return chat


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "mpo.db")


def reward_of(rm: Chat, mrm: Chat, store: Store) -> EvolvingReward:
    return make_reward("essay", rm, store, meta_chat=mrm, every=2, samples=2)


def run(reward: EvolvingReward, steps: Sequence[int]) -> None:
    for n in steps:
        asyncio.run(reward.score(batch(n)))
        asyncio.run(reward.step(n + 1))


def test_chats_of_one_endpoint_share_its_limit_and_what_it_enforces() -> None:
    endpoints = Endpoints()
    rm, mrm = made(endpoints, "small", concurrency=8), made(endpoints, "large", concurrency=32)
    assert rm.limiter is mrm.limiter
    assert rm.limiter.ceiling == rm.limiter.limit == 32
    assert rm.structured_output == "auto"
    assert made(endpoints, "small", structured_output="lines").structured_output == "lines"
    assert made(Endpoints(), "small").limiter is not rm.limiter


SETTINGS = [
    "timeout_s=7",
    "deadline_s=70",
    "retries=1",
    "max_tokens_field=max_completion_tokens",
    "extra_body={top_k: 1, seed: null}",
    "extra_body.chat_template_kwargs={enable_thinking: false}",
]


@pytest.mark.parametrize("part", ["chat", "meta_chat", "second_judge"])
def test_every_setting_of_a_client_has_a_key(part: str) -> None:
    keys = [f"{part}.base_url={URL}", f"{part}.model=m", *(f"{part}.{each}" for each in SETTINGS)]
    config = getattr(load_config("sandbox/essay", keys), part)
    assert config == load_chat_config({"base_url": URL, "model": "m"}, SETTINGS)
    chat = make_chat(config, 0)
    assert isinstance(chat, OpenAIChat)
    assert (chat.timeout_s, chat.deadline_s, chat.retry.retries) == (7, 70, 1)
    assert chat.max_tokens_field == "max_completion_tokens"
    thinking = {"enable_thinking": False}
    assert chat.extra_body == {"top_k": 1, "seed": None, "chat_template_kwargs": thinking}


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("timeout=9", "unknown key 'chat.timeout'; did you mean 'chat.timeout_s'?"),
        ("retries=-1", "chat.retries: should be greater than or equal to 0"),
        ("retries", "write key=value"),
        ("tier=lines", "'chat.tier' has a new name: write chat.structured_output"),
        ("extra_body=[1]", "chat.extra_body: should be a valid dictionary"),
    ],
)
def test_a_wrong_option_of_a_chat_is_named_like_its_key(option: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_chat_config({"base_url": URL, "model": "m"}, [option])
    assert words in str(caught.value)


def test_an_endpoint_is_cached_and_deduplicated_and_the_simulated_model_is_not(
    store: Store,
) -> None:
    raw = made(Endpoints(), "m")
    kinds = []
    for cache in (True, False):
        chats = compose(raw, raw, BudgetConfig(), store, cache=cache)
        both = [chats.rm, chats.mrm]
        kinds.append([isinstance(c, CachedChat) and c.cache for c in both])
    assert kinds == [[store] * 2, [None] * 2]
    simulated = make_chat(ChatConfig(plugin="sandbox"), 0)
    chats = compose(simulated, simulated, BudgetConfig(usd=1.0), store, cache=True)
    assert not isinstance(chats.rm, CachedChat)


def test_the_same_answer_is_paid_for_once_over_all_steps(store: Store) -> None:
    inner = loop_chat()
    chats = compose(inner, inner, BudgetConfig(), store, cache=True)
    reward = reward_of(chats.rm, chats.mrm, store)
    first = batch(0)
    again = [r.model_copy(update={"id": f"again{r.id}", "step": 1}) for r in first]
    scores = [j.reward for j in asyncio.run(reward.score(first))]
    assert [j.reward for j in asyncio.run(reward.score(again))] == scores
    assert len(inner.calls) == 8
    assert chats.costs()["rm"]["calls"] == store.usage()["rm"].calls == 8


def test_what_does_not_fit_into_the_window_costs_nothing(store: Store) -> None:
    inner = loop_chat()
    narrow = WindowedChat(inner, 60)
    chats = compose(narrow, narrow, BudgetConfig(), store, cache=True)
    reward = make_reward("essay", chats.rm, store, meta_chat=chats.mrm, max_unscored=1.0)
    judgements = asyncio.run(reward.score(batch(0)))
    assert all(j.unscored and j.unscored.startswith("too_long") for j in judgements)
    assert inner.calls == []
    assert chats.costs() == {}
    assert store.usage().get("rm", Usage()) == Usage()
    assert isinstance(chats.mrm, WindowedChat)
    assert chats.mrm.clips


def test_the_ledger_equals_the_store_and_knows_the_roles(store: Store) -> None:
    rm, mrm = loop_chat("small"), loop_chat("large")
    prices = {"small": [1.0, 10.0], "large": [2.0, 20.0, 1.0]}
    chats = compose(rm, mrm, BudgetConfig(usd=5.0, prices=prices), store, cache=True)
    run(reward_of(chats.rm, chats.mrm, store), range(4))
    used, costs = store.usage(), chats.costs()
    for role, chat, price in (("rm", rm, prices["small"]), ("mrm", mrm, prices["large"])):
        assert used[role] == chat.usage
        assert Usage(**{k: v for k, v in costs[role].items() if k != "usd"}) == chat.usage
        tokens = chat.usage.prompt_tokens * price[0] + chat.usage.completion_tokens * price[1]
        assert costs[role]["usd"] == pytest.approx(tokens / 1e6, abs=1e-6)


def test_without_a_price_the_cost_is_not_known_and_not_zero(store: Store) -> None:
    inner = loop_chat()
    chats = compose(inner, inner, BudgetConfig(), store, cache=True)
    run(reward_of(chats.rm, chats.mrm, store), [0])
    assert chats.costs()["rm"]["usd"] is None


def test_a_cap_in_dollars_wants_every_price(store: Store) -> None:
    budget = BudgetConfig(usd=1.0, prices={"small": [1, 1]})
    with pytest.raises(ConfigError, match=r"price of 'large'.*budget.prices: \{large: "):
        compose(loop_chat("small"), loop_chat("large"), budget, store, cache=True)


@pytest.mark.parametrize("kept", [True, False], ids=["stopped", "killed"])
def test_what_was_spent_survives_into_the_next_process(tmp_path: Path, kept: bool) -> None:
    path = tmp_path / "mpo.db"
    inner = loop_chat("m")
    prices = {"m": [100.0, 1000.0]}
    with Store(path) as store:
        chats = compose(inner, inner, BudgetConfig(calls=10, prices=prices), store, cache=True)
        with pytest.raises(BudgetError, match=r"budget.calls is used up: 10 of 10 .*resume"):
            run(reward_of(chats.rm, chats.mrm, store), range(3))
        before = chats.costs()
        if kept:  # a killed process has no time for it
            chats.keep()
    with Store(path) as store:
        chats = compose(inner, inner, BudgetConfig(calls=10, prices=prices), store, cache=True)
        assert chats.costs() == before
        with pytest.raises(BudgetError):
            run(reward_of(chats.rm, chats.mrm, store), [1])
        chats = compose(inner, inner, BudgetConfig(calls=100, prices=prices), store, cache=True)
        run(reward_of(chats.rm, chats.mrm, store), [1, 2])
        assert chats.costs()["rm"]["calls"] == store.usage()["rm"].calls
        assert len(inner.calls) == sum(part["calls"] for part in chats.costs().values())


def test_a_judgement_is_never_stored_without_its_cost(store: Store) -> None:
    chats = compose(loop_chat(), loop_chat(), BudgetConfig(), store, cache=True)
    chats.keep()
    assert store.spending() == {}
    run(reward_of(chats.rm, chats.mrm, store), [0])
    with Store(store.path) as other:  # as after a kill: nothing was kept on purpose
        assert other.count() == other.spending()["rm"][0].calls == 8
        assert other.spending() == store.spending()


def test_what_the_account_lacks_is_entered_once(store: Store) -> None:
    """Judgements of a program of one's own, and usage that had no price then."""
    inner = loop_chat("m")
    run(reward_of(inner, inner, store), [0])
    assert store.spending() == {}
    for prices, usd in (({}, None), ({"m": [100.0, 1000.0]}, 1.0), ({"m": [100.0, 1000.0]}, 1.0)):
        chats = compose(inner, inner, BudgetConfig(prices=prices), store, cache=True)
        costs = chats.costs()["rm"]
        assert costs["calls"] == store.usage()["rm"].calls == 8
        assert (costs["usd"] is None) == (usd is None)
        if usd is not None:
            assert costs["usd"] == pytest.approx(Price(100.0, 1000.0).of(store.usage()["rm"]))
            assert chats.budget.ledger["rm"].usd == pytest.approx(costs["usd"])


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("budget.usd=0", "budget.usd: should be greater than 0"),
        ("budget.prices={m: [1]}", "the price of 'm' is [prompt, completion]"),
        ("budget.prices={m: [1, -2]}", "not [1.0, -2.0]"),
        ("budget.cals=3", "did you mean 'budget.calls'?"),
        ("chat.structured_output=xml", "chat.structured_output"),
        ("reward.on_injection=punish", "'observe', 'penalize' or 'refuse'"),
    ],
)
def test_wrong_values_are_named(override: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config("sandbox/essay", [override])
    assert words in str(caught.value)


def test_a_chat_that_is_told_what_to_say_needs_no_price(store: Store) -> None:
    chats = compose(ScriptedChat(["x"]), ScriptedChat([]), BudgetConfig(), store, cache=False)
    assert (
        asyncio.run(chats.rm.complete(ChatRequest(({"role": "user", "content": "?"},)))).text == "x"
    )
    assert chats.rm.name == "scripted"
