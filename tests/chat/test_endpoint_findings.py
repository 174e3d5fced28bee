"""Failures inside a 200, servers that are slow, and prompts that were cut."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from mpo.chat import ChatRequest, OpenAIChat
from mpo.errors import ChatError, ChatTransportError


def ask(chat: OpenAIChat, *prompts: str) -> list[str]:
    async def each() -> list[str]:
        try:
            requests = [ChatRequest(({"role": "user", "content": prompt},)) for prompt in prompts]
            return [(await chat.complete(request)).text for request in requests]
        finally:
            await chat.aclose()

    return asyncio.run(each())


def choice(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": "half"}, "finish_reason": "stop", **fields}]}


AGAIN: dict[str, Any] = {
    "a number": {"error": {"code": 429, "message": "slow down"}},
    "a number as text": {"error": {"code": "503", "message": "x"}},
    "a word": {"error": {"code": "rate_limit_exceeded", "message": "x"}},
    "a word in capitals": {"error": {"code": None, "status": "RESOURCE_EXHAUSTED"}},
    "a type": {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    "a text": {"error": "Rate limit reached, please try again"},
    "a number in a text": {"error": "HTTP 502: Bad Gateway"},
    "no error object": {"object": "error", "message": "x", "code": 500},
    "a detail": {"detail": "Internal Server Error"},
    "in a list": [{"error": {"code": 503, "message": "x"}}],
    "beside an answer": choice() | {"error": {"message": "upstream timed out"}},
    "beside an answer, unknown": choice() | {"error": {"message": "?"}},
    "in the choice": choice(finish_reason="error", error={"code": 502, "message": "x"}),
    "in the choice, unknown": choice(finish_reason="error"),
    "beside no choices": {"choices": [], "error": {"code": "429"}},
}


@pytest.mark.parametrize("case", AGAIN)
def test_a_failure_inside_a_200_is_tried_again(endpoint: Any, case: str) -> None:
    endpoint.faults = [AGAIN[case]]
    chat = OpenAIChat(endpoint.url, "m", backoff_s=0.001)
    assert ask(chat, "?") == ["hello"]
    assert len(endpoint.requests) == 2
    assert chat.limiter.limit < chat.limiter.ceiling, "the endpoint is asked less"


FINAL: dict[str, tuple[Any, str]] = {
    "a wrong address": (
        {"error": "Unexpected endpoint or method. (POST /chat/completions)"},
        r"status 404.*it usually ends in /v1",
    ),
    "a wrong key": ({"error": {"code": "invalid_api_key", "message": "no"}}, "OPENAI_API_KEY"),
    "a wrong model": ({"error": {"code": "model_not_found", "message": "no"}}, "has this model"),
    "too long": (
        {"error": {"message": "This model's maximum context length is 512 tokens"}},
        "status 400.*context length",
    ),
    "a number that is no status": (
        {"error": "512 tokens are the maximum context"},
        "status 400.*512 tokens",
    ),
    "an unknown code": ({"error": {"code": 17, "message": "odd"}}, "no choices: odd"),
}


@pytest.mark.parametrize("case", FINAL)
def test_a_failure_that_stays_is_not(endpoint: Any, case: str) -> None:
    endpoint.default, words = FINAL[case]
    with pytest.raises(ChatError, match=words):
        ask(OpenAIChat(endpoint.url, "m", backoff_s=0.001), "?")
    assert len(endpoint.requests) == 1


@pytest.mark.parametrize(
    "error", [None, {}, "", {"code": None, "message": None}, {"code": 0, "message": "ok"}]
)
def test_an_empty_error_beside_an_answer_is_none(endpoint: Any, faults: Any, error: Any) -> None:
    endpoint.default = faults.body() | {"error": error, "code": 200}
    assert ask(OpenAIChat(endpoint.url, "m"), "?") == ["hello"]


# ---------------------------------------------------------------------- slow servers


def test_the_time_limit_grows_with_a_slow_server(
    endpoint: Any, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.delay_s = 0.3
    chat = OpenAIChat(endpoint.url, "m", timeout_s=0.2, backoff_s=0.001)
    with caplog.at_level(logging.WARNING, logger="mpo.chat"):
        assert ask(chat, "one", "two") == ["hello"] * 2
    assert len(endpoint.requests) == 3, "the second call starts with the time that was needed"
    (record,) = caplog.records
    assert "the time limit is 0.4 s from now on" in record.message
    assert "chat.timeout_s" in record.message
    assert endpoint.url in record.message


def test_attempts_at_once_raise_it_once_and_the_deadline_bounds_it(
    endpoint: Any, faults: Any
) -> None:
    endpoint.default = faults.stall
    chat = OpenAIChat(endpoint.url, "m", timeout_s=0.1, deadline_s=0.5, backoff_s=0.001)

    async def many() -> list[Any]:
        request = ChatRequest(({"role": "user", "content": "?"},))
        calls = [chat.complete(request) for _ in range(8)]
        results = await asyncio.gather(*calls, return_exceptions=True)
        await chat.aclose()
        return results

    results = asyncio.run(many())
    assert all(isinstance(result, ChatTransportError) for result in results)
    assert "raise chat.timeout_s and chat.deadline_s" in str(results[0])
    assert chat.dialect.timeout_s <= 0.5
    assert len(endpoint.requests) <= 4 * 8


# ---------------------------------------------------------------------- prompts that were cut

LONG = "The harbour was quiet in the rain. " * 100


def warnings(
    endpoint: Any, caplog: pytest.LogCaptureFixture, usage: Any, *prompts: str
) -> list[str]:
    endpoint.default = endpoint.default | {"usage": usage}
    with caplog.at_level(logging.WARNING, logger="mpo.chat"):
        ask(OpenAIChat(endpoint.url, "m"), *prompts)
    return [record.message for record in caplog.records]


def test_a_prompt_that_was_cut_is_a_warning_once(
    endpoint: Any, caplog: pytest.LogCaptureFixture
) -> None:
    # A prompt of 1.7 tokens a word, and a context of half of it.
    (message,) = warnings(endpoint, caplog, {"prompt_tokens": 595}, LONG, LONG + "Again.")
    assert "595 prompt tokens for a prompt of 700 words" in message
    assert endpoint.url in message


@pytest.mark.parametrize(
    ("usage", "prompt"),
    [
        ({"prompt_tokens": 700}, LONG),  # a token a word: no tokenizer that splits needs less
        ({"prompt_tokens": 900}, LONG),
        ({"prompt_tokens": 20, "prompt_tokens_details": {"cached_tokens": 800}}, LONG),
        ({"prompt_tokens": 20, "cache_read_input_tokens": 800}, LONG),
        ({"prompt_tokens": 0}, LONG),
        (None, LONG),
        ({"prompt_tokens": 12}, "A short prompt. " * 20),
        ({"prompt_tokens": 600}, "港口在雨中很安静。" * 400),
        ({"prompt_tokens": 60}, "=" * 5000),
        ({"prompt_tokens": 60}, "\n" * 5000),
    ],
)
def test_an_honest_count_is_none(
    endpoint: Any, caplog: pytest.LogCaptureFixture, usage: Any, prompt: str
) -> None:
    assert warnings(endpoint, caplog, usage, prompt) == []


def test_a_server_that_counts_only_new_tokens_has_not_cut_the_prompt(
    endpoint: Any, faults: Any, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.faults = [faults.body() | {"usage": {"prompt_tokens": 910}}]
    assert warnings(endpoint, caplog, {"prompt_tokens": 9}, LONG, LONG + "Again.") == []
