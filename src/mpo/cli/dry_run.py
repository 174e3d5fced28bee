"""Cost of one judgement and one meta step, found by running both on filler texts.

They run with the task's own prompts and the protocols' own code, against a chat that answers in
stated lengths and counts. No model is called.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from ..chat import ChatRequest, Completion
from ..config import Config
from ..errors import ConfigError
from ..evolve.evidence import Evidence
from ..evolve.meta_reward_model import MetaRewardModel
from ..judge import RewardModel, make_reward_model
from ..records import Case, Judgement, Rollout, Usage
from ..rubric import Rubric
from ..task import Task

__all__ = ["DryRun", "ModelUse", "Sizes", "answer_to"]

TOKENS_PER_WORD = 1.3
CRITERIA, CRITERION_WORDS = 6, 100
"""Size of a rubric that has evolved. A recorded run of the published code has 6 to 8 criteria from
the first meta step on, nearly always 6, of 200 words in free text; here an answer is an object with
a short text and a line for each score."""
GUIDELINES_WORDS = 500
WORDS = {"rationale": 25, "reason": 25, "findings": 200, "advice": 130, "reasons": 70}
"""Length of the texts in an answer, by key."""
PLAN_WORDS = 300
"""Length of a plan and of an execution, each (protocol `plan_execute`)."""
_SECRET = b"plan"


@dataclass(frozen=True)
class ModelUse:
    """Calls and tokens."""

    calls: float = 0.0
    prompt: float = 0.0
    cached: float = 0.0
    """Part of `prompt` that a prefix cache would hold."""
    output: float = 0.0

    def __add__(self, other: ModelUse) -> ModelUse:
        return ModelUse(
            self.calls + other.calls,
            self.prompt + other.prompt,
            self.cached + other.cached,
            self.output + other.output,
        )

    def __mul__(self, times: float) -> ModelUse:
        return ModelUse(
            self.calls * times, self.prompt * times, self.cached * times, self.output * times
        )

    def figures(self) -> dict[str, int]:
        return {
            "calls": round(self.calls),
            "prompt_tokens": round(self.prompt),
            "prompt_tokens_cached": round(self.prompt - self.cached),
            "output_tokens": round(self.output),
        }

    def cost(self, price: Sequence[float]) -> float:
        cached = self.cached if len(price) == 3 else 0.0
        paid = (self.prompt - cached) * price[0] + self.output * price[1]
        return (paid + (cached * price[2] if cached else 0.0)) / 1e6


class _Tally:
    """A chat that answers in the stated lengths. It counts, and knows what a prefix cache holds."""

    name = "plan"

    def __init__(self, free_words: int, replies_kept: bool) -> None:
        self.spent = ModelUse()
        self._free_words, self._replies_kept = free_words, replies_kept
        self._prompts: list[list[str]] = []

    async def complete(self, request: ChatRequest) -> Completion:
        words = [word for m in request.messages for word in (m["role"], *m["content"].split())]
        again = words in self._prompts
        number = self._prompts.index(words) if again else len(self._prompts)
        free = _filler(f"said{number}_", self._free_words)
        text = free if request.schema is None else json.dumps(answer_to(request.schema))
        if not (again and self._replies_kept):  # else the run's own cache of replies has it
            known = max((_shared(words, p) for p in self._prompts), default=0)
            self._prompts.append(words)
            sizes = (len(words), known, len(text.split()))
            self.spent += ModelUse(1, *(round(TOKENS_PER_WORD * n) for n in sizes))
        return Completion(text=text, usage=Usage())

    async def aclose(self) -> None:
        return None


def _shared(words: Sequence[str], other: Sequence[str]) -> int:
    """Number of words that both begin with."""
    return sum(
        1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(words, other, strict=False))
    )


def _filler(tag: str, n: int) -> str:
    return " ".join(f"{tag}{i}" for i in range(n))


def answer_to(schema: Mapping[str, Any], key: str = "") -> Any:
    """A filler of the shape that a schema asks for."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: answer_to(part, name) for name, part in schema["properties"].items()}
    if schema["type"] == "array":  # the criteria of a proposal
        return [_criterion(n) for n in range(CRITERIA)]
    if schema["type"] == "string":
        return _filler(key, GUIDELINES_WORDS if key == "guidelines" else WORDS.get(key, 25))
    return 0


