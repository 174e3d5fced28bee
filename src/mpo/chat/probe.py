"""Finding out how an endpoint can be held to a shape.

What a server says of itself is not to be had: some refuse `json_schema` with a 400 or a 500, some
take it and ignore it in silence (transformers serve, several llama.cpp builds). So it is tried: the
prompt asks for one word, and the schema allows only another. Who answers by the schema enforces it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from ..errors import ChatReplyError
from ..records import Usage, content_hash
from .base import ChatRequest, Completion, Message, Schema
from .replies import clip
from .retry import Failure
from .structured import Tier, unwrap

__all__ = ["NOT_TAKEN", "Probe", "TierFinder", "probe"]

_log = logging.getLogger(__name__)

NOT_TAKEN = frozenset({400, 415, 422, 500, 501})
"""Statuses with which servers refuse a `response_format` that they do not know. Others (429, 503,
timeouts) say nothing about it and are tried again."""

PROBE_TOKENS = 512
"""Room for models that think first; an enforced answer stops after a dozen."""

Ask = Callable[[ChatRequest, Tier], Awaitable[Completion | Failure]]
"""Asks once in a tier; a `Failure` is one of `NOT_TAKEN`."""


@dataclass(frozen=True)
class Probe:
    """What a probe found."""

    tier: Tier
    usage: Usage
    """Of all its calls; they are billed like any other."""
    notes: tuple[str, ...]
    """Why each stricter tier was not taken."""


async def probe(ask: Ask, salt: str = "") -> Probe:
    """Try the tiers, strictest first.

    Args:
        ask: Asks the endpoint.
        salt: Something of the endpoint; the word that only the schema knows is drawn from it, so
            that every process of a run asks the same.

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
    tries: tuple[tuple[Tier, Any], ...] = (
        ("json_schema", {"word": word}),
        ("json_object_schema", {"word": word}),
        ("json_object", None),
    )
    for tier, wanted in tries:
        said = await _try(ask, tier, None if wanted is None else schema)
        if isinstance(said, str):
            notes.append(f"{tier}: {said}")
            continue
        usage = usage + said.usage
        # As the client reads it: without a schema models like to wrap JSON in a code block.
        answer = _object(said.text if wanted else unwrap(said.text))
        if answer is not None and (wanted is None or answer == wanted):
            return Probe(tier, usage, tuple(notes))
        notes.append(f"{tier}: taken and not enforced, the answer was {clip(said.text, 60)!r}")
    return Probe("lines", usage, tuple(notes))


async def _try(ask: Ask, tier: Tier, schema: Schema | None) -> Completion | str:
    # "JSON" must stand in the prompt, else OpenAI refuses json_object.
    wish = 'Reply with this JSON object and nothing else: {"word": "blue"}'
    try:
        message = Message(role="user", content=wish)
        said = await ask(ChatRequest((message,), schema, max_tokens=PROBE_TOKENS), tier)
    except ChatReplyError as error:
        return clip(str(error), 120)
    return clip(said.what, 120) if isinstance(said, Failure) else said


def _object(text: str) -> dict[str, Any] | None:
    try:
        # Not strict: grammar-bound models write raw control characters into strings.
        answer = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


class TierFinder:
    """The tier of one endpoint: given, or found out at the first call that needs it.

    Args:
        endpoint: URL and model, the key in `memory`.
        ask: Asks the endpoint.
        memory: Tiers by endpoint, shared by the chats of one process.
    """

    def __init__(self, endpoint: str, memory: MutableMapping[str, Tier]) -> None:
        self.endpoint = endpoint
        self.memory = memory
        self._probing: dict[asyncio.AbstractEventLoop, asyncio.Task[Probe]] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"endpoint": self.endpoint, "memory": dict(self.memory)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["endpoint"], state["memory"])  # type: ignore[misc]

    async def find(self, ask: Ask) -> tuple[Tier, Usage]:
        """The tier, and what finding it has cost this caller."""
        known = self.memory.get(self.endpoint)
        if known is not None:
            return known, Usage()
        loop = asyncio.get_running_loop()
        task = self._probing.get(loop)
        first = task is None
        if task is None:
            task = self._probing[loop] = loop.create_task(self._probe(ask))
            task.add_done_callback(lambda _: self._probing.pop(loop, None))
        # Shielded: the first caller may be cancelled while others wait for the same answer.
        found = await asyncio.shield(task)
        return found.tier, found.usage if first else Usage()

    async def _probe(self, ask: Ask) -> Probe:
        found = await probe(ask, self.endpoint)
        self.memory[self.endpoint] = found.tier
        _log.info(
            "%s: answers are asked for as %s%s",
            self.endpoint,
            found.tier,
            f" ({'; '.join(found.notes)})" if found.notes else "",
        )
        return found
