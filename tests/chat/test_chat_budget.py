"""Hard caps: checked before sending, shared over chats, written down by role."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from mpo.chat import (
    Budget,
    Chat,
    ChatRequest,
    Completion,
    Message,
    OpenAIChat,
    Price,
    ScriptedChat,
    Spent,
)
from mpo.errors import BudgetError, ChatError, ChatReplyError, ChatTransportError, ConfigError
from mpo.records import Usage

ASK: tuple[Message, ...] = ({"role": "user", "content": "three small words"},)


def says(tokens: int, prompt_tokens: int = 100) -> ScriptedChat:
    usage = Usage(calls=1, prompt_tokens=prompt_tokens, completion_tokens=tokens)
    return ScriptedChat(lambda messages, schema, seed: Completion("ok", usage))


def ask(chat: Chat, times: int = 1, max_tokens: int = 50) -> None:
    async def several() -> None:
        for _ in range(times):
            await chat.complete(ChatRequest(ASK, max_tokens=max_tokens))

    asyncio.run(several())


def test_calls_are_capped_over_all_roles() -> None:
    budget = Budget(calls=3)
    rm, mrm = budget.chat(says(5), "rm"), budget.chat(says(50), "mrm")
    assert isinstance(rm, Chat)
    ask(rm, 2)
    ask(mrm)
    with pytest.raises(BudgetError) as caught:
        ask(rm)
    message = str(caught.value)
    assert message.startswith("budget.calls is used up: 3 of 3 spent (rm 2, mrm 1)")
    assert "resume" in message
    assert not isinstance(caught.value, ChatError)
    assert budget.ledger["rm"].usage == Usage(calls=2, prompt_tokens=200, completion_tokens=10)
    assert budget.spent.usage.calls == 3


def test_a_call_that_might_not_fit_is_not_sent() -> None:
    inner = says(5)
    budget = Budget(tokens=200)
    chat = budget.chat(inner, "rm")
    ask(chat)
    with pytest.raises(BudgetError, match=r"budget\.tokens is used up: 105 of 200"):
        ask(chat, max_tokens=95)
    assert len(inner.calls) == 1
    ask(chat, max_tokens=50)


def test_money_needs_prices_and_knows_cached_tokens() -> None:
    price = Price(prompt=1.0, completion=10.0, cached=0.1)
    usage = Usage(calls=1, prompt_tokens=1000, cached_tokens=600, completion_tokens=100)
    assert price.of(usage) == pytest.approx((400 + 60 + 1000) / 1e6)
    assert Price(1.0, 10.0).of(usage) == pytest.approx(2000 / 1e6)
    budget = Budget(usd=0.01)
    with pytest.raises(ConfigError, match=r"budget\.usd needs the price of 'scripted'"):
        budget.chat(says(1), "rm")
    chat = budget.chat(says(100), "rm", Price(prompt=10.0, completion=20.0))
    with pytest.raises(BudgetError, match=r"budget\.usd is used up: 0\.0090 of 0\.01"):
        ask(chat, 9)
    assert budget.ledger["rm"].usd == pytest.approx(0.009)


def test_calls_wait_for_those_in_flight_before_they_give_up() -> None:
    # 10 calls of at most 1,000 tokens would not fit into 2,500, and 10 of the real 110 do.
    budget = Budget(tokens=2500)
    inner = Slow(says(10))
    chat = budget.chat(inner, "rm")

    async def together() -> None:
        await asyncio.gather(*(chat.complete(ChatRequest(ASK, max_tokens=1000)) for _ in range(10)))

    asyncio.run(together())
    assert budget.spent.tokens == 1100
    assert inner.most == 2


class Slow:
    """A chat that takes a moment, and counts how many are in it."""

    name = "slow"

    def __init__(self, inner: Chat) -> None:
        self.inner = inner
        self.now = self.most = 0

    async def complete(self, request: ChatRequest) -> Completion:
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.005)
            return await self.inner.complete(request)
        finally:
            self.now -= 1

    async def aclose(self) -> None:
        return None


def test_the_cap_holds_under_load() -> None:
    budget = Budget(calls=25)
    inner = says(1)
    chat = budget.chat(Slow(inner), "rm")

    async def together() -> list[Any]:
        calls = (chat.complete(ChatRequest(ASK)) for _ in range(100))
        return await asyncio.gather(*calls, return_exceptions=True)

    outcomes = asyncio.run(together())
    assert len(inner.calls) == 25
    assert sum(isinstance(outcome, BudgetError) for outcome in outcomes) == 75


def test_what_failed_costs_what_it_may_have_cost() -> None:
    budget = Budget(tokens=10_000)
    failing = ScriptedChat([ChatTransportError("down"), ChatReplyError("refused: no"), "fine"])
    chat = budget.chat(failing, "rm")
    with pytest.raises(ChatTransportError):
        ask(chat)
    assert budget.spent.usage == Usage()
    with pytest.raises(ChatReplyError):
        ask(chat)
    assert budget.spent.usage.completion_tokens == 50
    ask(chat)
    assert budget.spent.usage.calls == 2


def test_a_cancelled_call_frees_what_it_held() -> None:
    budget = Budget(calls=1)
    chat = budget.chat(Slow(says(1)), "rm")

    async def scene() -> None:
        first = asyncio.create_task(chat.complete(ChatRequest(ASK)))
        second = asyncio.create_task(chat.complete(ChatRequest(ASK)))
        await asyncio.sleep(0.001)
        first.cancel()
        assert (await second).text == "ok"

    asyncio.run(scene())
    assert budget.spent.usage.calls == 1


def test_a_server_that_reports_no_usage_is_estimated(caplog: pytest.LogCaptureFixture) -> None:
    budget = Budget(tokens=1000)
    chat = budget.chat(ScriptedChat(lambda *_: Completion("x" * 300, Usage(calls=1))), "rm")
    ask(chat, 2)
    assert budget.spent.usage.completion_tokens == 202
    assert budget.spent.usage.prompt_tokens > 0
    assert len(caplog.records) == 1


def test_answers_that_cost_nothing_cost_nothing() -> None:
    budget = Budget(calls=1)
    ask(budget.chat(ScriptedChat(lambda *_: Completion("known", Usage())), "rm"), 5)
    assert budget.spent.usage == Usage()


def test_a_resumed_run_goes_on_from_what_was_spent() -> None:
    budget = Budget(calls=5)
    ask(budget.chat(says(5), "rm"), 3)
    resumed = Budget(calls=5)
    resumed.restore(budget.snapshot())
    assert resumed.ledger == {"rm": Spent(Usage(calls=3, prompt_tokens=300, completion_tokens=15))}
    chat = resumed.chat(says(5), "rm")
    with pytest.raises(BudgetError):
        ask(chat, 3)
    copied = pickle.loads(pickle.dumps(resumed))
    assert copied.spent == resumed.spent


@pytest.mark.parametrize("caps", [{"usd": 0}, {"tokens": -1}, {"calls": 0}, {"usd": float("nan")}])
def test_caps_must_be_above_zero(caps: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be above 0"):
        Budget(**caps)


def test_over_a_real_endpoint_the_ledger_is_what_the_server_says(endpoint: Any) -> None:
    budget = Budget(calls=20)
    chat = budget.chat(OpenAIChat(endpoint.url, "tiny", backoff_s=0.001), "rm")
    endpoint.faults = [500, 429]

    async def several() -> None:
        await asyncio.gather(*(chat.complete(ChatRequest(ASK)) for _ in range(20)))
        with pytest.raises(BudgetError):
            await chat.complete(ChatRequest(ASK))
        await chat.aclose()

    asyncio.run(several())
    assert budget.ledger["rm"].usage == Usage(
        calls=20, prompt_tokens=200, cached_tokens=80, completion_tokens=60
    )
    assert len(endpoint.requests) == 22