def _criterion(number: int) -> dict[str, Any]:
    levels = [{"score": score, "text": _filler(f"level{score}", 10)} for score in range(6)]
    text = _filler(f"criterion{number}", CRITERION_WORDS - 79)  # levels and marks are the rest
    name = f"Criterion {number}"
    return {"name": name, "text": text, "weight": 1, "lowest": 0, "highest": 5, "levels": levels}


@dataclass(frozen=True)
class Sizes:
    """Lengths in words that the whole plan goes by."""

    prompt: int
    response: int
    reference: int
    measured: str
    """Where the prompts' length comes from."""
    cohorts: int


@dataclass
class DryRun:
    """Runs one judgement or one meta step on fillers."""

    config: Config
    task: Task
    sizes: Sizes
    judged: dict[str, tuple[ModelUse, ModelUse]] = field(default_factory=dict)

    def tally(self) -> _Tally:
        free = PLAN_WORDS if self.task.spec.rm.protocol == "plan_execute" else WORDS["rationale"]
        return _Tally(free, self.config.cache)

    def model(self, chat: _Tally) -> RewardModel:
        task = self.task
        if task.spec.rm.answer_check != "off":
            task = task.with_rm(answer_check="off")
        return make_reward_model(task, chat, _SECRET)

    def rollout(self, prompt: int, response: int) -> Rollout:
        column = self.task.spec.dataset.reference_column
        columns = {column: _filler(f"reference{prompt}_", self.sizes.reference)} if column else {}
        return Rollout(
            prompt=_filler(f"prompt{prompt}_", self.sizes.prompt),
            completion=_filler(f"response{response}_", self.sizes.response),
            columns=columns,
            index=response,
        )

    def judgements(self, rubric: Rubric, times: float, group: int) -> ModelUse:
        """Cost of that many judgements, in groups of completions of one prompt."""
        if not times:
            return ModelUse()
        first, further = self._judgement(rubric)
        return first * (times / group) + further * (times * (group - 1) / group)

    def _judgement(self, rubric: Rubric) -> tuple[ModelUse, ModelUse]:
        """Cost of the first judgement of a group, and of a further one."""
        if rubric.id not in self.judged:
            tally = self.tally()
            model = self.model(tally)
            spent = [tally.spent]
            for prompt, response in ((0, 0), (1, 1), (1, 2)):
                result = asyncio.run(model.judge(self.rollout(prompt, response), rubric))
                if result.unscored:
                    raise ConfigError(f"this run cannot be planned: {result.unscored}")
                spent.append(tally.spent)
            self.judged[rubric.id] = spent[2] + spent[1] * -1, spent[3] + spent[2] * -1
        return self.judged[rubric.id]

    def meta_step(self, rubric: Rubric, cases: int, window: int) -> tuple[ModelUse, Rubric]:
        """Cost of one meta step for one cohort, and the rubric that comes out."""
        meta, tally = self.config.meta, self.tally()
        model = MetaRewardModel(
            tally,
            self.task,
            secret=_SECRET,
            analysis=meta.analysis,
            context_cases=meta.context_cases,
            rationales=meta.rationales,
        )
        shown = [self.case(n, rubric) for n in range(cases + meta.baseline_cases)]
        evidence = Evidence(cases=tuple(shown[:cases]), baseline=tuple(shown[cases:]))
        refinement = asyncio.run(model.run(evidence, rubric))
        spent = tally.spent
        if meta.make_selection().needs_labels:
            asyncio.run(model.prescreen(shown[0], rubric))
            before = tally.spent
            asyncio.run(model.prescreen(self.case(len(shown), rubric), rubric))
            spent += (tally.spent + before * -1) * window
        return spent, refinement.rubric

    def case(self, number: int, rubric: Rubric) -> Case:
        rollout = self.rollout(number, number)
        result = asyncio.run(self.model(self.tally()).judge(rollout, rubric))
        judgement = Judgement(
            key=str(number),
            rollout_id=rollout.id,
            rubric_id=rubric.id,
            scores=result.scores,
            reward=0.0,
            normalized_reward=0.0,
        )
        return Case(rollout=rollout, judgement=judgement)
