"""Answers that are known already or on their way: both cost nothing.

    chat = CachedChat(OpenAIChat(...), store)      # keeps answers
    chat = CachedChat(OpenAIChat(...))             # only shares equal calls in flight

Two calls are the same if their `call_key` is the same and the answer may be shared: at
temperature 0, or with a seed. A call that samples freely is always made. A shared answer costs
nothing, so its usage is zero: sums stay equal to the endpoint's bill.
"""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from ..errors import ChatError
from ..records import Usage
from .base import (
    Chat,
    ChatRequest,
    ChatWrapper,
    Completion,
    Message,
    Schema,
    identity_of,
    schema_json,
)
from .structured import conforms

__all__ = [
    "Cache",
    "CachedChat",
    "MemoryCache",
    "call_key",
    "completion_from_json",
    "completion_to_json",
    "normalize_fence_ids",
]

# ---------------------------------------------------------------------- keys

_FENCE_ID = re.compile(r'</?[A-Z][A-Z_]* id="([0-9a-f]{16})">')
_ID = ' id="'


def call_key(request: ChatRequest, identity: str = "") -> str:
    """Hash of everything that may change the answer.

    Args:
        request: The call. Fence ids do not count; the order of the schema's properties does, since
            models answer in that order.
        identity: Identity of the model, where answers of several models are kept in one place.
    """
    turns = normalize_fence_ids(request.messages)
    # The texts are hashed as they are: escaping them as JSON costs more than the hash itself.
    # Their lengths come first, so that no two conversations join to the same bytes.
    contents: list[bytes] = []
    shape: list[tuple[str, int]] = []
    for turn in turns:
        content = turn["content"].encode("utf-8", "surrogatepass")
        contents.append(content)
        shape.append((turn["role"], len(content)))
    options = [float(request.temperature), request.max_tokens, request.seed]
    head = json.dumps([identity, *options, shape])
    digest = hashlib.sha256(f"{head[:-1]}, {schema_json(request.schema)}]".encode("ascii"))
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:32]


def normalize_fence_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with each fence id replaced by its number in order of appearance.

    The ids depend on the run's secret and carry no meaning beyond the fenced text, so a recording
    can be used in a run with another secret.
    """
    numbers: dict[str, str] = {}
    for message in messages:
        for fence_id in _fence_ids(message["content"]):
            numbers.setdefault(fence_id, f"{len(numbers):016d}")
    if not numbers:
        return [{"role": m["role"], "content": m["content"]} for m in messages]
    changed: list[Message] = []
    for message in messages:
        content = message["content"]
        # One pattern of all ids would have to be compiled for each prompt, which costs more.
        for fence_id, number in numbers.items():
            content = content.replace(fence_id, number)
        changed.append({"role": message["role"], "content": content})
    return changed


def _fence_ids(text: str) -> Iterator[str]:
    """Ids of fences, in order. Searches for ` id="` first: the pattern alone would look at every
    character of a long prompt."""
    at = text.find(_ID)
    while at >= 0:
        fence = _FENCE_ID.match(text, text.rfind("<", max(0, at - 40), at))
        if fence is not None and fence.start(1) == at + len(_ID):
            yield fence[1]
        at = text.find(_ID, at + len(_ID))


# ---------------------------------------------------------------------- where answers are kept


class Cache(Protocol):
    """A place for answers. The store satisfies it."""

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The value put under the key, or None."""
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


def completion_to_json(completion: Completion) -> dict[str, Any]:
    """A completion as JSON values."""
    return {
        "text": completion.text,
        "usage": completion.usage.model_dump(),
        "finish_reason": completion.finish_reason,
        "model": completion.model,
    }


def completion_from_json(value: Mapping[str, Any]) -> Completion:
    """The completion that `completion_to_json` has written.

    Raises:
        KeyError, TypeError, ValueError: The value is no such record.
    """
    text, finish_reason = value["text"], value["finish_reason"]
    if not isinstance(text, str):
        raise TypeError(f"the text is {type(text).__name__}")
    return Completion(text, Usage(**value["usage"]), finish_reason, value.get("model", ""))


# ---------------------------------------------------------------------- the chat


class CachedChat(ChatWrapper):
    """A chat that makes each call once.

    Completions of one GRPO group are often equal at low temperature; they then share one call in
    flight. The call goes on while any caller waits for it, so cancelling one caller does not
    affect the others.

    With a cache, whole answers (`finish_reason` is `stop`) are stored. A stored answer is used only
    if it has the requested shape; otherwise the rollout would be unusable forever. The shape is
    checked on reading, which is rare, and not on writing.

    Args:
        inner: The chat that answers.
        cache: Place for answers; None keeps none.

    Attributes:
        hits: Calls that were answered from the cache.
        saved: Original cost of those answers.
        shared: Calls that shared the answer of an equal call in flight.
    """

    def __init__(self, inner: Chat, cache: Cache | None = None) -> None:
        super().__init__(inner)
        self._identity = identity_of(inner)  # asked for once, and not for every key
        self.cache = cache
        self.hits = 0
        self.saved = Usage()
        self.shared = 0
        self._lock = threading.Lock()
        # A task belongs to its loop, so calls of different loops are not shared.
        self._in_flight: dict[tuple[asyncio.AbstractEventLoop, str], _CallInFlight] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_lock", "_in_flight")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _in_flight={})

    async def complete(self, request: ChatRequest) -> Completion:
        if request.temperature > 0 and request.seed is None:
            return await self.inner.complete(request)
        key = call_key(request, self._identity)
        if self.cache is not None:
            value = self.cache.get(key)
            known = _usable(value, request.schema) if value is not None else None
            if known is not None:
                with self._lock:
                    self.hits += 1
                    self.saved = self.saved + known.usage
                return replace(known, usage=Usage())
        return await self._share(key, request)

    async def _share(self, key: str, request: ChatRequest) -> Completion:
        """The answer of the call in flight with this key, which is started if there is none."""
        place = (asyncio.get_running_loop(), key)
        call = self._in_flight.get(place)
        if call is None:
            call = _CallInFlight(place[0].create_task(self.inner.complete(request)))
            self._in_flight[place] = call
        call.waiting += 1
        try:
            completion = await asyncio.shield(call.task)
        except ChatError as error:
            if call.billed:  # the first caller has carried the cost
                error = copy.copy(error)
                error.usage = None
            call.billed = True
            raise error
        finally:
            call.waiting -= 1
            if call.task.done() or not call.waiting:
                call.task.cancel()  # does nothing if the task is done
                # A later caller must not join a finished or cancelled call.
                if self._in_flight.get(place) is call:
                    del self._in_flight[place]
        if call.billed:
            with self._lock:
                self.shared += 1
            return replace(completion, usage=Usage())
        # The first caller to resume carries the cost.
        call.billed = True
        if self.cache is not None and completion.finish_reason == "stop":
            self.cache.put(key, completion_to_json(completion))
        return completion


@dataclass
class _CallInFlight:
    task: asyncio.Task[Completion]
    waiting: int = 0
    billed: bool = False


def _usable(value: Mapping[str, Any], schema: Schema | None) -> Completion | None:
    """The answer that the cache has, if it can be read and has the requested shape."""
    try:
        completion = completion_from_json(value)
    except (KeyError, TypeError, ValueError):
        return None  # something else has written it: make the call
    return completion if schema is None or conforms(completion.text, schema) else None
