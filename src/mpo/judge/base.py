"""RewardModel: its interface, its result, and the base of the protocols."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

from ..chat import (
    Chat,
    ChatRequest,
    Message,
    Metered,
    Schema,
    identity_of,
    require_complete,
)
from ..errors import ChatError, ChatReplyError
from ..records import CriterionScore, Rollout, Usage, content_hash
from ..rubric import Rubric
from ..sanitize import Cleaned, ControlStrings, clean, fence
from ..task import Task
from .answer_format import Keyed

__all__ = ["Grader", "JudgeResult", "RewardModel", "Scores", "judge_identity", "seeded_random"]

T = TypeVar("T")

Scores = Mapping[str, CriterionScore]
"""Scores by criterion key."""


@dataclass(frozen=True)
class JudgeResult:
    """The RM's answer for one rollout: scores for every criterion, or the reason for none."""

    scores: tuple[CriterionScore, ...] = ()
    unscored: str | None = None
    usage: Usage = field(default_factory=Usage)
    protocol: str | None = None
    """Name for the record, where it is not the model's `protocol`."""


class RewardModel(Protocol):
    """Scores rollouts. Implementations keep no state between calls.

    One more attribute is optional: `identity`, that of the chat model (`mpo.chat.identity_of`).
    """

    protocol: str
    """Name for the record; part of a judgement's key."""

    @property
    def model(self) -> str:
        """Name of the chat model, for people."""
        ...

    @property
    def template_hash(self) -> str:
        """Hash of the prompt templates; part of a judgement's key."""
        ...

    async def judge(
        self, rollout: Rollout, rubric: Rubric, cleaned: Cleaned | None = None
    ) -> JudgeResult:
        """Score one rollout. Raises no `ChatError`: a failure is an unscored result.

        Args:
            rollout: The rollout; its completion may hold anything.
            rubric: The rubric to score it by.
            cleaned: Its completion after `clean`, where the caller has it.
        """
        ...


def judge_identity(model: RewardModel) -> str:
    """Identity of the chat model behind an RM, part of a judgement's key; its name where the RM
    has none."""
    return str(getattr(model, "identity", model.model))


def seeded_random(seed: int, *names: object) -> random.Random:
    """A generator for one named draw; the same in every process."""
    return random.Random(content_hash([seed, *map(str, names)], 64))


@lru_cache(maxsize=64)  # the completions of a group follow each other, with one prompt
def _fenced_prompt(
    text: str, label: str, secret: bytes, control: ControlStrings, strings: tuple[str, ...]
) -> str:
    return fence(clean(text, control).text, secret=secret, label=label)


@lru_cache(maxsize=1024)  # likewise with one order of criteria
def _drawn_order(seed: int, prompt: str, step: int, n: int) -> tuple[int, ...]:
    order = list(range(n))
    seeded_random(seed, "criteria", prompt, step).shuffle(order)
    return tuple(order)


class Grader:
    """Base of the protocols: subclasses ask for the scores of one rollout.

    Args:
        chat: The model that grades.
        task: The task with its prompts, limits, temperature and token cap.
        secret: Key of the fences; the run's own, unknown to the policy.
        seed: Seed for servers that take one, and for the order of criteria.
        control: Control strings that no text may say, besides those that `clean` knows.
    """

    protocol: str
    kinds: tuple[str, ...]
    """Names of the prompt files that the protocol uses."""
    shuffles = False
    """True if the order of criteria is drawn where the task does not say."""

    def __init__(
        self,
        chat: Chat,
        task: Task,
        *,
        secret: bytes,
        seed: int = 0,
        control: ControlStrings | None = None,
    ) -> None:
        self._control = control if control is not None else ControlStrings()
        self._chat = chat
        self._task = task
        self._rm = task.spec.rm
        self._secret = secret
        self._seed = seed
        self._values = {
            "task": task.spec.description,
            "limits": task.spec.limits,
            "reference": fence("", secret=secret, label="REFERENCE"),
        }
        self.model, self.identity = chat.name, identity_of(chat)
        self.template_hash = self._template_hash()

    def _template_hash(self) -> str:
        prompts = [self._task.prompts[kind].hash for kind in self.kinds]
        # These change the questions, too: judgements that were asked for otherwise are others.
        knobs = [self._rm.criteria_per_call, self._rm.shuffle]
        if len(prompts) == 1 and knobs == [None, None]:
            return prompts[0]
        return content_hash([prompts, knobs], 12)

    async def judge(
        self, rollout: Rollout, rubric: Rubric, cleaned: Cleaned | None = None
    ) -> JudgeResult:
        meter = Metered(self._chat)
        response = cleaned if cleaned is not None else clean(rollout.completion, self._control)
        try:
            scores = await self._scores(meter, rollout, rubric, self._fill(rollout, response.text))
        except ChatError as error:
            return JudgeResult(unscored=str(error), usage=meter.usage)
        ordered = tuple(map(scores.__getitem__, rubric.criterion_ids))
        return JudgeResult(scores=ordered, usage=meter.usage)

    async def _scores(
        self, chat: Chat, rollout: Rollout, rubric: Rubric, values: Mapping[str, str]
    ) -> Scores:
        """A score for every criterion.

        Args:
            chat: The model, metered.
            rollout: The rollout.
            rubric: The rubric to score it by.
            values: Values of the placeholders that all prompts may have; all text is fenced.

        Raises:
            ChatError: A score is missing; a half-answered rubric is unscored as a whole.
        """
        raise NotImplementedError

    # ------------------------------------------------------------------ for subclasses

    def _criteria(self, rollout: Rollout, rubric: Rubric) -> Keyed:
        """The criteria in the order in which they are asked for: the same for a whole group."""
        keyed = rubric.keyed
        shuffle = self.shuffles if self._rm.shuffle is None else self._rm.shuffle
        if not shuffle or len(keyed) == 1:
            return keyed
        order = _drawn_order(self._seed, rollout.prompt, rollout.step, len(keyed))
        return tuple([keyed[place] for place in order])

    def _fill(self, rollout: Rollout, response: str) -> dict[str, str]:
        """Values of the placeholders that all prompts may have."""
        # The strings are a part of the cache's key: more of them may become known.
        control = (self._control, self._control.strings)
        values = {
            **self._values,
            "prompt": _fenced_prompt(rollout.prompt, "PROMPT", self._secret, *control),
            "response": fence(response, secret=self._secret, label="RESPONSE"),
        }
        if self._task.spec.dataset.reference_column is not None:
            reference = self._task.reference(rollout.columns)
            values["reference"] = _fenced_prompt(reference, "REFERENCE", self._secret, *control)
        return values

    def _filled(self, kind: str, values: Mapping[str, str]) -> list[Message]:
        return cast(list[Message], self._task.prompts[kind].messages(values))

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
    . If it fails, the others are not paid for.
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
