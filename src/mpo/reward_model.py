"""RewardModel: an LLM that scores one rollout against a rubric (the paper's junior instructor).

A reward model asks and checks; it does not compute rewards. It returns a `Verdict`: a score per
criterion, or the reason why there is none. A failure never becomes a score.

`SingleCall` (protocol `single`, the default) asks once per rollout: a JSON object keyed by
criterion, each with a one-sentence rationale before an integer score from the criterion's closed
set. The published code asks 2n questions in one growing conversation (notes/reference.md §D).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from .chat import Chat, Message, Metered, Schema, require_complete
from .errors import ChatError, ChatReplyError
from .records import CriterionScore, Rollout, Usage
from .rubric import Criterion, Rubric
from .task import Task
from .untrusted import clean, fence

__all__ = [
    "RewardModel",
    "SingleCall",
    "Verdict",
    "judgement_schema",
    "parse_json",
    "render_criteria",
]


@dataclass(frozen=True)
class Verdict:
    """What the RM said of one rollout: scores for every criterion, or why there are none."""

    scores: tuple[CriterionScore, ...] = ()
    unscored: str | None = None
    usage: Usage = field(default_factory=Usage)
    flags: dict[str, int] = field(default_factory=dict)


class RewardModel(Protocol):
    """Scores rollouts. Implementations keep no state between calls."""

    protocol: str
    """Name for the record; part of a judgement's key."""

    @property
    def model(self) -> str:
        """Name of the chat model; part of a judgement's key."""
        ...

    @property
    def template_hash(self) -> str:
        """Hash of the prompt templates; part of a judgement's key."""
        ...

    async def judge(self, rollout: Rollout, rubric: Rubric) -> Verdict:
        """Score one rollout. Raises no `ChatError`: a failure is an unscored verdict."""
        ...


class SingleCall:
    """One structured call per rollout.

    Args:
        chat: The model that grades.
        task: Gives the prompt, the limits, temperature and token cap.
        secret: Key of the response's fence; the run's own, unknown to the policy.
        seed: Passed to servers that take one.
    """

    protocol = "single"

    def __init__(self, chat: Chat, task: Task, *, secret: bytes, seed: int = 0) -> None:
        self._chat = chat
        self._task = task
        self._secret = secret
        self._seed = seed

    @property
    def model(self) -> str:
        return self._chat.name

    @property
    def template_hash(self) -> str:
        return self._task.prompts["rm"].hash

    def messages(self, rollout: Rollout, rubric: Rubric) -> tuple[list[Message], dict[str, int]]:
        """The conversation that is sent, and what was found in the response and neutralised.

        Everything before the response is the same bytes for all completions of a group, so that
        a server's prefix cache serves the whole group.
        """
        response = clean(rollout.completion)
        prompt = clean(rollout.prompt)
        filled = self._task.prompts["rm"].messages(
            {
                "task": self._task.spec.description,
                "limits": self._task.spec.limits,
                "rubric": render_criteria(rubric),
                "format": judgement_format(rubric),
                "prompt": fence(prompt.text, secret=self._secret, label="PROMPT"),
                "response": fence(response.text, secret=self._secret, label="RESPONSE"),
            }
        )
        return [Message(role=m["role"], content=m["content"]) for m in filled], response.flags

    async def judge(self, rollout: Rollout, rubric: Rubric) -> Verdict:
        messages, flags = self.messages(rollout, rubric)
        meter = Metered(self._chat)
        try:
            scores = await self._ask(meter, messages, rubric)
        except ChatError as error:
            return Verdict(unscored=str(error), usage=meter.usage, flags=flags)
        return Verdict(scores=scores, usage=meter.usage, flags=flags)

    async def _ask(
        self, chat: Chat, messages: list[Message], rubric: Rubric
    ) -> tuple[CriterionScore, ...]:
        """Ask, and once more with the fault named if the reply could not be used."""
        rm = self._task.spec.rm
        schema = judgement_schema(rubric)
        conversation = messages
        for attempt in (0, 1):
            try:
                completion = await chat.complete(
                    conversation,
                    schema=schema,
                    temperature=rm.temperature,
                    max_tokens=rm.max_tokens,
                    seed=self._seed + attempt,
                )
                return parse_judgement(require_complete(completion).text, rubric)
            except ChatReplyError as error:
                if attempt:
                    raise
                # The faulty reply itself is not sent back: it may carry the policy's words.
                correction = (
                    f"Your last answer could not be used ({_fault(error)}). "
                    "Answer again, with nothing but the JSON object described above."
                )
                conversation = [*messages, Message(role="user", content=correction)]
        raise AssertionError("unreachable")


