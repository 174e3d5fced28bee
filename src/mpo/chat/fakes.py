"""Public fakes for `Chat`: a scripted model, and a recorded one.

    chat = ScriptedChat(['{"clarity": 3}', ChatTransportError("down")])
    chat = ScriptedChat(lambda messages, schema, seed: "yes")

    chat = RecordedChat("calls.jsonl", inner=OpenAIChat(...))    # records new calls
    chat = RecordedChat("calls.jsonl")                           # replays, offline

They are ordinary code: tests, examples and `mpo replay` use them like any other model.
"""

from __future__ import annotations

import difflib
import json
import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import ConfigError, DataError, UnseenPromptError
from ..records import Usage
from .base import Chat, ChatRequest, Completion, Message, Schema, identity_of
from .cache import call_key, completion_from_json, completion_to_json, normalize_fence_ids

__all__ = ["RecordedChat", "Reply", "ScriptedChat"]

_log = logging.getLogger(__name__)

Reply = str | Completion | Exception
"""One reply of a script: a text, a whole completion, or an exception to raise."""

Script = Callable[[Sequence[Message], Schema | None, int | None], Reply]
"""Function of a call's messages, schema and seed that returns the reply."""


class ScriptedChat:
    """A model that gives the replies of a script.

    Args:
        replies: Replies in order, or a function of messages, schema and seed that returns one.
        name: Model name for the record.

    Attributes:
        calls: All requests in order, failed calls included.
        usage: Sum over its replies, with words for tokens. Calls that raised do not count.
    """

    def __init__(self, replies: Sequence[Reply] | Script, *, name: str = "scripted") -> None:
        self._replies = replies if callable(replies) else tuple(replies)
        self._name = name
        self._lock = threading.Lock()
        self.calls: list[ChatRequest] = []
        self.usage = Usage()

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_lock"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())

    @property
    def name(self) -> str:
        return self._name

    async def complete(self, request: ChatRequest) -> Completion:
        with self._lock:
            self.calls.append(request)
            number = len(self.calls)
        reply = self._reply(request, number)
        if isinstance(reply, Exception):
            raise reply
        if isinstance(reply, str):
            usage = Usage(
                calls=1,
                prompt_tokens=sum(len(message["content"].split()) for message in request.messages),
                completion_tokens=len(reply.split()),
            )
            reply = Completion(reply, usage, model=self._name)
        with self._lock:
            self.usage = self.usage + reply.usage
        return reply

    async def aclose(self) -> None:
        return None

    def _reply(self, request: ChatRequest, number: int) -> Reply:
        if callable(self._replies):
            return self._replies(request.messages, request.schema, request.seed)
        if number > len(self._replies):
            # Not a ChatError: a fault of the script would pass as a failing model, and end as an
            # unscored rollout.
            raise ConfigError(
                f"the script of {self._name!r} has {len(self._replies)} replies, and this is call "
                f"{number}; the prompt ends: {request.prompt[-200:]!r}"
            )
        return self._replies[number - 1]


