"""Fields that an endpoint refuses, in the words of many servers: the client does without them."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import pytest
from aiohttp import web

from mpo.chat import ChatRequest, Dialect, Message, OpenAIChat
from mpo.chat.refusals import refused_fields
from mpo.errors import ChatTransportError, ConfigError

ASK: tuple[Message, ...] = ({"role": "user", "content": "Say hello."},)
SCHEMA = {
    "title": "grade",
    "type": "object",
    "additionalProperties": False,
    "required": ["word"],
    "properties": {"word": {"type": "string", "enum": ["a"]}},
}
SENT = ["model", "messages", "stream", "temperature", "max_tokens", "seed", "n", "stop", "top_k"]
FORMAT = [*SENT, "response_format"]

WORDINGS: dict[str, tuple[Any, list[str]]] = {
    "param": ({"error": {"message": "Unsupported parameter", "param": "seed"}}, ["seed"]),
    "param, nested": ({"error": {"message": "no", "param": "body.top_k"}}, ["top_k"]),
    "loc": (
        {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]},
        ["seed"],
    ),
    "loc, with the request": (
        {"detail": [{"loc": ["body", "seed"], "msg": "no", "input": {"temperature": 0}}]},
        ["seed"],
    ),
    "in a list": ([{"error": {"code": 400, "message": 'Unknown name "seed"'}}], ["seed"]),
    "a Python list": ({"error": {"message": "does not support parameters: ['seed']"}}, ["seed"]),
    "several": ({"error": "Unknown keys: temperature, seed"}, ["temperature", "seed"]),
    "a key": ({"errors": {"seed": ["Unknown field."]}}, ["seed"]),
    "JSON in a text": (
        {"error": {"message": "Provider error", "raw": '{"message": "Unknown: \'seed\'"}'}},
        ["seed"],
    ),
    "violations": (
        {"error": {"details": [{"fieldViolations": [{"field": "generation_config.seed"}]}]}},
        ["seed"],
    ),
    "plain text": ('json: unknown field "seed"', ["seed"]),
    "a trace": ("1 validation error\nbody.seed\n  Extra inputs are not permitted", ["seed"]),
    "a short name": ("unrecognized request argument supplied: n", ["n"]),
    "Chinese": ({"message": "不支持seed参数"}, ["seed"]),
    "another spelling": ({"error": {"message": "maxTokens is unknown"}}, ["max_tokens"]),
    "only the default": ("invalid temperature: only 1 is allowed for this model", ["temperature"]),
    "a wrong value": ("`temperature` must be strictly positive", ["temperature"]),
    "a mode": ("JSON mode is not supported by this model", ["response_format"]),
    # No field is refused:
    "a word of a sentence": ("Please stop sending so many requests to the model", []),
    "the messages": ("Unsupported parameter: 'messages' is not supported here", []),
    "the messages, by place": ({"error": {"message": "seed", "param": "messages.0"}}, []),
    "the model's name": ("The model `seed-oss-36b` does not exist", []),
    "too long": ("This model's maximum context length is 512 tokens (1024 max_tokens)", []),
    "too many": ({"error": {"message": "'max_tokens' is too large", "param": "max_tokens"}}, []),
    "nothing": ({"error": {"message": "Bad request"}}, []),
    "no error": (None, []),
}


@pytest.mark.parametrize("case", WORDINGS)
def test_the_field_is_found_in_every_wording(case: str) -> None:
    error, fields = WORDINGS[case]
    assert refused_fields(error, FORMAT, "seed-oss-36b") == fields


def test_a_model_named_like_a_letter_hides_no_field() -> None:
    assert refused_fields("the model m takes no max_tokens", SENT, "m") == ["max_tokens"]


class Picky:
    """An endpoint that refuses some fields and enforces schemas."""

    def __init__(self, endpoint: Any, faults: Any, *fields: str, status: int = 400) -> None:
        self.fields, self.status, self.body = fields, status, faults.body
        endpoint.default = self.answer

    async def answer(self, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        for field in self.fields:
            if field in body:
                error = {"error": {"message": "unsupported", "param": field}}
                return web.json_response(error, status=self.status)
        wanted = body.get("response_format", {}).get("json_schema", {}).get("schema")
        word = wanted["properties"]["word"]["enum"][0] if wanted else "hello"
        if "Answer in exactly these lines" in body["messages"][-1]["content"]:
            return web.json_response(self.body("word: a"))
        return web.json_response(self.body(json.dumps({"word": word}) if wanted else word))


def ask(chat: OpenAIChat, **options: Any) -> str:
    async def once() -> str:
        try:
            return (await chat.complete(ChatRequest(ASK, seed=1, **options))).text
        finally:
            await chat.aclose()

    return asyncio.run(once())


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("field", ["seed", "temperature", "stream", "top_k", "stop"])
def test_a_refused_field_is_left_out_once_per_endpoint(
    endpoint: Any, faults: Any, caplog: pytest.LogCaptureFixture, field: str, status: int
) -> None:
    Picky(endpoint, faults, field, status=status)
    dialects: dict[str, Dialect] = {}
    options: dict[str, Any] = {"extra_body": {"top_k": 3, "stop": ["#"]}, "dialects": dialects}
    with caplog.at_level(logging.WARNING, logger="mpo.chat"):
        assert ask(OpenAIChat(endpoint.url, "m", **options)) == "hello"
        assert len(endpoint.requests) == 2
        # Another chat of the same process knows.
        assert ask(OpenAIChat(endpoint.url, "m", **options)) == "hello"
    assert len(endpoint.requests) == 3
    assert field not in endpoint.requests[-1]
    (record,) = caplog.records
    assert f"requests go without {field}" in record.message
    assert endpoint.url in record.message


def test_either_name_of_the_limit_is_tried_and_then_none(endpoint: Any, faults: Any) -> None:
    Picky(endpoint, faults, "max_completion_tokens")
    chat = OpenAIChat(endpoint.url, "m", max_tokens_field="max_completion_tokens")
    assert ask(chat, max_tokens=7) == "hello"
    assert endpoint.requests[-1]["max_tokens"] == 7
    Picky(endpoint, faults, "max_completion_tokens", "max_tokens")
    assert ask(chat, max_tokens=7) == "hello"
    assert not {"max_tokens", "max_completion_tokens"} & set(endpoint.requests[-1])


def test_a_change_that_does_not_help_is_forgotten(endpoint: Any) -> None:
    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        # The policy's words in an error about something else.
        return web.json_response({"error": {"message": "flagged: 'temperature'"}}, status=400)

    endpoint.default = refuse
    chat = OpenAIChat(endpoint.url, "m")
    with pytest.raises(ChatTransportError, match="flagged"):
        ask(chat)
    assert len(endpoint.requests) == 2
    assert not chat.dialect.changes.dropped


@pytest.mark.parametrize("status", [400, 422, 500])
def test_a_refused_response_format_gives_way_to_a_weaker_output(
    endpoint: Any, faults: Any, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    Picky(endpoint, faults, "response_format", status=status)
    chat = OpenAIChat(endpoint.url, "m", structured_output="json_schema", backoff_s=0.001)
    with caplog.at_level(logging.WARNING, logger="mpo.chat"):
        assert json.loads(ask(chat, schema=SCHEMA)) == {"word": "a"}
    assert len(endpoint.requests) == 4
    assert json.loads(ask(chat, schema=SCHEMA)) == {"word": "a"}
    assert len(endpoint.requests) == 5
    assert "structured output is lines from now on" in caplog.text


def test_json_object_that_brings_no_object_gives_way_to_lines(
    endpoint: Any, faults: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def prose(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        in_lines = "Answer in exactly these lines" in body["messages"][-1]["content"]
        return web.json_response(faults.body("word: a" if in_lines else "It is an a."))

    endpoint.default = prose
    chat = OpenAIChat(endpoint.url, "m", structured_output="json_object")
    with caplog.at_level(logging.WARNING, logger="mpo.chat"):
        assert ask(chat, schema=SCHEMA) == "It is an a.", "the answer itself is not repaired"
    assert json.loads(ask(chat, schema=SCHEMA)) == {"word": "a"}
    assert "structured output is lines from now on" in caplog.text


def test_a_refusal_in_a_list_is_shown_without_the_request(endpoint: Any) -> None:
    async def refuse(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        fault = {"loc": ["body", "messages", 0], "msg": "no such role", "input": body}
        return web.json_response({"detail": [fault]}, status=422)

    endpoint.default = refuse
    with pytest.raises(ChatTransportError, match=r"status 422: body\.messages\.0: no such role \("):
        ask(OpenAIChat(endpoint.url, "m"))
    assert len(endpoint.requests) == 1


def test_the_probe_sends_what_judgements_send(endpoint: Any, faults: Any) -> None:
    Picky(endpoint, faults, "seed", status=422)
    chat = OpenAIChat(
        endpoint.url, "m", structured_output="auto", extra_body={"top_k": 2}, timeout_s=5
    )
    assert json.loads(ask(chat, schema=SCHEMA, temperature=0.5, max_tokens=99)) == {"word": "a"}
    assert chat.dialect.structured_output == "json_schema"
    refused, probe, call = endpoint.requests
    assert refused["seed"] == 1
    for field in ("model", "stream", "temperature", "max_tokens", "top_k", "seed"):
        assert probe.get(field) == call.get(field)


@pytest.mark.parametrize("field", ["model", "messages", "stream"])
def test_extra_body_cannot_replace_the_call(field: str) -> None:
    with pytest.raises(ConfigError, match=f"extra_body holds '{field}'"):
        OpenAIChat("http://h/v1", "m", extra_body={field: True})
