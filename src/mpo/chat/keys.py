"""What makes two calls the same call: the key of recordings, of the cache and of de-duplication."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

from .base import Message, Schema

__all__ = ["call_key", "without_fence_ids"]

_FENCE_ID = re.compile(r'</?[A-Z][A-Z_]* id="([0-9a-f]{16})">')


def without_fence_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with each fence id replaced by its number in order of appearance.

    The ids depend on the run's secret and say nothing that the fenced text does not say, so a
    recording survives into a run with another secret.
    """
    numbers: dict[str, str] = {}
    for message in messages:
        if ' id="' in message["content"]:
            for found in _FENCE_ID.findall(message["content"]):
                numbers.setdefault(found, f"{len(numbers):016d}")
    if not numbers:
        return [{"role": m["role"], "content": m["content"]} for m in messages]
    changed: list[Message] = []
    for message in messages:
        content = message["content"]
        # Not a pattern of all ids: it would be compiled anew for each prompt, which costs more
        # than asking.
        for id, number in numbers.items():
            content = content.replace(id, number)
        changed.append({"role": message["role"], "content": content})
    return changed


def call_key(
    messages: Sequence[Message],
    *,
    schema: Schema | None,
    temperature: float,
    max_tokens: int,
    seed: int | None,
    name: str = "",
) -> str:
    """Hash of everything that may change the answer.

    Args:
        messages: The conversation; fence ids do not count.
        schema: As given to `Chat.complete`; the order of its properties counts, since models
            answer in that order.
        temperature: As given to `Chat.complete`.
        max_tokens: As given to `Chat.complete`.
        seed: As given to `Chat.complete`.
        name: Model name, where answers of several models meet in one place.
    """
    turns = without_fence_ids(messages)
    # The texts go into the hash as they are: to escape them as JSON first costs more than the hash.
    # Their lengths stand in front, so that no two conversations run together to the same bytes.
    contents = [turn["content"].encode("utf-8", "surrogatepass") for turn in turns]
    shape = [(turn["role"], len(content)) for turn, content in zip(turns, contents, strict=True)]
    head = [name, float(temperature), max_tokens, seed, shape, schema]
    digest = hashlib.sha256(json.dumps(head, default=dict).encode("ascii"))
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:32]
