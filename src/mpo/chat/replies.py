"""Outcome of one attempt: the completion in a reply's body, or a failure and when to retry.

A body may have any shape. Waits between attempts use full jitter: the n-th is drawn from 0 to
`base_s * 2**n`, so that clients that failed together do not come back together. A `Retry-After` of
the server takes precedence.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any

from ..errors import ChatReplyError
from ..records import Usage
from .base import Completion

__all__ = [
    "OVERLOAD",
    "Failure",
    "Retry",
    "clip",
    "error_message",
    "is_retryable",
    "read_reply",
    "read_usage",
    "retry_after",
]

# ---------------------------------------------------------------------- the body

_MOST_TOKENS = 10**9
"""A higher count is a fault of the server, not a bill."""

_WHOLE = {"eos": "stop", "eos_token": "stop", "end_turn": "stop", "stop_sequence": "stop"}
"""Other words for `stop`, used by some servers."""


def read_reply(body: Any) -> Completion:
    """The completion in a decoded body.

    Raises:
        ChatReplyError: The body has no completion, or the model refused.
    """
    if not isinstance(body, Mapping):
        raise ChatReplyError(f"malformed: the reply is {type(body).__name__}, not an object")
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        error = error_message(body)
        raise ChatReplyError(f"malformed: the reply has no choices{': ' + error if error else ''}")
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
        text = ""  # cut before the first word, or filtered; see the finish reason
    model = body.get("model")
    return Completion(
        text=text,
        usage=read_usage(body.get("usage")),
        finish_reason=finish_reason,
        model=model if isinstance(model, str) else "",
    )


def read_usage(usage: Any) -> Usage:
    """A call's usage as the server reports it; a missing count is 0."""
    if not isinstance(usage, Mapping):
        return Usage(calls=1)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    prompt = _tokens(usage.get("prompt_tokens"))
    return Usage(
        calls=1,
        prompt_tokens=prompt,
        # DeepSeek uses another name.
        cached_tokens=min(prompt, _tokens(cached) or _tokens(usage.get("prompt_cache_hit_tokens"))),
        completion_tokens=_tokens(usage.get("completion_tokens")),
    )


def error_message(body: Any) -> str:
    """An error body's message in one line; empty if it has none."""
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


# ---------------------------------------------------------------------- failures and retries

OVERLOAD = frozenset({429, 529})
"""Statuses that mean "too many requests"; 5xx and timeouts count as overload too."""


@dataclass(frozen=True)
class Failure:
    """A failed attempt. A value, not an exception: exceptions of the HTTP library carry the
    request's headers, and with them the key."""

    message: str
    """A first word for statistics, then the cause."""
    retryable: bool
    """True if a repetition may succeed."""
    overload: bool = False
    """True if the endpoint was overloaded."""
    wait_s: float | None = None
    """Wait that the server requests in `Retry-After`, in seconds."""
    status: int = 0
    """HTTP status; 0 if there was none."""


@dataclass
class Retry:
    """Number of attempts for one call, and the waits between them.

    The jitter comes from the system's randomness: forked ranks with one seeded generator would all
    wait equally long, which jitter should prevent.
    """

    retries: int = 5
    """Attempts after the first."""
    base_s: float = 0.5
    """Upper bound of the first wait, in seconds; it doubles with each attempt."""
    cap_s: float = 20.0
    """Upper bound of every wait without `Retry-After`, in seconds."""
    retry_after_cap_s: float = 120.0
    """Longest `Retry-After` that is obeyed, in seconds."""
    _random: random.Random = field(default_factory=random.SystemRandom, repr=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_random"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _random=random.SystemRandom())

    def wait(self, attempt: int, requested_s: float | None) -> float:
        """Seconds before the next attempt.

        Args:
            attempt: Attempts so far, at least 1.
            requested_s: The server's `Retry-After`, if it sent one.
        """
        jitter = self._random.uniform(0, min(self.cap_s, self.base_s * 2 ** (attempt - 1)))
        if requested_s is None:
            return jitter
        # Never earlier than requested, and not all at the same moment.
        return min(requested_s, self.retry_after_cap_s) + min(jitter, self.base_s)


def is_retryable(status: int) -> bool:
    """True if the same request may succeed later."""
    return status in (408, 409, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `Retry-After-Ms` or `Retry-After` (seconds or a date).

    Returns:
        The wait; None if no readable header is there.
    """
    try:
        if "Retry-After-Ms" in headers:
            return max(0.0, float(headers["Retry-After-Ms"]) / 1000)
        value = headers.get("Retry-After", "").strip()
        if not value:
            return None
        if value.replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
