"""What a run will ask and cost, before it is started.

    plan = make_plan(load_config("paper/essay"), price=(0.4, 0.4))
    plan["rm_calls"], plan["cost"]

No model is loaded and nobody is asked. One judgement and one meta step are held in earnest, with
the task's own prompts and the protocols' own code, against a chat that answers in stated lengths
and counts; the rest is multiplication. What was assumed is listed with the result.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from ..chat import Chat, Completion, Message, Schema
from ..errors import ConfigError
from ..evolve.gate import Pairs, Probes, load_pairs
from ..evolve.meta_reward_model import MetaRewardModel
from ..evolve.meta_step import ANCHORS
from ..evolve.mrm_cases import Evidence
from ..judge import RewardModel, make_reward_model
from ..judge.scale import normalized
from ..records import Case, Judgement, Rollout, Usage
from ..rubric import Rubric
from ..task import Task, load_task
from ..training.arms import BATCHES
from ..watch import CANARIES_PER_RUBRIC, SECOND_JUDGE_SHARE
from .arms import ARMS, arm_rubric
from .build import in_sandbox, read_rubric_file
from .data import is_local, load_rows
from .schema import SANDBOX, ChatConfig, Config, DataConfig

__all__ = ["make_plan"]

TOKENS_PER_WORD = 1.3
CRITERIA, CRITERION_WORDS = 6, 100
"""Of a rubric that has evolved. A recorded run of the published code has 6 to 8 criteria from the
first meta step on, nearly always 6, of 200 words in free text; here an answer is an object with a
short text and a line for each score."""
GUIDELINES_WORDS = 500
WORDS = {"rationale": 25, "reason": 25, "findings": 200, "advice": 130, "reasons": 70}
"""Length of the texts in an answer, by key."""
PLAN_WORDS = 300
"""Of the plan and of the execution, each (protocol `plan_execute`)."""
_SECRET = b"plan"


class _Tally:
    """A chat that answers in the stated lengths. Counts, and knows what a prefix cache holds."""

    name = "plan"

    def __init__(self, free_words: int, replies_kept: bool) -> None:
        self.usage = Usage()
        self._free_words, self._kept = free_words, replies_kept
        self._seen: list[list[str]] = []

    async def complete(
        self,
        messages: Sequence[Message],
        *,
        schema: Schema | None = None,
        temperature: float = 0.0,
        max_tokens: int = 1024,
        seed: int | None = None,
    ) -> Completion:
        words = [word for m in messages for word in (m["role"], *m["content"].split())]
        again = words in self._seen
        number = self._seen.index(words) if again else len(self._seen)
        said = _filler(f"said{number}_", self._free_words)
        text = said if schema is None else json.dumps(_answer(schema))
        if again and self._kept:  # the run's own cache of replies has it
            return Completion(text=text, usage=Usage())
        known = max((_shared(words, other) for other in self._seen), default=0)
        self._seen.append(words)
        usage = Usage(
            calls=1,
            prompt_tokens=round(TOKENS_PER_WORD * len(words)),
            cached_tokens=round(TOKENS_PER_WORD * known),
            completion_tokens=round(TOKENS_PER_WORD * len(text.split())),
        )
        self.usage = self.usage + usage
        return Completion(text=text, usage=usage)

    async def aclose(self) -> None:
        return None


def _shared(words: Sequence[str], other: Sequence[str]) -> int:
    """Words that both begin with."""
    for n, (one, two) in enumerate(zip(words, other, strict=False)):
        if one != two:
            return n
    return min(len(words), len(other))


def _filler(tag: str, n: int) -> str:
    return " ".join(f"{tag}{i}" for i in range(n))


def _answer(schema: Mapping[str, Any], key: str = "") -> Any:
    """A value of the shape that a schema asks for."""
    if "enum" in schema:
        return schema["enum"][0]
    if schema["type"] == "object":
        return {name: _answer(part, name) for name, part in schema["properties"].items()}
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


@dataclass
class _Spent:
    """A sum of usages, each so many times."""

    calls: float = 0.0
    prompt: float = 0.0
    cached: float = 0.0
    """Of `prompt`, what a prefix cache would hold."""
    output: float = 0.0

    def add(self, usage: Usage, times: float) -> None:
        self.calls += usage.calls * times
        self.prompt += usage.prompt_tokens * times
        self.cached += usage.cached_tokens * times
        self.output += usage.completion_tokens * times

    def more(self, other: _Spent, times: float) -> None:
        self.calls += other.calls * times
        self.prompt += other.prompt * times
        self.cached += other.cached * times
        self.output += other.output * times

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


@dataclass(frozen=True)
class _Sizes:
    """Lengths that the whole plan goes by, in words."""

    prompt: int
    response: int
    reference: int
    measured: str
    """Where the prompts' length comes from."""
    cohorts: int


