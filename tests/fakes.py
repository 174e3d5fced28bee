"""Doubles that several test files share. Hand-written; nothing is patched."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from mpo.chat import Message, Schema, ScriptedChat
from mpo.evolve.options import Evolve
from mpo.judge.options import Scoring
from mpo.records import Rollout
from mpo.reward import EvolvingReward
from mpo.sanitize import find_fences

Answer = Callable[[Sequence[Message], Schema | None, int | None], Any]


def text_of(messages: Sequence[Message]) -> str:
    return "\n".join(message["content"] for message in messages)


def grade(text: str, allowed: Sequence[int]) -> int:
    """A score that depends on nothing but the text."""
    return allowed[zlib.crc32(text.encode()) % len(allowed)]


def judge_reply(messages: Sequence[Message], schema: Schema) -> str:
    """A deterministic grading: the score of a criterion follows from its key and the response."""
    (response,) = find_fences(text_of(messages), "RESPONSE")
    return json.dumps(
        {
            key: {
                "rationale": f"because of {key}",
                "score": grade(key + response, part["properties"]["score"]["enum"]),
            }
            for key, part in schema["properties"].items()
        }
    )


def rubric_reply(name: str, text: str = "Look at it closely.") -> str:
    """An MRM answer with one criterion."""
    criterion = {
        "name": name,
        "text": text,
        "weight": 1,
        "lowest": 0,
        "highest": 4,
        "levels": [{"score": 0, "text": "none"}, {"score": 4, "text": "full"}],
    }
    return json.dumps({"reasons": f"toward {name}", "criteria": [criterion]})


def meta_reply(messages: Sequence[Message], schema: Schema) -> str:
    """A deterministic MRM: what it writes follows from the prompt that it sees."""
    title = schema["title"]
    seen = "".join(find_fences(text_of(messages), "RESPONSE"))
    seen += "".join(find_fences(text_of(messages), "PROPOSAL"))
    digest = f"{zlib.crc32(seen.encode()):08x}"
    if title == "prescreen":
        return json.dumps({"reason": "a reason", "label": ("good", "ok", "bad")[len(seen) % 3]})
    if title == "analysis":
        return json.dumps(
            {"findings": f"found {digest}", "verdict": "too_high", "advice": f"advise {digest}"}
        )
    return rubric_reply(f"Criterion {digest}")


def loop_answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    """RM and MRM in one, both deterministic."""
    assert schema is not None
    if schema["title"] == "judgement":
        return judge_reply(messages, schema)
    return meta_reply(messages, schema)


def loop_chat(name: str = "double") -> ScriptedChat:
    """The chat of the laws."""
    return ScriptedChat(loop_answer, name=name)


def batch(step: int, prompts: int = 4, group: int = 2, mode: str = "train") -> list[Rollout]:
    """A step's rollouts: `prompts` groups of `group` completions."""
    return [
        Rollout(
            prompt=f"Write about {p}.",
            completion=f"Step {step}: essay {g} about {p}, with several words in it.",
            step=step,
            index=p * group + g,
            mode=mode,
        )
        for p in range(prompts)
        for g in range(group)
    ]


UNCHECKED: dict[str, Any] = {"gate": "always", "delay": 0, "canaries": False}


def make_reward(task: Any, chat: Any, store: Any, **options: Any) -> EvolvingReward:
    """A reward with the options of `Scoring` and `Evolve` side by side.

    Unless they say otherwise every proposal that passes the linter takes effect at once.
    """
    fields = {"scoring": Scoring.model_fields, "evolve": Evolve.model_fields}
    parts = {
        name: {key: options.pop(key) for key in list(options) if key in known}
        for name, known in fields.items()
    }
    scoring, evolve = Scoring(**parts["scoring"]), Evolve(**{**UNCHECKED, **parts["evolve"]})
    return EvolvingReward(task, chat, store, scoring=scoring, evolve=evolve, **options)
