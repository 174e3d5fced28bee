"""Messages as texts: nothing that was said may vanish, and nothing becomes the word None."""

from __future__ import annotations

from typing import Any

import pytest

from mpo.data import flatten
from mpo.errors import DataError
from mpo.service.wire import WireMessage
from mpo.service.wire import flatten as flatten_wire


def both(messages: list[dict[str, Any]]) -> str:
    """The text, which is the same for TRL, a file and the service."""
    text = flatten(messages)
    assert flatten_wire([WireMessage.model_validate(message) for message in messages]) == text
    return text


def call(name: str, arguments: Any = '{"id": 7}') -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{"function": function}]}


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("Hi", "Hi"),
        (None, ""),
        ([{"type": "text", "text": "Hi"}, {"type": "text", "text": None}], "Hi"),
        ([{"type": "text", "text": "Hi", "image": None}], "Hi"),
        (
            [{"type": "image", "text": None, "image": "x.png"}, {"type": "text", "text": "Hi"}],
            "[image]\nHi",
        ),
        ([{"type": "input_audio", "input_audio": {"data": "…"}}, {"text": "Hi"}], "[audio]\nHi"),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Hi"}], "Hi"),
        ([{"type": "refusal", "refusal": "I cannot."}], "I cannot."),
        ([{"type": "tool_use", "name": "f", "input": {"a": 1}}], '[tool call] f({"a": 1})'),
    ],
)
def test_the_parts_of_a_message(content: Any, text: str) -> None:
    assert both([{"role": "assistant", "content": content}]) == text


def test_two_tool_calls_are_two_texts() -> None:
    one, other = both([call("cancel_reservation")]), both([call("delete_customer")])
    assert one == '[tool call] cancel_reservation({"id": 7})'
    assert one != other
    assert both([call("f", {"a": None})]) == '[tool call] f({"a": null})'
    turns = [
        call("look"),
        {"role": "tool", "content": "found"},
        {"role": "assistant", "content": "Ok"},
    ]
    assert both(turns) == ('assistant: [tool call] look({"id": 7})\n\ntool: found\n\nassistant: Ok')


@pytest.mark.parametrize("kind", ["image", "image_url", "input_image", "video", "input_audio"])
def test_what_has_no_text_at_all_is_refused_by_name(kind: str) -> None:
    messages = [{"role": "assistant", "content": [{"type": kind, kind: "…"}]}]
    with pytest.raises(DataError, match=r"has the part \[\w+\] and no text"):
        both(messages)


def test_the_forms_of_sharegpt() -> None:
    turns = [
        {"from": "system", "value": "s"},
        {"from": "human", "value": "h"},
        {"from": "function_call", "value": "f()"},
        {"from": "observation", "value": "o"},
        {"from": "gpt", "value": "g"},
    ]
    assert flatten(turns) == "system: s\n\nuser: h\n\nassistant: f()\n\ntool: o\n\nassistant: g"
