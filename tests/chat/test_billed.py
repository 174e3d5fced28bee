"""What the server bills is what the account says: probes, failures inside a 200, refusals."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from chat.conftest import reply_body
from mpo.chat import Budget, CachedChat, ChatRequest, Message, OpenAIChat, Price
from mpo.chat.base import Metered
from mpo.errors import ChatReplyError, ChatTransportError
from mpo.records import total_usage

ASK: tuple[Message, ...] = ({"role": "user", "content": "hello"},)
SCHEMA = {"title": "t", "type": "object", "properties": {"a": {"type": "string"}}}
BILLED = {"prompt_tokens": 100, "completion_tokens": 7}

FAILED = {"error": {"code": 503, "message": "busy"}, "usage": BILLED}
REFUSED = reply_body(message={"role": "assistant", "refusal": "no"})
NO_TEXT = reply_body(message={"role": "assistant", "content": None})


def call(endpoint: Any, *requests: ChatRequest, **options: Any) -> Budget:
    """The account after some calls, of which some may fail."""
    budget = Budget()
    inner = OpenAIChat(endpoint.url, "m", backoff_s=0.001, **options)
    chat = budget.chat(inner, "rm", Price(1.0, 10.0))

    async def run() -> None:
        for request in requests:
            with suppress(ChatReplyError, ChatTransportError):
                await chat.complete(request)
        await chat.aclose()

    asyncio.run(run())
    return budget


@pytest.mark.parametrize(
    ("faults", "retries", "calls", "tokens"),
    [
        ([FAILED], 2, 1, 100 + 10),  # the retry has the answer
        ([FAILED, FAILED], 1, 0, 200),  # the call fails, and was paid for twice
        ([REFUSED], 0, 1, 10),
        ([NO_TEXT], 0, 1, 10),
    ],
)
def test_a_reply_that_is_no_answer_is_billed_as_the_server_says(
    endpoint: Any, faults: list[Any], retries: int, calls: int, tokens: int
) -> None:
    endpoint.faults = list(faults)
    spent = call(endpoint, ChatRequest(ASK), retries=retries).spent
    assert (spent.usage.calls, spent.usage.prompt_tokens) == (calls, tokens)
    assert spent.usd == pytest.approx(Price(1.0, 10.0).of(spent.usage))


def test_a_server_that_reports_nothing_is_billed_at_the_worst(endpoint: Any) -> None:
    endpoint.faults = [{key: value for key, value in REFUSED.items() if key != "usage"}]
    spent = call(endpoint, ChatRequest(ASK, max_tokens=50), retries=0).spent
    assert (spent.usage.calls, spent.usage.completion_tokens) == (1, 50)


def test_probes_are_billed_although_the_call_that_made_them_failed(endpoint: Any) -> None:
    endpoint.default = reply_body("no JSON at all")  # three probes, and the answer in lines
    budget = call(endpoint, ChatRequest(ASK, schema=SCHEMA), structured_output="auto")
    probed = budget.spent.usage
    assert probed.calls == len(endpoint.requests) > 1
    assert probed.prompt_tokens == 10 * len(endpoint.requests)

    endpoint.requests.clear()
    endpoint.faults = [endpoint.default] * (probed.calls - 1) + [REFUSED]
    failed = call(endpoint, ChatRequest(ASK, schema=SCHEMA), structured_output="auto", retries=0)
    assert failed.spent.usage.calls == len(endpoint.requests) == probed.calls
    assert failed.spent.usage.prompt_tokens == 10 * len(endpoint.requests)


def test_equal_calls_that_share_a_failure_share_its_bill(endpoint: Any) -> None:
    endpoint.default, endpoint.delay_s = REFUSED, 0.05
    budget = Budget()
    inner = OpenAIChat(endpoint.url, "m", retries=0)
    shared = CachedChat(budget.chat(inner, "rm"))
    meters = [Metered(shared) for _ in range(3)]

    async def run() -> None:
        calls = (meter.complete(ChatRequest(ASK)) for meter in meters)
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(result, ChatReplyError) for result in results)
        await inner.aclose()

    asyncio.run(run())
    assert len(endpoint.requests) == 1
    assert sorted(meter.usage.calls for meter in meters) == [0, 0, 1]
    assert budget.spent.usage == total_usage([meter.usage for meter in meters])
