"""What all reward models share: the protocol, the verdict, and asking with one correction."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Protocol, TypeVar

from ..chat import Chat, ChatRequest, Message, Metered, Schema, require_complete
from ..errors import ChatError, ChatReplyError
from ..records import CriterionScore, Rollout, Usage, content_hash
from ..rubric import Criterion, Rubric
from ..sanitize import clean, fence
from ..task import Task

__all__ = ["Grader", "JudgeResult", "RewardModel", "Scores", "seeded_random"]

T = TypeVar("T")

Keyed = Sequence[tuple[str, Criterion]]
"""Criteria with their keys in the whole rubric."""

Scores = Mapping[str, CriterionScore]
"""By criterion key."""


@dataclass(frozen=True)
class JudgeResult:
    """What the RM said of one rollout: scores for every criterion, or why there are none."""

    scores: tuple[CriterionScore, ...] = ()
    unscored: str | None = None
    usage: Usage = field(default_factory=Usage)
    flags: dict[str, int] = field(default_factory=dict)
    protocol: str | None = None
    """Where it came about in another way than the model's protocol says."""


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

    async def judge(self, rollout: Rollout, rubric: Rubric) -> JudgeResult:
        """Score one rollout. Raises no `ChatError`: a failure is an unscored verdict."""
        ...


def seeded_random(seed: int, *names: object) -> random.Random:
    """A generator for one named draw; the same in every process."""
    return random.Random(content_hash([seed, *map(str, names)], 64))


@lru_cache(maxsize=1024)  # the completions of a group follow each other
def _drawn_order(seed: int, prompt: str, step: int, n: int) -> tuple[int, ...]:
    order = list(range(n))
    seeded_random(seed, "criteria", prompt, step).shuffle(order)
    return tuple(order)


class Grader:
    """Base of the protocols: subclasses say how the scores of one rollout are asked for.

    Args:
        chat: The model that grades.
        task: Gives the prompts, the limits, temperature and token cap.
        secret: Key of the fences; the run's own, unknown to the policy.
        seed: Passed to servers that take one; also draws the order of criteria.
    """

    protocol: str
    kinds: tuple[str, ...]
    """The prompt files that it uses."""
    shuffles = False
    """Whether the order of criteria is drawn where the task does not say."""

    def __init__(self, chat: Chat, task: Task, *, secret: bytes, seed: int = 0) -> None:
        self._chat = chat
        self._task = task
        self._rm = task.spec.rm
        self._secret = secret
        self._seed = seed

    @property
    def model(self) -> str:
        return self._chat.name

    @cached_property
    def template_hash(self) -> str:
        prompts = [self._task.prompts[kind].hash for kind in self.kinds]
        # What changes the questions, too: judgements asked in another way are not the same.
        knobs = [self._rm.criteria_per_call, self._rm.shuffle]
        if len(prompts) == 1 and knobs == [None, None]:
            return prompts[0]
        return content_hash([prompts, knobs], 12)

    async def judge(self, rollout: Rollout, rubric: Rubric) -> JudgeResult:
        meter = Metered(self._chat)
        flags = clean(rollout.completion).flags
        try:
            scores = await self._scores(meter, rollout, rubric)
        except ChatError as error:
            return JudgeResult(unscored=str(error), usage=meter.usage, flags=flags)
        ordered = tuple(scores[key] for key in rubric.criterion_ids)
        return JudgeResult(scores=ordered, usage=meter.usage, flags=flags)

    async def _scores(self, chat: Chat, rollout: Rollout, rubric: Rubric) -> Scores:
        """A score for every criterion.

        Raises:
            ChatError: One of them could not be had; a half-answered rubric is unscored as a whole.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ for subclasses

    def _criteria(self, rollout: Rollout, rubric: Rubric) -> Keyed:
        """The criteria in the order in which they are asked for: the same for a whole group."""
        keyed = list(zip(rubric.criterion_ids, rubric.criteria, strict=True))
        drawn = self.shuffles if self._rm.shuffle is None else self._rm.shuffle
        if not drawn or len(keyed) == 1:
            return keyed
        order = _drawn_order(self._seed, rollout.prompt, rollout.step, len(keyed))
        return [keyed[place] for place in order]

    def _values(self, rollout: Rollout, **values: str) -> dict[str, str]:
        """Values of the placeholders that all prompts may have."""
        return {
            "task": self._task.spec.description,
            "limits": self._task.spec.limits,
            "prompt": self._fenced(rollout.prompt, "PROMPT"),
            "response": self._fenced(rollout.completion, "RESPONSE"),
            "reference": self._fenced(self._task.reference(rollout.columns), "REFERENCE"),
            **values,
        }

    def _fenced(self, text: str, label: str) -> str:
        return fence(clean(text).text, secret=self._secret, label=label)

    def _filled(self, kind: str, values: Mapping[str, str]) -> list[Message]:
        messages = self._task.prompts[kind].messages(values)
        return [Message(role=m["role"], content=m["content"]) for m in messages]

    async def _ask(
        self,
        chat: Chat,
        messages: Sequence[Message],
        parse: Callable[[str], T],
        schema: Schema | None = None,
    ) -> T:
        """Ask, and once more with the fault named if the reply could not be used.

        Raises:
            ChatError: No usable answer.
        """
        request = ChatRequest(
            tuple(messages), schema, self._rm.temperature, self._rm.max_tokens, self._seed
        )
        for attempt in (0, 1):
            try:
                return parse(require_complete(await chat.complete(request)).text)
            except ChatReplyError as error:
                if attempt:
                    raise
                conversation = (*messages[:-1], _corrected(messages[-1], error, schema))
                request = replace(request, messages=conversation, seed=self._seed + 1)
        raise AssertionError("unreachable")


def _corrected(last: Message, error: ChatReplyError, schema: Schema | None) -> Message:
    """The question again, with what was wrong.

    The faulty reply itself is not sent back: it may carry the policy's words. The correction
    stands in the same turn, since some chat templates refuse two user turns in a row.
    """
    fault = str(error).partition(":")[0]  # our own word, never the model's text
    shape = "nothing but the JSON object described above" if schema else "the text asked for above"
    text = f"Your last answer could not be used ({fault}). Answer again, with {shape}."
    return Message(role=last["role"], content=f"{last['content']}\n\n{text}")


async def first_then_rest(calls: Sequence[Callable[[], Coroutine[Any, Any, T]]]) -> list[T]:
    """Results of calls that share the beginning of their prompts.

    The first is sent ahead: requests that start together find no prefix in the server's cache
    (notes/judge.md §2.4). If it fails, the others are not paid for.
    """
    first = await calls[0]()
    if len(calls) == 1:
        return [first]
    rest = await asyncio.gather(*(call() for call in calls[1:]), return_exceptions=True)
    failures = [result for result in rest if isinstance(result, BaseException)]
    # What stops the run comes before what only leaves a rollout unscored.
    for failure in sorted(failures, key=lambda error: isinstance(error, ChatError)):
        raise failure
    return [first, *(result for result in rest if not isinstance(result, BaseException))]