class RecordedChat:
    """A model that answers from a file.

    One line of JSON per call. The key is the hash of messages, schema, temperature, max_tokens and
    seed. Fence ids do not count, so a recording made under another run secret can be used.

    Args:
        path: The JSONL file.
        inner: Chat that answers calls missing in the file; its answers are recorded. Answers that
            the file has from another model (by identity) are not used then. If None, all of them
            are, and a missing call raises `UnseenPromptError`.

    Raises:
        DataError: The file cannot be read, or there is neither a file nor an inner chat.
    """

    def __init__(self, path: str | Path, *, inner: Chat | None = None) -> None:
        self.path = Path(path)
        self.inner = inner
        self._lock = threading.Lock()
        self._lines = self._load()
        self._by_key: dict[str, list[dict[str, Any]]] = {}
        for line in self._lines:
            self._by_key.setdefault(line["key"], []).append(line)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "inner": self.inner}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["path"], inner=state["inner"])  # type: ignore[misc]

    @property
    def name(self) -> str:
        if self.inner is not None:
            return self.inner.name
        first = next(iter(self._lines), {})
        return str(first.get("name", "recorded"))

    @property
    def identity(self) -> str:
        if self.inner is not None:
            return identity_of(self.inner)
        first = next(iter(self._lines), {})
        return str(first.get("identity") or self.name)

    async def complete(self, request: ChatRequest) -> Completion:
        key = call_key(request)
        line = self._find(key)
        if line is not None:
            return completion_from_json(line["reply"])
        call = {
            "messages": normalize_fence_ids(request.messages),
            "schema": request.schema,
            "temperature": float(request.temperature),
            "max_tokens": request.max_tokens,
            "seed": request.seed,
        }
        if self.inner is None:
            raise UnseenPromptError(self._unseen(call))
        completion = await self.inner.complete(request)
        return self._record(key, call, completion)

    async def aclose(self) -> None:
        if self.inner is not None:
            await self.inner.aclose()

    def _record(self, key: str, call: Mapping[str, Any], completion: Completion) -> Completion:
        line = {
            "key": key,
            "name": self.name,
            "identity": self.identity,
            **call,
            "reply": completion_to_json(completion),
        }
        with self._lock:
            known = self._find(key)
            if known is not None:
                # Two equal calls were in flight: both callers get the answer that the file will
                # replay, but the second one keeps its own usage.
                return replace(completion_from_json(known["reply"]), usage=completion.usage)
            self._lines.append(line)
            self._by_key.setdefault(key, []).append(line)
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(line, default=dict) + "\n")
            except OSError as error:
                raise DataError(f"cannot append to the recording {self.path}: {error}") from error
        return completion

    def _find(self, key: str) -> dict[str, Any] | None:
        """The call's line by the model that would answer it now; by any, where there is none."""
        for line in self._by_key.get(key, ()):
            # A line of an earlier version has a name only.
            mine = self.identity if "identity" in line else self.name
            if self.inner is None or line.get("identity", line.get("name")) == mine:
                return line
        return None

    def _load(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            if self.inner is None:
                raise DataError(
                    f"no recording at {self.path}: check the path, or pass an inner chat to record"
                )
            return []
        try:
            rows = self.path.read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the recording {self.path}: {error}") from error
        lines: list[dict[str, Any]] = []
        for number, row in enumerate(rows, 1):
            if not row.strip():
                continue
            try:
                line = json.loads(row)
                completion_from_json(line["reply"])
                if not isinstance(line["key"], str):
                    raise TypeError("its key is no text")
                lines.append(line)
            except (ValueError, KeyError, TypeError) as error:
                if number < len(rows):
                    raise DataError(
                        f"{self.path}:{number} is not a recorded call: {error!r}"
                    ) from error
                self._cut_incomplete(row)
                return lines
        if rows[-1] and self.inner is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write("\n")  # only the line's end was lost
        return lines

    def _cut_incomplete(self, row: str) -> None:
        # A recorder that was killed may leave half a line; the next append must not join it.
        _log.warning("%s ends in an incomplete line, which is ignored", self.path)
        if self.inner is not None:
            with self.path.open("rb+") as file:
                size = file.seek(0, 2)
                file.truncate(size - len(row.encode()))

    def _unseen(self, call: Mapping[str, Any]) -> str:
        text = f"the recording {self.path} does not hold this prompt"
        if not self._lines:
            return f"{text}: it is empty"
        wanted = _as_lines(call)
        wanted_counts = Counter(wanted)

        def shared(lines: list[str]) -> tuple[int, int]:
            return (Counter(lines) & wanted_counts).total(), -len(lines)

        nearest = max((_as_lines(line) for line in self._lines), key=shared)
        delta = list(
            difflib.unified_diff(nearest, wanted, "recorded", "requested", n=0, lineterm="")
        )
        shown = [line if len(line) <= 160 else line[:159] + "…" for line in delta[:24]]
        if len(delta) > len(shown):
            shown.append(f"… and {len(delta) - len(shown)} more lines")
        return (
            f"{text} (it holds {len(self._lines)}; record again with an inner chat). "
            "The nearest one differs in:\n" + "\n".join(shown)
        )


def _as_lines(call: Mapping[str, Any]) -> list[str]:
    lines = [
        f"{name}: {json.dumps(call[name], default=dict)}"
        for name in ("schema", "temperature", "max_tokens", "seed")
    ]
    for message in call["messages"]:
        lines += [f"[{message['role']}]", *message["content"].splitlines()]
    return lines
