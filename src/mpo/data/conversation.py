"""Conversations: messages in the forms that people store, and their text.

A message is `{"role", "content"}` as in OpenAI's API (content: a text, None, or parts), or
`{"from", "value"}` as in ShareGPT files. Nothing that a message says may vanish on the way to a
grader: tool calls are written out, and an image that stands alone is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError

__all__ = ["flatten", "has_prompt", "is_conversation", "prompt_text", "split_conversation"]

Message = Mapping[str, Any]

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "assistant",
}
"""Roles of ShareGPT files, in OpenAI's words."""
_ASKS = ("user", "system", "developer")
_MEDIA = ("image", "audio", "video", "file", "document")
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning")
"""Parts that are not said to anybody."""


def is_conversation(value: Any) -> bool:
    """True for a list of messages with at least one."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str | bytes)
        and len(value) > 0
        and all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in value)
    )


def flatten(content: str | Sequence[Message]) -> str:
    """Text of a prompt or completion that is a text, or a list of messages.

    A single message becomes its content; several are preceded by their roles. A tool call becomes
    a line `[tool call] name({"argument": 1})`, and an image beside a text the mark `[image]`.

    Raises:
        DataError: The messages hold an image, a sound or the like and no text at all, or are nested
            too deeply.
    """
    if isinstance(content, str):
        return content
    try:
        turns = [(_role(message), list(_pieces(message))) for message in content]
    except RecursionError:
        raise DataError("is nested too deeply") from None
    media = [piece.text for _, pieces in turns for piece in pieces if piece.is_mark]
    said = any(piece.text.strip() for _, ps in turns for piece in ps if not piece.is_mark)
    if media and not said:
        raise DataError(
            f"has the part {media[0]} and no text: only text can be graded, so leave it out"
        )
    texts = [(role, "\n".join(piece.text for piece in pieces)) for role, pieces in turns]
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in texts)


def has_prompt(messages: Sequence[Message]) -> bool:
    """True if a message of a user or a system is among them."""
    return any(_role(message) in _ASKS for message in messages)


def split_conversation(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """The prompt, and the completion: all that follows the last message of the user.

    Raises:
        DataError: One of them is missing.
    """
    last = max((n for n, m in enumerate(messages) if _role(m) in _ASKS), default=-1)
    prompt, completion = list(messages[: last + 1]), list(messages[last + 1 :])
    if not prompt:
        raise DataError("begins with an answer: it has no prompt")
    if not completion:
        raise DataError(
            f"ends with a message of role {_role(messages[-1])!r}: it has no completion"
        )
    return prompt, completion


def prompt_text(messages: Sequence[Message]) -> str:
    """Text of the messages that a policy has to answer: those before the last answer.

    Raises:
        DataError: There are none.
    """
    last = max((n for n, m in enumerate(messages) if _role(m) in _ASKS), default=-1)
    if last < 0:
        raise DataError("has no message of a user")
    return flatten(messages[: last + 1])


@dataclass(frozen=True)
class _Piece:
    """A piece of a message's text."""

    text: str
    is_mark: bool = False
    """True for a mark in place of an image or the like."""


def _role(message: Message) -> str:
    role = message.get("role") or message.get("from") or ""
    return _ROLES.get(str(role), str(role))


def _pieces(message: Message) -> Iterator[_Piece]:
    content = message.get("content")
    if content is None:
        content = message.get("value")
    if content is None and isinstance(message.get("refusal"), str):
        content = message["refusal"]
    yield from _content(content)
    calls = message.get("tool_calls")
    several = calls if isinstance(calls, list | tuple) else [calls]
    for call in [*several, message.get("function_call")]:
        if call is not None:
            yield _Piece(_call(call))


def _content(content: Any) -> Iterator[_Piece]:
    if content is None:
        return
    if isinstance(content, Mapping):
        yield from _part(content)
    elif isinstance(content, Sequence) and not isinstance(content, str | bytes):
        for part in content:
            yield from _content(part)
    else:
        yield _Piece(str(content))


def _part(part: Mapping[str, Any]) -> Iterator[_Piece]:
    """A part of a message. Columns of a data set have all parts' keys in each, padded with None."""
    kind = str(part.get("type") or "text")
    text = part.get("text", part.get("refusal"))
    if isinstance(text, Mapping):  # {"text": {"value": …}} of OpenAI's Assistants
        text = text.get("value")
    if kind in _THOUGHTS:
        return
    if text is not None:
        yield _Piece(str(text))
    elif kind == "tool_use":
        yield _Piece(_call(part))
    elif part.get("content") is not None:  # a tool's result
        yield from _content(part["content"])
    elif any(value is not None for key, value in part.items() if key not in ("type", "text")):
        name = kind if kind != "text" else next(k for k, v in part.items() if v is not None)
        yield _mark(name)
    elif any(name in kind for name in _MEDIA):  # the picture itself is in another column
        yield _mark(kind)


def _mark(kind: str) -> _Piece:
    return _Piece(f"[{kind.removeprefix('input_').removesuffix('_url')}]", is_mark=True)


def _call(call: Any) -> str:
    """A tool call in one line."""
    if not isinstance(call, Mapping):
        return f"[tool call] {call}"
    inner = call.get("function")
    function: Mapping[str, Any] = inner if isinstance(inner, Mapping) else call
    name = function.get("name") or call.get("type") or ""
    arguments = function.get("arguments", function.get("input", function.get("parameters")))
    if arguments is not None and not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False, default=str)
    return f"[tool call] {name}({arguments or ''})"