@dataclass
class _Dry:
    """Holds one judgement or one meta step with fillers."""

    config: Config
    task: Task
    sizes: _Sizes
    judged: dict[str, tuple[Usage, Usage]] = field(default_factory=dict)

    def tally(self) -> _Tally:
        free = PLAN_WORDS if self.task.spec.rm.protocol == "plan_execute" else WORDS["rationale"]
        return _Tally(free, self.config.cache)

    def model(self, chat: Chat) -> RewardModel:
        off = self.task
        if off.spec.rm.answer_check != "off":
            off = off.with_rm(answer_check="off")
        return make_reward_model(off, chat, _SECRET)

    def rollout(self, prompt: int, response: int) -> Rollout:
        column = self.task.spec.dataset.reference_column
        columns = {column: _filler(f"reference{prompt}_", self.sizes.reference)} if column else {}
        return Rollout(
            prompt=_filler(f"prompt{prompt}_", self.sizes.prompt),
            completion=_filler(f"response{response}_", self.sizes.response),
            columns=columns,
            index=response,
        )

    def judgement(self, rubric: Rubric) -> tuple[Usage, Usage]:
        """Usage of the first judgement of a group, and of a further one."""
        if rubric.id not in self.judged:
            tally = self.tally()
            model = self.model(tally)
            spent = []
            for prompt, response in ((0, 0), (1, 1), (1, 2)):
                verdict = asyncio.run(model.judge(self.rollout(prompt, response), rubric))
                if verdict.unscored:
                    raise ConfigError(f"this cannot be planned: {verdict.unscored}")
                spent.append(verdict.usage)
            self.judged[rubric.id] = spent[1], spent[2]
        return self.judged[rubric.id]

    def meta_step(self, rubric: Rubric, cases: int, window: int) -> tuple[_Spent, Rubric]:
        """What one meta step spends for one cohort, and the rubric that comes out."""
        config, tally = self.config.meta, self.tally()
        model = MetaRewardModel(
            tally,
            self.task,
            secret=_SECRET,
            analysis=config.analysis,
            rationales=config.rationales,
        )
        shown = [self.case(n, rubric) for n in range(cases + config.earlier)]
        evidence = Evidence(
            cases=tuple(shown[:cases]), earlier=tuple(shown[cases:]), others=config.others
        )
        refinement = asyncio.run(model.run(evidence, rubric))
        spent = _Spent()
        spent.add(tally.usage, 1)
        if config.selection.startswith("prescreen"):
            asyncio.run(model.prescreen(shown[0], rubric))
            before = tally.usage
            asyncio.run(model.prescreen(self.case(len(shown), rubric), rubric))
            spent.add(_less(tally.usage, before), window)
        return spent, refinement.rubric

    def case(self, number: int, rubric: Rubric) -> Case:
        rollout = self.rollout(number, number)
        verdict = asyncio.run(self.model(self.tally()).judge(rollout, rubric))
        judgement = Judgement(
            key=str(number),
            rollout_id=rollout.id,
            rubric_id=rubric.id,
            scores=verdict.scores,
            reward=0.0,
            normalized_reward=0.0,
        )
        return Case(rollout=rollout, judgement=judgement)


def _less(after: Usage, before: Usage) -> Usage:
    return Usage(
        calls=after.calls - before.calls,
        prompt_tokens=after.prompt_tokens - before.prompt_tokens,
        cached_tokens=after.cached_tokens - before.cached_tokens,
        completion_tokens=after.completion_tokens - before.completion_tokens,
    )


