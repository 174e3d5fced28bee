"""A model's window: what does not fit is not asked, or clipped where everybody sees it."""

from __future__ import annotations

import asyncio

import pytest

from mpo.chat import ChatRequest, Message, Schema, ScriptedChat, WindowedChat
from mpo.errors import ChatReplyError
from mpo.sanitize import fence, find_fences


def prompt(*texts: str) -> ChatRequest:
    fences = [fence(text, secret=b"s") for text in texts]
    return ChatRequest((Message(role="user", content="Grade: " + " ".join(fences)),), max_tokens=50)


def chat(tokens: int, *, clips: bool) -> tuple[WindowedChat, ScriptedChat]:
    def answer(messages: list[Message], schema: Schema | None, seed: int | None) -> str:
        return "fine"

    inner = ScriptedChat(answer)
    return WindowedChat(inner, tokens, clips=clips), inner


def test_what_does_not_fit_is_not_paid_for() -> None:
    windowed, inner = chat(1000, clips=False)
    with pytest.raises(ChatReplyError, match="too_long: .* window_tokens is 1000"):
        asyncio.run(windowed.complete(prompt("word " * 1000)))
    assert inner.calls == []
    assert asyncio.run(windowed.complete(prompt("word " * 100))).text == "fine"


@pytest.mark.parametrize("text", ["word " * 4000, "長い" * 4000])
def test_the_longest_texts_are_clipped_with_a_mark(text: str) -> None:
    windowed, inner = chat(1000, clips=True)
    asyncio.run(windowed.complete(prompt("a short text", text, text[: len(text) // 2])))
    (sent,) = inner.calls
    short, *long = find_fences(sent.prompt)
    assert short == "a short text"
    assert all("characters left out: too long for this model" in body for body in long)
    assert all(body.startswith(text[:100]) for body in long)
    assert long[0].endswith(text[-50:])
    assert len(long[0]) == pytest.approx(len(long[1]), abs=20)


def test_clipping_that_does_not_help_is_a_refusal() -> None:
    windowed, inner = chat(60, clips=True)
    with pytest.raises(ChatReplyError, match="too_long"):
        asyncio.run(windowed.complete(prompt("word " * 4000)))
    assert inner.calls == []
