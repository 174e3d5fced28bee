"""What makes two calls the same call: the key of recordings, of the cache and of de-duplication."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence

from .base import ChatRequest, Message, schema_json

__all__ = ["call_key", "without_fence_ids"]

_FENCE_ID = re.compile(r'</?[A-Z][A-Z_]* id="([0-9a-f]{16})">')
_ID = ' id="'


def without_fence_ids(messages: Sequence[Message]) -> list[Message]:
    """The messages with each fence id replaced by its number in order of appearance.

    The ids depend on the run's secret and say nothing that the fenced text does not say, so a
    recording survives into a run with another secret.
    """
    numbers: dict[str, str] = {}
    for message in messages:
        for found in _fence_ids(message["content"]):
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


def _fence_ids(text: str) -> Iterator[str]:
    """Ids of fences, in order. By hand from one ` id="` to the next: the pattern alone looks at
    every character of a long prompt."""
    at = text.find(_ID)
    while at >= 0:
        fence = _FENCE_ID.match(text, text.rfind("<", max(0, at - 40), at))
        if fence is not None and fence.start(1) == at + len(_ID):
            yield fence[1]
        at = text.find(_ID, at + len(_ID))


def call_key(request: ChatRequest, name: str = "") -> str:
    """Hash of everything that may change the answer.

    Args:
        request: The call. Fence ids do not count; the order of the schema's properties does, since
            models answer in that order.
        name: Model name, where answers of several models meet in one place.
    """
    turns = without_fence_ids(request.messages)
    # The texts go into the hash as they are: to escape them as JSON first costs more than the hash.
    # Their lengths stand in front, so that no two conversations run together to the same bytes.
    contents = [turn["content"].encode("utf-8", "surrogatepass") for turn in turns]
    shape = [(turn["role"], len(content)) for turn, content in zip(turns, contents, strict=True)]
    options = [float(request.temperature), request.max_tokens, request.seed]
    head = json.dumps([name, *options, shape])
    digest = hashlib.sha256(f"{head[:-1]}, {schema_json(request.schema)}]".encode("ascii"))
    for content in contents:
        digest.update(content)
    return digest.hexdigest()[:32]
