"""The public doubles: ScriptedChat and RecordedChat."""

from __future__ import annotations

import asyncio
import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mpo.chat import Chat, ChatRequest, Completion, Message, RecordedChat, Schema, ScriptedChat
from mpo.chat.cache import call_key, normalize_fence_ids
from mpo.errors import ChatTransportError, ConfigError, DataError, UnseenPromptError
from mpo.records import Usage
from mpo.sanitize import fence


def user(text: str, **options: Any) -> ChatRequest:
    return ChatRequest(
        ({"role": "system", "content": "You grade."}, {"role": "user", "content": text}), **options
    )


def ask(chat: Chat, text: str = "two words", **options: Any) -> Completion:
    return asyncio.run(chat.complete(user(text, **options)))


def shout(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    return f"{messages[-1]['content'].upper()} {seed}"


def test_a_script_is_said_in_order() -> None:
    whole = Completion("cut", Usage(calls=1, completion_tokens=9), finish_reason="length")
    chat = ScriptedChat(["first answer", ChatTransportError("down"), whole], name="tiny")
    assert isinstance(chat, Chat)
    first = ask(chat, schema={"type": "object"}, temperature=0.3, max_tokens=5, seed=2)
    assert first.text == "first answer"
    assert first.usage == Usage(calls=1, prompt_tokens=4, completion_tokens=2)
    with pytest.raises(ChatTransportError, match="down"):
        ask(chat)
    assert ask(chat) == whole
    assert chat.usage == Usage(calls=2, prompt_tokens=4, completion_tokens=11)
    assert len(chat.calls) == 3
    call = chat.calls[0]
    assert (call.temperature, call.max_tokens, call.seed) == (0.3, 5, 2)
    assert call.prompt == "You grade.\n\ntwo words"
    assert chat.name == "tiny"


def test_a_script_that_is_over_says_so() -> None:
    chat = ScriptedChat(["only"])
    ask(chat)
    with pytest.raises(ConfigError, match=r"has 1 replies, and this is call 2;.*two words"):
        ask(chat)


def test_a_script_may_be_a_function() -> None:
    chat = ScriptedChat(shout)
    assert ask(chat, "loud", seed=7).text == "LOUD 7"
    copied = pickle.loads(pickle.dumps(chat))
    assert ask(copied, "again").text == "AGAIN None"
    assert (len(chat.calls), len(copied.calls)) == (1, 2)
    refusing = ScriptedChat(lambda messages, schema, seed: ChatTransportError("no"))
    with pytest.raises(ChatTransportError):
        ask(refusing)


def test_what_is_missing_is_recorded_and_replayed(tmp_path: Path) -> None:
    path = tmp_path / "calls" / "recorded.jsonl"
    inner = ScriptedChat(shout, name="tiny")
    recording = RecordedChat(path, inner=inner)
    said = [ask(recording, text, seed=1) for text in ("a", "b", "a")]
    assert len(inner.calls) == 2
    assert said[0] == said[2]
    assert len(path.read_text().splitlines()) == 2

    replaying = RecordedChat(path)
    assert replaying.name == "tiny"
    assert [ask(replaying, text, seed=1) for text in ("a", "b", "a")] == said
    assert ask(pickle.loads(pickle.dumps(replaying)), "b", seed=1) == said[1]


def test_the_same_asked_twice_at_once_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    inner = ScriptedChat(["first", "second"])
    chat = RecordedChat(path, inner=inner)

    async def both() -> list[Completion]:
        return await asyncio.gather(chat.complete(user("x")), chat.complete(user("x")))

    asyncio.run(both())
    assert len(path.read_text().splitlines()) == 1
    assert ask(RecordedChat(path), "x").text == "first"


def test_an_unseen_prompt_shows_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    recording = RecordedChat(path, inner=ScriptedChat(shout))
    ask(recording, "rubric\nlogic\nessay about bees")
    ask(recording, "something else entirely")
    with pytest.raises(UnseenPromptError) as caught:
        ask(RecordedChat(path), "rubric\nlogic\nessay about wasps", temperature=0.7)
    message = str(caught.value)
    assert "-essay about bees" in message
    assert "+essay about wasps" in message
    assert "-temperature: 0.0" in message
    assert "+temperature: 0.7" in message
    assert "logic" not in message
    assert "it holds 2" in message


def test_a_recording_survives_another_run_secret(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"

    def prompt(secret: bytes, essay: str = "an essay") -> str:
        return f"Task: {fence('t', secret=secret, label='PROMPT')}\n{fence(essay, secret=secret)}"

    said = ask(RecordedChat(path, inner=ScriptedChat(["5"])), prompt(b"one"))
    assert ask(RecordedChat(path), prompt(b"two")) == said
    with pytest.raises(UnseenPromptError):
        ask(RecordedChat(path), prompt(b"one", "another essay"))


def test_recordings_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no recording at"):
        RecordedChat(tmp_path / "missing.jsonl")
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"key": 1}\n{"key": 2}\n')
    with pytest.raises(DataError, match=r"bad\.jsonl:1 is not a recorded call"):
        RecordedChat(bad)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(UnseenPromptError, match="it is empty"):
        ask(RecordedChat(empty))
    with pytest.raises(DataError, match="cannot append"):
        ask(RecordedChat(bad.parent / "empty.jsonl" / "below", inner=ScriptedChat(["x"])))


@pytest.mark.parametrize("torn", [40, -1])
def test_a_recorder_that_was_killed_goes_on(tmp_path: Path, torn: int) -> None:
    path = tmp_path / "recorded.jsonl"
    ask(RecordedChat(path, inner=ScriptedChat(shout)), "whole")
    whole = path.read_text()
    path.write_text(whole + whole[:40] if torn > 0 else whole[:torn])
    assert ask(RecordedChat(path), "whole").text == "WHOLE None"
    recording = RecordedChat(path, inner=ScriptedChat(shout))
    ask(recording, "next")
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2


def test_the_key_sees_everything_that_may_change_the_answer() -> None:
    base: dict[str, Any] = {"schema": None, "temperature": 0.0, "max_tokens": 5, "seed": None}
    one = {"properties": {"a": {}, "b": {}}}
    other = {"properties": {"b": {}, "a": {}}}
    variants: list[dict[str, Any]] = [
        base,
        base | {"temperature": 0.1},
        base | {"max_tokens": 6},
        base | {"seed": 0},
        base | {"schema": one},
        base | {"schema": other},
    ]
    keys = {call_key(user("x", **variant)) for variant in variants}
    assert len(keys | {call_key(user("x", **base), "tiny")}) == len(variants) + 1
    assert call_key(user("x", **base)) == call_key(user("x", **(base | {"temperature": 0})))
    assert call_key(user("x", **base)) != call_key(user("y", **base))


def test_the_key_of_a_call_stays_what_it_was() -> None:
    """Answers that are in a store or a recording must be found by a later version too."""
    schema = {"title": "t", "type": "object", "properties": {"b": {}, "a": {}}}
    call = user('Grade <RESPONSE id="0123456789abcdef">', schema=schema, max_tokens=9, seed=3)
    assert call_key(call, "tiny") == "4d59893f11e5a3cb36305337d6e0cd29"


def test_fence_ids_are_numbered_wherever_they_stand() -> None:
    secret = b"s"
    one, two = fence("one", secret=secret), fence("two", secret=secret, label="CASE")
    first = one.split('"')[1]
    (message,) = normalize_fence_ids([{"role": "user", "content": f"{one}\n{two}\nsee {first}"}])
    assert message["content"] == (
        '<RESPONSE id="0000000000000000">\none\n</RESPONSE id="0000000000000000">\n'
        '<CASE id="0000000000000001">\ntwo\n</CASE id="0000000000000001">\n'
        "see 0000000000000000"
    )