def make_plan(
    config: Config,
    price: Sequence[float] | None = None,
    *,
    prompt_words: int | None = None,
    response_words: int | None = None,
) -> dict[str, Any]:
    """What a run of this config will ask and cost.

    Args:
        price: US dollars per million tokens of both models: prompt, completion, and maybe prompt
            tokens from a cache. The prices of `budget.prices` if None.
        prompt_words: Of a filled prompt; measured on the task's rows if None.
        response_words: Of a completion; what the task allows if None.

    Returns:
        JSON values: `updates`, `meta_steps`, `rm_calls`, `mrm_calls`, `audit_calls`,
        `prompt_tokens`, `prompt_tokens_cached` (those left to read with a prefix cache),
        `output_tokens`, `cost` (None without a price), and more: `arm`, `sandbox`, `cohorts`,
        `judgements`, `rm`, `mrm` and `audit` alone, `assumptions`.

    Raises:
        MPOError: Task, rubric or rows cannot be used.
    """
    task = load_task(config.task)
    if config.model == SANDBOX:
        task = in_sandbox(task)
    path = arm_rubric(config.arm, task, config.rubric)
    seed = read_rubric_file(path) if path is not None else task.rubric
    task.check_rubric(seed)
    sizes = _sizes(config, task, prompt_words, response_words)
    dry = _Dry(config, task, sizes)
    arm, every, batch = ARMS[config.arm], config.meta.every, config.trainer.batch_size
    updates = config.trainer.steps if arm.trains else 0
    meta_steps = updates // every if arm.evolves or arm.blind else 0
    window = (batch if arm.blind else every * batch) // sizes.cohorts
    cases = max(1, min(config.meta.samples, window))

    rm, mrm, audit, grown = _Spent(), _Spent(), _Spent(), seed
    if meta_steps:
        first, grown = dry.meta_step(seed, cases, window)
        further, _ = dry.meta_step(grown, cases, window)
        mrm.more(first, sizes.cohorts)
        mrm.more(further, sizes.cohorts * (meta_steps - 1))
    asked = 1.0
    if task.spec.rm.answer_check != "off":
        asked -= task.spec.rm.answer_share
    judgements = 0.0
    for rubric, batches in _batches(config, updates, meta_steps, seed, grown):
        judgements += batches * batch
        _judge(rm, dry, rubric, batches * batch * asked, config.trainer.num_generations)
        if config.second_judge is not None:  # the few that are drawn share no prompt
            _judge(audit, dry, rubric, batches * batch * asked * SECOND_JUDGE_SHARE, 1)
    checks = _checks(config, task, dry) * meta_steps * sizes.cohorts
    for rubric in (seed if meta_steps == 1 else grown, grown):
        _judge(rm, dry, rubric, checks / 2, 1)
    canaries = CANARIES_PER_RUBRIC * sizes.cohorts if config.guarded and updates else 0
    _judge(rm, dry, seed, canaries, 1)
    _judge(rm, dry, grown, canaries * meta_steps, 1)
    return {
        "arm": config.arm,
        "sandbox": config.is_sandbox,
        "updates": updates,
        "meta_steps": meta_steps,
        "cohorts": sizes.cohorts,
        "judgements": round(judgements),
        "rm_calls": round(rm.calls),
        "mrm_calls": round(mrm.calls),
        "audit_calls": round(audit.calls),
        "prompt_tokens": round(rm.prompt + mrm.prompt + audit.prompt),
        "prompt_tokens_cached": round(sum(s.prompt - s.cached for s in (rm, mrm, audit))),
        "output_tokens": round(rm.output + mrm.output + audit.output),
        "cost": _cost(config, rm, mrm, audit, price),
        "rm": rm.figures(),
        "mrm": mrm.figures(),
        "audit": audit.figures(),
        "assumptions": [
            *_assumptions(config, task, sizes, meta_steps, checks),
            *_watched(config, canaries * (meta_steps + 1)),
        ],
    }


def _batches(
    config: Config, updates: int, meta_steps: int, seed: Rubric, grown: Rubric
) -> list[tuple[Rubric, int]]:
    """Batches that are scored, and under which rubric."""
    arm, meta = ARMS[config.arm], config.meta
    if not arm.trains:
        return [(seed, min(BATCHES, config.trainer.steps))]
    if arm.blind:  # a batch for each meta step, before training
        return [(seed, min(meta_steps, 1)), (grown, max(meta_steps - 1, 0) + updates)]
    first = min(updates, meta.every + meta.delay) if meta_steps else updates
    return [(seed, first), (grown, updates - first)]


def _judge(spent: _Spent, dry: _Dry, rubric: Rubric, times: float, group: int) -> None:
    if times:
        first, further = dry.judgement(rubric)
        spent.add(first, times / group)
        spent.add(further, times * (group - 1) / group)


