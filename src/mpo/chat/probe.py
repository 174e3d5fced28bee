"""Detecting how an endpoint can be held to a shape.

Servers do not document it reliably: some refuse `json_schema` with a 400 or a 500, some accept and
ignore it silently (transformers serve, several llama.cpp builds). So it is tried: the prompt asks
for one word, and the schema allows only another. A server that answers with the schema's word
enforces the schema.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from ..errors import ChatReplyError
from ..records import Usage, content_hash
from .base import ChatRequest, Completion, Message, Schema
from .dialect import Dialect
from .replies import Failure, clip
from .structured import StructuredOutput

__all__ = ["FORMAT_REFUSED", "Detector", "ProbeResult", "probe"]

_log = logging.getLogger(__name__)

FORMAT_REFUSED = frozenset({400, 415, 422, 500, 501})
"""Statuses with which servers refuse an unknown `response_format`. Others (429, 503, timeouts) do
not tell whether the format is supported, and the call is retried."""

Ask = Callable[[ChatRequest, StructuredOutput], Awaitable[Completion | Failure]]
"""Makes one call with the given output; a `Failure` has a status of `FORMAT_REFUSED`."""


@dataclass(frozen=True)
class ProbeResult:
    """Result of probing one endpoint."""

    output: StructuredOutput
    """The strictest output that the endpoint enforces."""
    usage: Usage
    """Usage of all calls of the probe; they are billed like any other."""
    notes: tuple[str, ...]
    """Reason why each stricter output was not taken."""


async def probe(ask: Ask, request: ChatRequest, salt: str = "") -> ProbeResult:
    """Try the outputs, strictest first.

    Args:
        ask: Makes one call to the endpoint.
        request: The call that needs the result. The probe is sent with its fields: an endpoint that
            refuses one of them must not look as if it refused the output.
        salt: Name of the endpoint. The word that only the schema contains is derived from it, so
            that every process of a run makes the same calls.

    Raises:
        ChatTransportError: The endpoint is down, or refuses for other reasons (key, model).
    """
    word = f"w{content_hash(salt, 8)}"
    schema = {
        "title": "probe",
        "type": "object",
        "additionalProperties": False,
        "required": ["word"],
        "properties": {"word": {"type": "string", "enum": [word]}},
    }
    usage = Usage()
    notes: list[str] = []
    tries: tuple[tuple[StructuredOutput, Any], ...] = (
        ("json_schema", {"word": word}),
        ("json_object_schema", {"word": word}),
        ("json_object", None),
    )
    for output, expected in tries:
        result = await _try(ask, request, output, None if expected is None else schema)
        if isinstance(result, str):
            notes.append(f"{output}: {result}")
            continue
        usage = usage + result.usage
        answer = _object(result.text)
        if answer is not None and (expected is None or answer == expected):
            return ProbeResult(output, usage, tuple(notes))
        notes.append(
            f"{output}: accepted but not enforced, the answer was {clip(result.text, 60)!r}"
        )
    return ProbeResult("lines", usage, tuple(notes))


async def _try(
    ask: Ask, request: ChatRequest, output: StructuredOutput, schema: Schema | None
) -> Completion | str:
    """The completion, or the reason why there is none."""
    # The prompt must contain "JSON", or OpenAI refuses json_object.
    text = 'Reply with this JSON object and nothing else: {"word": "blue"}'
    message = Message(role="user", content=text)
    try:
        outcome = await ask(replace(request, messages=(message,), schema=schema), output)
    except ChatReplyError as error:
        return clip(str(error), 120)
    return clip(outcome.message, 120) if isinstance(outcome, Failure) else outcome


def _object(text: str) -> dict[str, Any] | None:
    try:
        # Not strict: grammar-bound models write raw control characters into strings.
        answer = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


class Detector:
    """Probes one endpoint once, when the first call needs the result.

    Args:
        dialect: Findings about the endpoint, where the result is kept.
    """

    def __init__(self, dialect: Dialect) -> None:
        self.dialect = dialect
        self._probing: dict[asyncio.AbstractEventLoop, asyncio.Task[ProbeResult]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"dialect": self.dialect}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["dialect"])  # type: ignore[misc]

    async def find(self, ask: Ask, request: ChatRequest) -> StructuredOutput:
        """The endpoint's output."""
        known = self.dialect.structured_output
        if known is not None:
            return known
        loop = asyncio.get_running_loop()
        task = self._probing.get(loop)
        if task is None:
            task = self._probing[loop] = loop.create_task(self._probe(ask, request))
            task.add_done_callback(lambda _: self._probing.pop(loop, None))
        # Shielded: the first caller may be cancelled while others wait for the same result.
        result = await asyncio.shield(task)
        return result.output

    async def _probe(self, ask: Ask, request: ChatRequest) -> ProbeResult:
        result = await probe(ask, request, self.dialect.endpoint)
        self.dialect.structured_output = result.output
        _log.info(
            "%s: structured output is %s%s",
            self.dialect.endpoint,
            result.output,
            f" ({'; '.join(result.notes)})" if result.notes else "",
        )
        return result
