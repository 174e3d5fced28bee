"""Models that do not take every field: the client then writes the request otherwise."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from aiohttp import web

from mpo.chat import ChatRequest, Message, OpenAIChat
from mpo.errors import ChatTransportError

ASK: tuple[Message, ...] = ({"role": "user", "content": "Say hello."},)
SCHEMA = {
    "title": "grade",
    "type": "object",
    "additionalProperties": False,
    "required": ["word"],
    "properties": {"word": {"type": "string", "enum": ["a"]}},
}


def newer(faults: Any, *refused: str) -> Any:
    """An endpoint whose model refuses some fields, in OpenAI's words, and enforces schemas."""

    async def handle(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        for field in refused:
            if field in body:
                said = f"Unsupported parameter: '{field}' is not supported with this model."
                if field == "max_tokens":
                    said += " Use 'max_completion_tokens' instead."
                if field == "temperature":
                    said = (
                        "Unsupported value: 'temperature' does not support 0 with this model. "
                        "Only the default (1) value is supported."
                    )
                return web.json_response({"error": {"message": said}}, status=400)
        wanted = body.get("response_format", {}).get("json_schema", {}).get("schema")
        word = wanted["properties"]["word"]["enum"][0] if wanted else "hello"
        return web.json_response(faults.body(json.dumps({"word": word}) if wanted else word))

    return handle


def ask(chat: OpenAIChat, times: int = 1, **options: Any) -> list[str]:
    async def scene() -> list[str]:
        try:
            calls = [
                chat.complete(ChatRequest(ASK, max_tokens=7, seed=1, **options))
                for _ in range(times)
            ]
            return [completion.text for completion in await asyncio.gather(*calls)]
        finally:
            await chat.aclose()

    return asyncio.run(scene())


def test_a_newer_model_is_asked_in_its_own_words(
    endpoint: Any, faults: Any, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.default = newer(faults, "max_tokens", "temperature", "seed")
    chat = OpenAIChat(endpoint.url, "new")
    with caplog.at_level(logging.INFO, logger="mpo.chat"):
        assert ask(chat) == ["hello"]
    assert len(endpoint.requests) == 4
    last = endpoint.requests[-1]
    assert last["max_completion_tokens"] == 7
    assert not {"max_tokens", "temperature", "seed"} & set(last)
    assert caplog.text.count("requests go without") == 3
    assert ask(chat) == ["hello"]
    assert len(endpoint.requests) == 5, "what was found out is remembered"


def test_many_at_once_find_out_together(endpoint: Any, faults: Any) -> None:
    endpoint.default = newer(faults, "max_tokens", "temperature")
    endpoint.delay_s = 0.02
    chat = OpenAIChat(endpoint.url, "new")
    assert ask(chat, times=16) == ["hello"] * 16
    assert len(endpoint.requests) <= 3 * 16


def test_the_probe_does_not_take_it_for_a_refused_schema(endpoint: Any, faults: Any) -> None:
    endpoint.default = newer(faults, "max_tokens", "temperature")
    dialects: dict[str, Any] = {}
    chat = OpenAIChat(endpoint.url, "new", structured_output="auto", dialects=dialects)
    assert ask(chat, schema=SCHEMA) == ['{"word": "a"}']
    assert [d.structured_output for d in dialects.values()] == ["json_schema"]


@pytest.mark.parametrize(
    "said",
    [
        "Unsupported parameter: 'messages' is not supported with this model.",
        "Unsupported parameter: 'max_tokens' is too large.",
    ],
)
def test_any_other_refusal_is_final(endpoint: Any, said: str) -> None:
    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return web.json_response({"error": {"message": said}}, status=400)

    endpoint.default = refuse
    with pytest.raises(ChatTransportError, match=r"rejected: status 400: .*\(http.*1 attempt\)"):
        ask(OpenAIChat(endpoint.url, "m"))
    assert len(endpoint.requests) == 1


def test_a_field_that_is_refused_though_it_is_gone_ends_the_call(endpoint: Any) -> None:
    async def stubborn(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        said = "Unsupported parameter: 'seed' is not supported with this model."
        return web.json_response({"error": {"message": said}}, status=400)

    endpoint.default = stubborn
    with pytest.raises(ChatTransportError, match="'seed' is not supported"):
        ask(OpenAIChat(endpoint.url, "m"))
    assert len(endpoint.requests) == 2
