"""Asking for a shape: the request for each output, and its detection."""

from __future__ import annotations

import asyncio
import json
import logging
import pickle
from typing import Any

import pytest
from aiohttp import web

from mpo.chat import ChatRequest, Message, OpenAIChat, SharedSchema
from mpo.chat.structured import ask_in_lines, read_lines, response_format, unwrap
from mpo.errors import ChatTransportError

SCHEMA: dict[str, Any] = {
    "title": "grades",
    "type": "object",
    "additionalProperties": False,
    "required": ["i1", "i2"],
    "properties": {
        name: {
            "type": "object",
            "additionalProperties": False,
            "required": ["rationale", "score"],
            "properties": {
                "rationale": {"type": "string"},
                "score": {"type": "integer", "enum": [-1, 0, 5]},
            },
        }
        for name in ("i1", "i2")
    },
}
LISTS = {"type": "object", "properties": {"items": {"type": "array", "items": {"type": "string"}}}}
LINES = "i1.rationale: it is: clear\ni1.score: 5\ni2.rationale: thin\ni2.score: -1"
JSON = {"i1": {"rationale": "it is: clear", "score": 5}, "i2": {"rationale": "thin", "score": -1}}
ASK: tuple[Message, ...] = ({"role": "user", "content": "Grade it."},)


class Server:
    """How one kind of server treats `response_format`."""

    def __init__(self, endpoint: Any, faults: Any, kind: str) -> None:
        self.kind = kind
        self.body = faults.body
        endpoint.default = self.answer

    async def answer(self, request: Any, body: dict[str, Any]) -> Any:
        asked = body.get("response_format") or {"type": "text"}
        schema = asked.get("schema") or asked.get("json_schema", {}).get("schema")
        if asked["type"] == "json_schema" and self.kind in ("llama-cpp", "json-mode", "plain-400"):
            status = 500 if self.kind == "llama-cpp" else 400
            error = {"error": {"message": "unknown response_format"}}
            return web.json_response(error, status=status)
        if asked["type"] != "text" and self.kind == "plain-400":
            return web.json_response({"error": {"message": "no response_format"}}, status=422)
        enforcing = self.kind in ("openai", "llama-cpp")
        if enforcing and schema and "word" in schema["properties"]:
            word = schema["properties"]["word"]["enum"][0]
            return self.body(json.dumps({"word": word}))
        if self.kind == "silent":
            return self.body(
                "zq blorp" if "lines" not in body["messages"][-1]["content"] else LINES
            )
        if asked["type"] == "text":
            return self.body(LINES)
        if "blue" in body["messages"][-1]["content"]:
            return self.body('```json\n{"word": "blue"}\n```' if not schema else '{"word": "blue"}')
        return self.body(json.dumps(JSON))


@pytest.mark.parametrize(
    ("kind", "output", "calls"),
    [
        ("openai", "json_schema", 2),
        ("llama-cpp", "json_object_schema", 2),
        ("json-mode", "json_object", 3),
        ("silent", "lines", 4),
        ("plain-400", "lines", 1),
    ],
)
def test_the_output_is_detected(
    endpoint: Any,
    faults: Any,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    output: str,
    calls: int,
) -> None:
    caplog.set_level(logging.INFO, "mpo.chat.probe")
    Server(endpoint, faults, kind)
    dialects: dict[str, Any] = {}
    chat = OpenAIChat(
        endpoint.url, "tiny", structured_output="auto", dialects=dialects, backoff_s=0.001
    )

    async def several() -> list[Any]:
        got = await asyncio.gather(
            *(chat.complete(ChatRequest(ASK, schema=SCHEMA)) for _ in range(5))
        )
        await chat.aclose()
        return got

    got = asyncio.run(several())
    assert {key: d.structured_output for key, d in dialects.items()} == {
        f"{endpoint.url} tiny": output
    }
    assert [json.loads(completion.text) for completion in got] == [JSON] * 5
    # What probing has cost is in the first answer's usage, and nowhere else.
    assert sorted(completion.usage.calls for completion in got) == [1, 1, 1, 1, calls]
    (record,) = caplog.records
    assert f"structured output is {output}" in record.message
    copied = pickle.loads(pickle.dumps(chat))
    before = len(endpoint.requests)
    assert asyncio.run(copied.complete(ChatRequest(ASK, schema=SCHEMA))).usage.calls == 1
    assert len(endpoint.requests) == before + 1