def _fault(error: ChatReplyError) -> str:
    """The first word of a reply error: our own, never the model's text."""
    return str(error).partition(":")[0]


def render_criteria(rubric: Rubric) -> str:
    """The rubric as the RM and the MRM read it: each criterion with its key and allowed scores."""
    parts = [f"# {rubric.title}"]
    for key, criterion in zip(rubric.criterion_ids, rubric.criteria, strict=True):
        allowed = ", ".join(str(score) for score in criterion.scores)
        parts.append(f"{criterion.to_markdown()}\nKey: {key}. Allowed scores: {allowed}.")
    return "\n\n".join(parts)


def judgement_format(rubric: Rubric) -> str:
    """The answer's shape in words: some servers ignore the schema in silence."""
    keys = ", ".join(f'"{key}"' for key in rubric.criterion_ids)
    return (
        f"Answer with one JSON object and nothing else. Its keys are exactly: {keys}. "
        'Each value is an object {"rationale": "one sentence", "score": an allowed integer}.'
    )


def judgement_schema(rubric: Rubric) -> Schema:
    """JSON schema of a judgement: an object keyed by criterion, in the portable subset."""
    keys = list(rubric.criterion_ids)
    return {
        "title": "judgement",
        "type": "object",
        "additionalProperties": False,
        "required": keys,
        "properties": {
            key: _criterion_schema(criterion)
            for key, criterion in zip(keys, rubric.criteria, strict=True)
        },
    }


def _criterion_schema(criterion: Criterion) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["rationale", "score"],
        # Property order is generation order: the reason comes before the score.
        "properties": {
            "rationale": {"type": "string"},
            "score": {"type": "integer", "enum": list(criterion.scores)},
        },
    }


def parse_json(text: str) -> dict[str, Any]:
    """A model's JSON object, read strictly: no repair, no duplicate keys, no NaN.

    A code fence around the whole answer is taken off; raw control characters inside strings are
    let through, since grammar-constrained servers write them (notes/cpu.md §7).

    Raises:
        ChatReplyError: Not one JSON object.
    """
    body = text.strip()
    if body.startswith("```") and body.endswith("```") and "\n" in body:
        body = body[body.index("\n") + 1 : -3]
    try:
        value = json.loads(
            body, strict=False, object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise ChatReplyError(f"invalid_json: {error}") from error
    if not isinstance(value, dict):
        raise ChatReplyError("invalid_json: the answer is not an object")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"duplicate key {key[:40]!r}")
        found[key] = value
    return found


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def parse_judgement(text: str, rubric: Rubric) -> tuple[CriterionScore, ...]:
    """Scores in the rubric's order, taken from the schema's place and from nowhere else.

    Raises:
        ChatReplyError: Not JSON, wrong keys, or a score outside the criterion's closed set. A
            half-answered rubric is unscored as a whole.
    """
    answer = parse_json(text)
    keys = rubric.criterion_ids
    missing = [key for key in keys if key not in answer]
    unknown = [key for key in answer if key not in keys]
    if missing or unknown:
        raise ChatReplyError(
            f"wrong_keys: missing {missing[:3]}, unknown {[key[:40] for key in unknown[:3]]}"
        )
    return tuple(
        _criterion_score(key, criterion, answer[key])
        for key, criterion in zip(keys, rubric.criteria, strict=True)
    )


def _criterion_score(key: str, criterion: Criterion, entry: Any) -> CriterionScore:
    score = entry.get("score") if isinstance(entry, dict) else None
    if not isinstance(score, int) or isinstance(score, bool):
        raise ChatReplyError(f"invalid_score: criterion {key!r} has no integer score")
    if score not in criterion.scores:
        raise ChatReplyError(
            f"out_of_range: criterion {key!r} got {str(score)[:20]}, "
            f"not one of {list(criterion.scores)}"
        )
    rationale = entry.get("rationale")
    return CriterionScore(
        criterion=key, score=score, rationale=rationale if isinstance(rationale, str) else ""
    )
