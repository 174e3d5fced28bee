"""What is known is not asked again, and what is asked twice at once is asked once."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import pytest

from mpo.chat import (
    CachedChat,
    Chat,
    ChatRequest,
    Completion,
    MemoryCache,
    OpenAIChat,
    ScriptedChat,
)
from mpo.errors import ChatReplyError, ChatTransportError
from mpo.records import Usage
from mpo.sanitize import fence


def user(text: str = "hello", **options: Any) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},), **options)


def echo(messages: Any, schema: Any, seed: Any) -> str:
    return f"said {messages[-1]['content']}"


def ask(chat: Chat, text: str = "hello", **options: Any) -> Completion:
    return asyncio.run(chat.complete(user(text, **options)))


def test_a_known_answer_costs_nothing() -> None:
    inner, cache = ScriptedChat(echo), MemoryCache()
    chat = CachedChat(inner, cache)
    assert isinstance(chat, Chat)
    first, again = ask(chat), ask(chat)
    assert first.text == again.text == "said hello"
    assert again.usage == Usage()
    assert (len(inner.calls), chat.hits, chat.saved) == (1, 1, first.usage)
    assert ask(CachedChat(ScriptedChat([]), cache)).text == "said hello"


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.2, "seed": 1},
        {"max_tokens": 9},
        {"seed": 1},
        {"schema": {"type": "object"}},
        {"text": "other"},
    ],
)
def test_another_question_is_asked(options: dict[str, Any]) -> None:
    inner = ScriptedChat(lambda messages, schema, seed: '{"said": "hello"}')
    chat = CachedChat(inner, MemoryCache())
    ask(chat)
    ask(chat, **options)
    ask(chat, **options)
    assert len(inner.calls) == 2


GRADE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["score", "why"],
    "properties": {"score": {"type": "integer", "enum": [0, 1]}, "why": {"type": "string"}},
}


@pytest.mark.parametrize(
    "bad",
    [
        "no json",
        '{"score": 1, "why": "cut',
        '{"score": 1}',
        '{"score": 2, "why": ""}',
        '{"score": true, "why": ""}',
        '{"score": "1", "why": ""}',
        '{"score": 1, "why": null}',
        '{"score": 0, "why": "", "score": 1}',
        '{"score": 1, "why": "", "more": 1}',
        '[{"score": 1, "why": ""}]',
        "[" * 100_000,
    ],
)
def test_an_answer_of_another_shape_is_asked_for_again(bad: str) -> None:
    inner = ScriptedChat([bad, '{"score": 1, "why": "a\nb"}'])
    chat = CachedChat(inner, MemoryCache())
    assert ask(chat, schema=GRADE).text == bad
    assert ask(chat, schema=GRADE).text != bad


@pytest.mark.parametrize(
    "good", ['{"score": 1, "why": "a\nb"}', '```json\n{"score": 0, "why": ""}\n```']
)
def test_an_answer_of_the_right_shape_is_known(good: str) -> None:
    chat = CachedChat(ScriptedChat([good]), MemoryCache())
    assert ask(chat, schema=GRADE).text == ask(chat, schema=GRADE).text == good


def test_another_model_is_asked() -> None:
    cache = MemoryCache()
    ask(CachedChat(ScriptedChat(echo, name="one"), cache))
    other = ScriptedChat(echo, name="two")
    ask(CachedChat(other, cache))
    assert len(other.calls) == 1


def test_free_samples_are_samples() -> None:
    inner = ScriptedChat(echo)
    chat = CachedChat(inner, MemoryCache())

    async def sample() -> None:
        await asyncio.gather(*(chat.complete(user(temperature=0.7)) for _ in range(4)))

    asyncio.run(sample())
    assert len(inner.calls) == 4


def test_another_run_secret_is_the_same_question() -> None:
    inner = ScriptedChat(echo)
    chat = CachedChat(inner, MemoryCache())
    for secret in (b"one", b"two"):
        ask(chat, fence("an essay", secret=secret))
    assert len(inner.calls) == 1


def test_only_whole_answers_are_kept() -> None:
    cut = Completion("par", Usage(calls=1), finish_reason="length")
    inner = ScriptedChat([cut, ChatReplyError("malformed: x"), "whole"])
    cache = MemoryCache()
    chat = CachedChat(inner, cache)
    assert ask(chat).finish_reason == "length"
    with pytest.raises(ChatReplyError):
        ask(chat)
    assert len(cache) == 0
    assert [ask(chat).text, ask(chat).text] == ["whole", "whole"]


@pytest.mark.parametrize("junk", [{}, {"text": 3, "usage": {}}, {"text": "x", "usage": {"a": 1}}])
def test_junk_in_the_cache_is_not_an_answer(junk: dict[str, Any]) -> None:
    class Junk:
        def get(self, key: str) -> dict[str, Any]:
            return junk

        def put(self, key: str, value: Any) -> None:
            return None

    assert ask(CachedChat(ScriptedChat(echo), Junk())).text == "said hello"


def test_equal_calls_at_once_are_one_call(endpoint: Any) -> None:
    endpoint.delay_s = 0.05
    inner = OpenAIChat(endpoint.url, "tiny")
    chat = CachedChat(inner)

    async def group() -> list[Completion]:
        texts = ["a", "b", "a", "a", "b"]
        got = await asyncio.gather(*(chat.complete(user(text)) for text in texts))
        got.append(await chat.complete(user("a")))  # the flight is over: a new one
        await chat.aclose()
        return got

    got = asyncio.run(group())
    assert len(endpoint.requests) == 3
    assert sum(completion.usage.calls for completion in got) == 3
    assert chat.shared == 3
    assert not chat._in_flight


def test_a_failure_is_everybodys_and_is_not_remembered() -> None:
    inner = Waiting(ScriptedChat([ChatTransportError("down"), "up"]))
    chat = CachedChat(inner)

    async def scene() -> list[Any]:
        calls = (chat.complete(user()) for _ in range(3))
        outcomes: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
        return [*outcomes, await chat.complete(user())]

    *failed, last = asyncio.run(scene())
    assert all(isinstance(outcome, ChatTransportError) for outcome in failed)
    assert last.text == "up"


class Waiting:
    name = "waiting"

    def __init__(self, inner: Chat, seconds: float = 0.02) -> None:
        self.inner = inner
        self.seconds = seconds
        self.cancelled = 0

    async def complete(self, request: ChatRequest) -> Completion:
        try:
            await asyncio.sleep(self.seconds)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return await self.inner.complete(request)

    async def aclose(self) -> None:
        return None


def test_one_callers_cancellation_is_not_the_others() -> None:
    inner = Waiting(ScriptedChat(echo), seconds=0.2)
    chat = CachedChat(inner)

    async def scene() -> Completion:
        first = asyncio.create_task(chat.complete(user()))
        second = asyncio.create_task(chat.complete(user()))
        await asyncio.sleep(0.005)
        first.cancel()
        got = await second
        assert first.cancelled()
        return got

    got = asyncio.run(scene())
    assert got.text == "said hello"
    assert got.usage.calls == 1, "who remains carries the cost"
    assert inner.cancelled == 0


def test_a_call_that_nobody_waits_for_is_given_up() -> None:
    inner = Waiting(ScriptedChat(echo), seconds=0.5)
    chat = CachedChat(inner)

    async def scene() -> Completion:
        calls = [asyncio.create_task(chat.complete(user())) for _ in range(2)]
        await asyncio.sleep(0.005)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        return await chat.complete(user())

    assert asyncio.run(scene()).usage.calls == 1
    assert inner.cancelled == 1


def test_two_loops_do_not_share_a_task() -> None:
    chat = CachedChat(Waiting(ScriptedChat(echo)))
    got: list[str] = []
    threads = [threading.Thread(target=lambda: got.append(ask(chat).text)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert got == ["said hello"] * 4
    copied = pickle.loads(pickle.dumps(CachedChat(ScriptedChat(["x"]))))
    assert ask(copied).text == "x"
