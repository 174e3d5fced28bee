"""Outcome of one attempt: the completion in a reply's body, or a failure and when to retry.

A body may have any shape. Waits between attempts use full jitter: the n-th is drawn from 0 to
`base_s * 2**n`, so that clients that failed together do not come back together. A `Retry-After` of
the server takes precedence.
"""

from __future__ import annotations

import random
import re
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

from ..errors import ChatReplyError
from ..records import Usage
from .base import Completion

__all__ = [
    "OVERLOAD",
    "Failure",
    "PaidReplies",
    "Retry",
    "all_thinking",
    "clip",
    "error_message",
    "failure_inside",
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

_THINKING_FIELDS = ("reasoning_content", "reasoning")
"""Fields of a message in which servers return the thinking."""
_OFF = (
    "switch thinking off (e.g. chat.extra_body: {chat_template_kwargs: {enable_thinking: false}})"
)
_MORE_TOKENS = f"Raise max_tokens (rm.max_tokens in task.yaml), or {_OFF}"
_NO_PARSER = f"Start the server without its reasoning parser, or {_OFF}"
_NO_FINISH_REASON = (
    "the server gives no finish_reason, so a cut answer cannot be told from a whole one. Use a "
    "version of the server, or of the gateway before it, that gives one"
)


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
    model = body.get("model")
    completion = Completion(
        text=text or "",  # none: cut before the first word, or filtered; see the finish reason
        usage=read_usage(body.get("usage")),
        finish_reason=finish_reason,
        model=model if isinstance(model, str) else "",
        fault=_NO_FINISH_REASON if finish_reason == "unknown" else "",
    )
    thinking = next((name for name in _THINKING_FIELDS if _text(message.get(name))), None)
    if thinking is not None and not completion.text.strip():
        return all_thinking(completion, thinking)
    if text is None and finish_reason == "stop":
        raise ChatReplyError("malformed: the reply's message has no text")
    return completion


def all_thinking(completion: Completion, where: str = "") -> Completion:
    """A completion that has thinking and no answer: it is not whole, and says why.

    Args:
        completion: The completion.
        where: Field of the reply that has the thinking; empty if it is in the text.
    """
    if completion.finish_reason == "length":
        fault = f"the model's thinking used up max_tokens before its answer. {_MORE_TOKENS}"
    elif where:
        fault = (
            f"the reply has no text; what the model wrote stands in {where}, the place of its "
            f"thinking, and is not scored. {_NO_PARSER}"
        )
    else:
        fault = f"the reply is all thinking, with no answer behind it. {_MORE_TOKENS}"
    reason = completion.finish_reason.replace("stop", "thinking")
    return replace(completion, text="", finish_reason=reason, fault=fault)


def read_usage(usage: Any) -> Usage:
    """A call's usage as the server reports it; a missing count is 0."""
    if not isinstance(usage, Mapping):
        return Usage(calls=1)
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    others = map(usage.get, ("prompt_cache_hit_tokens", "cache_read_input_tokens"))
    prompt = _tokens(usage.get("prompt_tokens"))
    return Usage(
        calls=1,
        prompt_tokens=prompt,
        cached_tokens=min(prompt, next(filter(None, map(_tokens, (cached, *others))), 0)),
        completion_tokens=_tokens(usage.get("completion_tokens")),
    )


class PaidReplies:
    """Usage of replies that are billed and were no answer: probes, and failures inside a 200. The
    next call that ends has it in its own usage."""

    def __init__(self) -> None:
        self._usages: deque[Usage] = deque()  # single operations only: loops share it

    def add(self, usage: Usage) -> None:
        """Let a usage wait for the next call that ends."""
        self._usages.append(usage)

    def note(self, body: Any, calls: int) -> None:
        """The same for a reply, where the server reports what it has used.

        Args:
            body: The reply, decoded.
            calls: 0 where the call goes on with another attempt.
        """
        usage = read_usage(body.get("usage") if isinstance(body, Mapping) else None)
        if usage.prompt_tokens or usage.completion_tokens:
            self.add(usage.model_copy(update={"calls": calls}))

    def take(self) -> Usage | None:
        """Sum of the usages that wait, each once; None for none."""
        total = None
        while self._usages:
            with suppress(IndexError):  # another thread was faster
                usage = self._usages.popleft()
                total = usage if total is None else total + usage
        return total


def error_message(body: Any) -> str:
    """An error body's message in one line; empty if it has none."""
    for part in _parts(body):
        error = part.get("error", part.get("detail", part.get("message", "")))
        if isinstance(error, Mapping):
            error = error.get("message") or error
        if isinstance(error, list):  # pydantic: places and messages, and the request again
            error = "; ".join(map(_detail, error))
        if error:
            return clip(error if isinstance(error, str) else repr(error))
    return ""


def _detail(part: Any) -> str:
    if not isinstance(part, Mapping):
        return str(part)
    place = part.get("loc")
    where = ".".join(map(str, place)) if isinstance(place, list) else ""
    return f"{where}: {part.get('msg', part.get('message', ''))}"


def failure_inside(body: Any) -> int | None:
    """Status of a failure that came with status 200, as gateways send it; None if none is known.

    The failure is in `error`, beside or in place of the choices, or in the first choice. Its code
    is a number, a number as text, or a word.
    """
    *_, outer = parts = list(_parts(body)) or [{}]
    choices = outer.get("choices")
    errors = [part["error"] for part in parts if _is_error(part.get("error"))]
    failed = any(part.get("finish_reason") == "error" for part in parts)
    if choices and not (errors or failed):
        return None
    for error in [*errors, *([] if choices else [outer])]:
        status = _status_of(error)
        if status is not None:
            return status
    return 502 if choices else None  # an answer that failed for an unknown reason may succeed


def _parts(body: Any) -> Iterator[Mapping[str, Any]]:
    """The parts of a reply that may tell of a failure: the first choice, and the reply."""
    if isinstance(body, list) and len(body) == 1:  # Gemini
        body = body[0]
    if isinstance(body, Mapping):
        choices = body.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
            yield choices[0]
        yield body


def _is_error(error: Any) -> bool:
    if not isinstance(error, Mapping):
        return bool(error)
    return any(error.values()) and str(error.get("code")) not in ("0", "200")


_CODES = ("code", "status", "status_code", "statusCode", "http_status", "type", "error_type")
"""Keys of an error that may hold its status."""
_NUMBER = re.compile(r"(?:^|\b(?:http|status|code|error)\W{0,3}(?:code\W{0,3})?)([45]\d\d)\b", re.I)
_KNOWN = frozenset({*HTTPStatus, *range(520, 530)})
_STATUSES = {
    "contextlength|maximumcontext|invalidrequest|badrequest|invalidargument|validation": 400,
    "ratelimit|toomanyrequests|quota|throttl|resourceexhausted|slowdown": 429,
    "unauthori|unauthenticated|authentication|apikey|invalidtoken": 401,
    "permission|forbidden|accessdenied": 403,
    "notfound|unexpectedendpoint|unknownurl|unknownendpoint|doesnotexist|nosuchmodel": 404,
    "overload|unavailable|capacity|busy|loading": 503,
    "timeout|timedout|deadlineexceeded": 504,
    "internal|servererror|upstream|badgateway": 500,
}
"""Statuses by words that stand for them, in letters alone."""


def _status_of(error: Any) -> int | None:
    """Status that an error names: by its code, or else by the words of its message."""
    if not isinstance(error, Mapping):
        return _status_in(error, message=True)
    codes = [_status_in(error.get(key), message=False) for key in _CODES]
    known = next((code for code in codes if code is not None), None)
    return known or _status_in(error.get("message", error.get("detail")), message=True)


def _status_in(value: Any, *, message: bool) -> int | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) if 400 <= value < 600 else None
    if not isinstance(value, str):
        return None
    text = value[:400].strip()
    number = _NUMBER.search(text) if message else re.fullmatch(r"([45]\d\d)(?:\.0)?", text)
    if number is not None and int(number[1]) in _KNOWN:
        return int(number[1])
    letters = re.sub(r"[^a-z]", "", text.lower())
    return next((code for words, code in _STATUSES.items() if re.search(words, letters)), None)


def clip(text: str, length: int = 200) -> str:
    """The text in one line of at most `length` characters."""
    line = " ".join(text[: 4 * length].split())
    return line if len(line) <= length else line[: length - 1] + "…"


def _text(content: Any) -> str | None:
    if isinstance(content, str):
        return content
    if isinstance(content, list):  # some servers answer in parts
        # A part that is thinking is no part of the answer.
        parts = [
            part.get("text")
            for part in content
            if isinstance(part, Mapping) and part.get("type") in (None, "text", "output_text")
        ]
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
    timed_out: bool = False
    """True if the answer did not come within the attempt's time limit."""
    advice: str = ""
    """Remedy, as a sentence; empty where it follows from the status."""
    wait_s: float | None = None
    """Wait that the server requests in `Retry-After`, in seconds."""
    status: int = 0
    """HTTP status; 0 if there was none."""
    body: Any = field(default=None, repr=False)
    """The reply, decoded where it is JSON; it may name the field that was refused."""


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