def test_overload_and_outage_say_nothing_about_the_output(endpoint: Any, faults: Any) -> None:
    Server(endpoint, faults, "openai")
    endpoint.faults = [429, 503, faults.reset]
    dialects: dict[str, Any] = {}
    chat = OpenAIChat(
        endpoint.url, "tiny", structured_output="auto", dialects=dialects, backoff_s=0.001
    )
    asyncio.run(chat.complete(ChatRequest(ASK, schema=SCHEMA)))
    assert [d.structured_output for d in dialects.values()] == ["json_schema"]

    endpoint.default = 503
    down = OpenAIChat(
        endpoint.url, "other", structured_output="auto", dialects=dialects, backoff_s=0.001
    )
    with pytest.raises(ChatTransportError, match="status 503"):
        asyncio.run(down.complete(ChatRequest(ASK, schema=SCHEMA)))
    assert dialects[f"{endpoint.url} other"].structured_output is None, (
        "nothing is remembered of an endpoint that was down"
    )


def test_without_a_schema_nothing_is_probed(endpoint: Any) -> None:
    asyncio.run(
        OpenAIChat(endpoint.url, "tiny", structured_output="auto").complete(ChatRequest(ASK))
    )
    assert len(endpoint.requests) == 1
    assert "response_format" not in endpoint.requests[0]


def test_each_output_sends_its_format() -> None:
    named = {"name": "answer", "strict": True, "schema": LISTS}
    assert sent(LISTS, "json_schema") == {"type": "json_schema", "json_schema": named}
    assert sent(LISTS, "json_object_schema") == {"type": "json_object", "schema": LISTS}
    assert sent(LISTS, "json_object") == {"type": "json_object"}
    assert response_format(LISTS, "lines") is None
    quoted = {**LISTS, "title": 'Judge "x" \\ é'}
    assert sent(quoted, "json_schema")["json_schema"]["name"] == "Judge_x_"
    assert sent(SharedSchema(LISTS), "json_schema") == sent(LISTS, "json_schema")


def sent(schema: Any, output: Any) -> Any:
    text = response_format(schema, output)
    return None if text is None else json.loads(text)


def test_lines_are_asked_for_and_read() -> None:
    (asked,) = ask_in_lines(ASK, SCHEMA)
    assert asked["content"].startswith("Grade it.\n\nAnswer in exactly these lines")
    assert "i1.score: <one of -1, 0, 5>" in asked["content"]
    assert ASK[0]["content"] == "Grade it."
    assert json.loads(read_lines(LINES, SCHEMA)) == JSON
    assert json.loads(read_lines(f"Here it is.\n{LINES}\n", SCHEMA)) == JSON
    assert ask_in_lines(ASK, LISTS) == ASK
    assert read_lines("anything", LISTS) == "anything"


@pytest.mark.parametrize(
    "answer",
    [
        LINES + "\ni1.score: 0",  # one of the two may be a quotation
        LINES.replace("i1.score: 5", "i1.score: 5/5"),
        LINES.replace("i1.score: 5", "i1.score: 4"),
        LINES.replace("i1.score: 5", "i1.score: ５"),
        LINES.replace("i1.score: 5", "the i1.score: 5"),
        LINES.replace("i1.score: 5\n", ""),
        "",
        json.dumps(JSON),
    ],
)
def test_lines_that_say_something_else_are_no_answer(answer: str) -> None:
    assert read_lines(answer, SCHEMA) == answer


def test_only_a_code_block_is_unwrapped() -> None:
    assert unwrap('```json\n{"a": 1}\n```\n') == '{"a": 1}'
    assert unwrap('```\n{"a": 1}\n```') == '{"a": 1}'
    for text in ('{"a": 1}', 'Sure:\n```json\n{"a": 1}\n```', "```\n1\n```\n```\n2\n```", "```"):
        assert unwrap(text) == text
