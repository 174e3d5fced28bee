"""Reading the body of a `/chat/completions` reply, which may have any shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ChatReplyError
from ..records import Usage
from .base import Completion

__all__ = ["error_message", "read_reply", "read_usage"]

_MOST_TOKENS = 10**9
"""A count above it is a fault of the server, not a bill."""

_WHOLE = {"eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop"}
"""What some servers say for `stop`."""


def read_reply(body: Any) -> Completion:
    """The completion in a decoded body.

    Raises:
        ChatReplyError: It holds none, or the model refused.
    """
    if not isinstance(body, Mapping):
        raise ChatReplyError(f"malformed: the reply is {type(body).__name__}, not an object")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        said = error_message(body)
        raise ChatReplyError(f"malformed: the reply has no choices{': ' + said if said else ''}")
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, Mapping) else None
    if not isinstance(message, Mapping):
        raise ChatReplyError("malformed: the reply's first choice has no message")
    refusal = message.get("refusal")
    if isinstance(refusal, str) and refusal:
        raise ChatReplyError(f"refused: the model said {clip(refusal)!r}")
    finish_reason = str(choice.get("finish_reason") or "unknown").lower()
    finish_reason = _WHOLE.get(finish_reason, finish_reason)
    text = _text(message.get("content"))
    if text is None:
        if finish_reason == "stop":
            raise ChatReplyError("malformed: the reply's message has no text")
        text = ""  # cut before the first word, or filtered: the finish reason says so
    model = body.get("model")
    return Completion(
        text=text,
        usage=read_usage(body.get("usage")),
        finish_reason=finish_reason,
        model=model if isinstance(model, str) else "",
    )


def read_usage(usage: Any) -> Usage:
    """What the server says that a call cost; zeros for what it does not say."""
    if not isinstance(usage, Mapping):
        return Usage(calls=1)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    prompt = _tokens(usage.get("prompt_tokens"))
    return Usage(
        calls=1,
        prompt_tokens=prompt,
        # DeepSeek has a name of its own for it.
        cached_tokens=min(prompt, _tokens(cached) or _tokens(usage.get("prompt_cache_hit_tokens"))),
        completion_tokens=_tokens(usage.get("completion_tokens")),
    )


def error_message(body: Any) -> str:
    """What an error body says, in one line; empty where it says nothing readable."""
    if not isinstance(body, Mapping):
        return ""
    error = body.get("error", body.get("detail", body.get("message", "")))
    if isinstance(error, Mapping):
        error = error.get("message", "")
    return clip(error if isinstance(error, str) else repr(error))


def clip(text: str, length: int = 200) -> str:
    """The text in one line of at most `length` characters."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # some servers answer in parts
        parts = [part.get("text") for part in content if isinstance(part, Mapping)]
        texts = [part for part in parts if isinstance(part, str)]
        return "".join(texts) if texts else None
    return None


def _tokens(count: Any) -> int:
    whole = isinstance(count, int) and not isinstance(count, bool)
    return count if whole and 0 <= count <= _MOST_TOKENS else 0
