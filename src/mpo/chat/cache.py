"""Answers that were already paid for: a cache, and the same question asked twice at once.

    chat = CachedChat(DedupedChat(OpenAIChat(...)), cache=store)

Both treat two calls as one where `call_key` is the same and the answer may be shared: at
temperature 0, or with a seed. A call that samples freely is always made. An answer that was
shared costs nothing, so its usage is zero: sums stay what the endpoint bills.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..records import Usage
from .base import Chat, ChatRequest, ChatWrapper, Completion, Schema
from .keys import call_key
from .structured import conforms

__all__ = ["Cache", "CachedChat", "DedupedChat", "MemoryCache"]


class Cache(Protocol):
    """Where answers are kept. The store satisfies it."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was put under the key, or None."""
        ...

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep JSON values under a key; the first value stays."""
        ...


class MemoryCache:
    """A cache that lives as long as the process."""

    def __init__(self) -> None:
        self._values: dict[str, Mapping[str, Any]] = {}

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: str) -> Mapping[str, Any] | None:
        return self._values.get(key)

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        self._values.setdefault(key, value)


class CachedChat(ChatWrapper):
    """A chat that asks only what it does not know.

    Only whole answers are kept (`finish_reason` is `stop`), and only those of the shape that was
    asked for are given out again: others would be unusable for ever. That is looked into where an
    answer is found, which is seldom, and not where one is put.

    Attributes:
        hits: Calls that were answered from the cache.
        saved: What those answers had cost when they were asked.
    """

    def __init__(self, inner: Chat, cache: Cache) -> None:
        super().__init__(inner)
        self.cache = cache
        self.hits = 0
        self.saved = Usage()

    async def complete(self, request: ChatRequest) -> Completion:
        key = _shared_key(request, self.name)
        known = _read(self.cache.get(key), request.schema) if key else None
        if known is not None:
            self.hits += 1
            self.saved = self.saved + known.usage
            return replace(known, usage=Usage())
        if key and isinstance(self.inner, DedupedChat):
            completion = await self.inner.share(key, request)  # the key is known already
        else:
            completion = await self.inner.complete(request)
        if key and completion.finish_reason == "stop":
            self.cache.put(key, _written(completion))
        return completion


class DedupedChat(ChatWrapper):
    """A chat that asks once what is asked several times at once.

    Completions of one GRPO group are often equal at low temperature; they then share a call. It
    goes on while anybody waits for it: one caller's cancellation is not the others'.

    Attributes:
        shared: Calls that were spared.
    """

    def __init__(self, inner: Chat) -> None:
        super().__init__(inner)
        self.shared = 0
        self._lock = threading.Lock()
        # A task belongs to its loop, so calls of different loops are not shared.
        self._flights: dict[tuple[asyncio.AbstractEventLoop, str], _Flight] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"inner": self.inner, "shared": self.shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["inner"])  # type: ignore[misc]
        self.shared = state["shared"]

    async def complete(self, request: ChatRequest) -> Completion:
        key = _shared_key(request, self.name)
        if key is None:
            return await self.inner.complete(request)
        return await self.share(key, request)

    async def share(self, key: str, request: ChatRequest) -> Completion:
        """The answer to a question with a known key."""
        place = (asyncio.get_running_loop(), key)
        flight = self._flights.get(place)
        if flight is None:
            task = place[0].create_task(self.inner.complete(request))
            flight = self._flights[place] = _Flight(task)
            task.add_done_callback(lambda _: self._land(place, flight))
        return await self._wait(place, flight)

    async def _wait(
        self, place: tuple[asyncio.AbstractEventLoop, str], flight: _Flight
    ) -> Completion:
        flight.waiting += 1
        try:
            completion = await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if not flight.waiting and not flight.task.done():
                flight.task.cancel()
                self._land(place, flight)  # who comes now shall not join a cancelled call
        if flight.paid:
            with self._lock:
                self.shared += 1
            return replace(completion, usage=Usage())
        # The first to come back carries the cost, whoever that is.
        flight.paid = True
        return completion

    def _land(self, place: tuple[asyncio.AbstractEventLoop, str], flight: _Flight) -> None:
        if self._flights.get(place) is flight:
            del self._flights[place]


@dataclass
class _Flight:
    task: asyncio.Task[Completion]
    waiting: int = 0
    paid: bool = False


def _shared_key(request: ChatRequest, name: str) -> str | None:
    """The call's key; None where each call should be an answer of its own."""
    if request.temperature > 0 and request.seed is None:
        return None
    return call_key(request, name)


def _written(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "usage": completion.usage.model_dump(),
        "finish_reason": completion.finish_reason,
        "model": completion.model,
    }


def _read(value: Mapping[str, Any] | None, schema: Schema | None) -> Completion | None:
    if value is None:
        return None
    try:
        text, model = value["text"], value.get("model", "")
        usage = Usage(**value["usage"])
    except (KeyError, TypeError, ValueError):
        return None  # written by something else: ask again
    if not isinstance(text, str) or (schema is not None and not conforms(text, schema)):
        return None
    return Completion(text, usage, model=model)
