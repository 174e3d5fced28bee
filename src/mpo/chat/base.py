"""Chat: one method for calling any model.

The RM, the MRM, the simulated model and the recorded one all satisfy `Chat`; the code that calls
them does not know which one it has.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, TypedDict, runtime_checkable

from ..errors import ChatError, ChatReplyError
from ..records import Usage

__all__ = [
    "Chat",
    "ChatRequest",
    "ChatWrapper",
    "Completion",
    "Message",
    "Metered",
    "Schema",
    "SharedSchema",
    "identity_of",
    "require_complete",
    "same_model",
    "schema_json",
]

Schema = Mapping[str, Any]
"""A JSON schema of the portable subset: `type`, `properties`, `required`, `items`, `enum`,
`additionalProperties: false`, `title` (the name sent to the server)."""


class SharedSchema(dict[str, Any]):
    """A schema used by many calls. Do not change it after the first call: its JSON is written
    once."""

    @cached_property
    def json(self) -> str:
        """The schema as JSON, in ASCII."""
        return json.dumps(self)


def schema_json(schema: Schema | None) -> str:
    """A schema as JSON, in ASCII; `null` for None."""
    return schema.json if isinstance(schema, SharedSchema) else json.dumps(schema, default=dict)


class Message(TypedDict):
    """One turn: `role` is `system`, `user` or `assistant`."""

    role: str
    content: str


@dataclass(frozen=True)
class ChatRequest:
    """One call of a model."""

    messages: tuple[Message, ...]
    """The conversation so far, at least one message."""
    schema: Schema | None = None
    """JSON schema that the answer should satisfy. The caller still checks the answer: some servers
    ignore the schema silently."""
    temperature: float = 0.0
    """Sampling temperature, 0 or above."""
    max_tokens: int = 1024
    """Maximum length of the answer, in tokens."""
    seed: int | None = None
    """Sampling seed, for servers that take one."""

    @property
    def prompt(self) -> str:
        """All turns as one text."""
        return "\n\n".join(message["content"] for message in self.messages)


@dataclass(frozen=True)
class Completion:
    """A model's answer."""

    text: str
    usage: Usage
    finish_reason: str = "stop"
    """Only `stop` means that the answer is whole."""
    model: str = ""
    """Model name that the server gave; for the record."""
    fault: str = ""
    """Cause of an answer that is not whole, in words, where the client knows it."""


@runtime_checkable
class Chat(Protocol):
    """A model that answers one call at a time.

    Implementations may be used from several event loops and must be picklable, since trainers copy
    the reward into every rank.

    One more attribute is optional: `identity`, a text that differs where two chats of one name
    answer differently (another server, other settings). Wherever an answer is used again, it is
    part of the key; see `identity_of`.
    """

    @property
    def name(self) -> str:
        """Model name, for people and prices."""
        ...

    async def complete(self, request: ChatRequest) -> Completion:
        """Ask the model once.

        Raises:
            ChatTransportError: The model could not be reached, or kept failing.
            ChatReplyError: The reply is not a chat completion.
        """
        ...

    async def aclose(self) -> None:
        """Close the running loop's connections. Safe to call twice."""
        ...


def identity_of(chat: Chat) -> str:
    """A chat's `identity`; its name where it has none."""
    identity = getattr(chat, "identity", None)
    return identity if isinstance(identity, str) and identity else chat.name


def same_model(one: Chat, other: Chat) -> bool:
    """True where two chats would give the same answer. Two objects that have a name only, as fakes
    do, are two models."""
    if one is other:
        return True
    named = hasattr(one, "identity") and hasattr(other, "identity")
    return named and identity_of(one) == identity_of(other)


def require_complete(completion: Completion) -> Completion:
    """The completion, if it is whole.

    A truncated answer is never repaired: `10` cut to `1` would be a wrong score.

    Raises:
        ChatReplyError: `finish_reason` is not `stop`.
    """
    if completion.finish_reason != "stop":
        word = {"length": "truncated", "content_filter": "refused"}.get(
            completion.finish_reason, "unfinished"
        )
        stopped = f"the model stopped with finish_reason={completion.finish_reason!r}"
        raise ChatReplyError(f"{word}: {completion.fault or stopped}")
    return completion


class ChatWrapper:
    """Base of chats that pass calls on to another chat: it has that chat's name, identity and
    connections.

    Args:
        inner: The chat that answers.
    """

    def __init__(self, inner: Chat) -> None:
        self.inner = inner

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def identity(self) -> str:
        return identity_of(self.inner)

    async def aclose(self) -> None:
        await self.inner.aclose()


_NOTHING = Usage()


class Metered(ChatWrapper):
    """A chat that adds up the usage of its calls.

    One meter per judgement or meta step, so that the cost of a failed one is known too.
    """

    def __init__(self, inner: Chat) -> None:
        super().__init__(inner)
        self.usage = _NOTHING

    async def complete(self, request: ChatRequest) -> Completion:
        try:
            completion = await self.inner.complete(request)
        except ChatError as error:
            if isinstance(error.usage, Usage):  # billed, though it cannot be used
                self.usage = self.usage + error.usage
            raise
        # Most meters see one call, which needs no addition.
        first = self.usage is _NOTHING
        self.usage = completion.usage if first else self.usage + completion.usage
        return completion