def _checks(config: Config, task: Task, dry: _Dry) -> int:
    """Judgements that gate and scale ask for in one meta step, at most."""
    names = [config.meta.gate] if isinstance(config.meta.gate, str) else config.meta.gate
    model = dry.model(dry.tally())
    total = 2 * ANCHORS if config.reward.scale == "anchored" else 0
    for name in names:
        kind, _, argument = name.partition(":")
        if kind == "probes":
            total += Probes(model, task, normalized).calls()
        elif kind == "pairs" and argument:
            total += Pairs(model, task, normalized, load_pairs(Path(argument))).calls()
    return total


def _sizes(
    config: Config, task: Task, prompt_words: int | None, response_words: int | None
) -> _Sizes:
    spec = task.spec
    measured, rows = "given", []
    if is_local(config, task):
        measured, rows = "the mean of the rows", load_rows(config, task)
    elif task.sample.is_file():
        data = DataConfig(path=str(task.sample))
        rows = load_rows(config.model_copy(update={"data": data}), task)
        measured = f"the mean of {len(rows)} rows of {task.name}/sample.jsonl, not of the dataset"
    elif prompt_words is None:
        raise ConfigError(
            f"no rows of task {task.name!r} to measure without a network: say how "
            "long a prompt is with --prompt-words"
        )
    column, cohorts = spec.dataset.reference_column, 1
    if spec.cohorts is not None:
        values = {str(row.get(spec.cohorts.column)) for row in rows} or {""}
        known = {row["cohort"] for row in rows if "cohort" in row}
        cohorts = len(known) or len(values) * spec.cohorts.clusters
    return _Sizes(
        prompt=prompt_words or round(fmean(len(row["prompt"].split()) for row in rows)),
        response=response_words
        or spec.response.max_words
        or round(spec.response.max_tokens / TOKENS_PER_WORD),
        reference=round(fmean(len(str(row[column]).split()) for row in rows))
        if column and rows
        else 0,
        measured="given" if prompt_words else measured,
        cohorts=cohorts,
    )


def _watched(config: Config, canaries: int) -> list[str]:
    said = [f"canaries ask for {canaries:,} judgements, at most"] if canaries else []
    if config.second_judge is not None:
        said.append(f"a second RM grades {SECOND_JUDGE_SHARE:.0%} of the rollouts")
    return said


def _cost(
    config: Config, rm: _Spent, mrm: _Spent, audit: _Spent, price: Sequence[float] | None
) -> float | None:
    """US dollars; None where a model that is asked has no price."""
    total = 0.0
    roles = (
        (rm, config.chat),
        (mrm, config.meta_chat or config.chat),
        (audit, config.second_judge or config.chat),
    )
    for spent, chat in roles:
        mine = price if price is not None else _price(config, chat)
        if mine is None and spent.calls:
            return None
        total += spent.cost(mine) if mine is not None else 0.0
    return round(total, 4)


def _price(config: Config, chat: ChatConfig) -> Sequence[float] | None:
    return (0.0, 0.0) if chat.sandbox else config.budget.prices.get(chat.model or "")


def _assumptions(
    config: Config, task: Task, sizes: _Sizes, meta_steps: int, checks: float
) -> list[str]:
    rm, most = task.spec.rm, task.spec.dataset.max_prompt_tokens
    said = [
        f"{TOKENS_PER_WORD} tokens per word",
        f"a prompt has {sizes.prompt} words ({sizes.measured}), a response {sizes.response}",
        f"RM: protocol {rm.protocol}; no call is asked twice, no rule answers in its place",
    ]
    if most is not None:
        said.append(
            f"training drops prompts over {most:,} tokens; only the policy's tokenizer can tell "
            "which, so none is left out here"
        )
    if rm.protocol == "plan_execute":
        said.append(f"a plan and an execution have {PLAN_WORDS} words each")
    else:
        said.append(f"a rationale has {WORDS['rationale']} words")
    if rm.answer_check != "off":
        said.append(f"{rm.answer_share:.0%} of the rollouts are graded by their answer, without RM")
    if meta_steps:
        rubric = (
            f"guidelines of {GUIDELINES_WORDS} words"
            if rm.protocol == "plan_execute"
            else f"{CRITERIA} criteria of {CRITERION_WORDS} words"
        )
        said += [
            f"every proposal is accepted; from the first meta step on the rubric is {rubric}",
            f"an analysis has {WORDS['findings'] + WORDS['advice']} words; none has to be mended",
        ]
    if checks:
        said.append(f"gate and scale ask for {checks:,.0f} judgements, at most")
    if config.meta.alarm is not None:
        said.append("meta steps that a monitor calls for are not counted")
    return said
