"""The simulated chat model: RM and MRM of the sandbox behind `Chat`.

It receives the same prompts as a real model and reads what it needs out of their text: the
rubric outside the fences, the response, the cases and the proposals inside. What stands inside a
fence never becomes structure. Its answers follow the schema that it is given, whose title tells
it what to do, as an instruction tells a real model. Free text is wanted where there is no schema: a
plan, its execution, reasons in a dialogue; which of them, it tells by what the prompt shows.

    chat = SimulatedChat("sandbox-0")             # biases drawn by seed 0
    chat = SimulatedChat("sandbox-0-unbiased")    # the honest twin
    chat = SimulatedChat("sandbox-0-bad")         # a third of its merges is faulty (`faulty_mrm`)

It is deterministic: the same messages give the same answer, in any process, also over HTTP
(`server.py`).
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mpo.chat import ChatRequest, Completion, Schema
from mpo.errors import ChatReplyError, ConfigError, RubricError
from mpo.records import Usage
from mpo.rubric import parse_rubric

from .faulty_mrm import make_faulty
from .plan_execute import execute, plan, worth
from .simulated_mrm import SeenCase, SimulatedMRM
from .simulated_rm import SimulatedRM, draw_biases

__all__ = ["SimulatedChat"]

_NAME = re.compile(r"sandbox-(\d+)(-unbiased)?(-bad)?")
_FENCE = re.compile(r'<([A-Z]+) id="([0-9a-f]+)">\n(.*?)\n</\1 id="\2">', re.DOTALL)
_CRITERION = re.compile(
    r"^## (?P<heading>.+?)\n(?P<body>.*?)"
    r"^Key: (?P<key>\S+)\. Allowed scores: (?P<scores>[-0-9, ]+)\.$",
    re.DOTALL | re.MULTILINE,
)
_CASE = re.compile(r"Step (?P<step>\d+)\. Reward: (?:(?P<reward>[\d.]+) of 1|not scored)")


@dataclass(frozen=True)
class _Fenced:
    """One fenced block, and the text since the block before it."""

    label: str
    body: str
    lead: str


@dataclass(eq=False)
class SimulatedChat:
    """RM and MRM in one.

    Args:
        name: `sandbox-<seed>`, with `-unbiased`, `-bad` or both after it.
        latency: Seconds that each call takes.

    Raises:
        ConfigError: Another name.
    """

    name: str = "sandbox-0"
    latency: float = 0.0
    free: ClassVar[bool] = True
    """It costs nothing, and answers faster than a cache."""
    rm: SimulatedRM = field(init=False)
    bad: bool = field(init=False)
    """True if some of its merges are faulty on purpose."""
    mrm: SimulatedMRM = field(default_factory=SimulatedMRM)

    def __post_init__(self) -> None:
        match = _NAME.fullmatch(self.name)
        if match is None:
            raise ConfigError(
                f"unknown simulated model {self.name!r}: "
                "write sandbox-<seed>, and -unbiased or -bad after it"
            )
        self.bad = match[3] is not None
        self.rm = SimulatedRM(() if match[2] else draw_biases(int(match[1])))

    @property
    def biases(self) -> tuple[str, ...]:
        """Properties that this model takes for quality; printed beside results, used by nothing."""
        return self.rm.biases

    async def complete(self, request: ChatRequest) -> Completion:
        if self.latency:
            await asyncio.sleep(self.latency)
        prompt = request.prompt
        if request.schema is None:
            text = self._say(prompt)
        else:
            answer = self._answer(prompt, request.schema, request.seed)
            text = json.dumps(answer, ensure_ascii=False)
        usage = Usage(
            calls=1, prompt_tokens=len(prompt.split()), completion_tokens=len(text.split())
        )
        return Completion(text=text, usage=usage, model=self.name)

    async def aclose(self) -> None:
        """Nothing to close."""

    # ------------------------------------------------------------------ answers

    def _answer(self, prompt: str, schema: Schema, seed: int | None) -> Any:
        fences = _fences(prompt)
        title = schema.get("title")
        if title == "judgement":
            return self._judge(prompt, fences)
        if title == "score":
            return {"score": self._score(prompt, fences)}
        if title == "prescreen":
            return self.mrm.prescreen(_cases(fences)[0])
        if title == "analysis":
            return self.mrm.analyze(_cases(fences))
        if title == "rubric":
            return self._rewrite(prompt, fences, seed)
        if title == "guidelines":
            return self._rewrite_guidelines(prompt, fences)
        return _smallest(schema)

    def _say(self, prompt: str) -> str:
        """A free answer: the prompt's blocks show which one is wanted."""
        fences = _fences(prompt)
        shown = [fence.label for fence in fences]
        if "RESPONSE" not in shown and "REFERENCE" in shown:
            guidelines = "\n".join(wording for _, wording, _ in _shown_criteria(prompt))
            return plan(guidelines, _body(fences, "REFERENCE"))
        if "RESPONSE" in shown and "PLAN" in shown:
            question, response = _body(fences, "PROMPT"), _body(fences, "RESPONSE")
            return execute(self.rm, _body(fences, "PLAN"), question, response)
        if "RESPONSE" in shown and _shown_criteria(prompt):  # a dialogue's turn for reasons
            return self._last_criterion(prompt, fences)[1]
        raise ChatReplyError(
            "unsupported: without a schema, only a plan, a check or reasons can be asked for"
        )

    def _score(self, prompt: str, fences: Sequence[_Fenced]) -> int:
        """The number of `plan_execute` or of a dialogue."""
        if any(fence.label == "EXECUTION" for fence in fences):
            *_, (_, _, allowed) = _shown_criteria(prompt)
            return worth(_body(fences, "EXECUTION"), allowed)
        return self._last_criterion(prompt, fences)[0]

    def _last_criterion(self, prompt: str, fences: Sequence[_Fenced]) -> tuple[int, str]:
        """Score and reasons for the criterion that a dialogue has come to. As a real model
        does, it knows the criteria before it, and none that come after it."""
        criteria = _shown_criteria(prompt)
        scores = self.rm.score(criteria, _body(fences, "PROMPT"), _body(fences, "RESPONSE"))
        return scores[criteria[-1][0]]

    def _judge(self, prompt: str, fences: Sequence[_Fenced]) -> Mapping[str, Any]:
        question, response = _body(fences, "PROMPT"), _body(fences, "RESPONSE")
        scores = self.rm.score(_shown_criteria(prompt), question, response)
        return {key: {"rationale": why, "score": score} for key, (score, why) in scores.items()}

    def _rewrite(
        self, prompt: str, fences: Sequence[_Fenced], seed: int | None
    ) -> Mapping[str, Any]:
        rubric = _criteria(_outside(prompt))
        proposals = [_criteria(f.body) for f in fences if f.label == "PROPOSAL"]
        if proposals:
            merged = self.mrm.merge(rubric, proposals)
            # The seed too: where nothing is proposed, all merge prompts of a run are the same.
            return make_faulty(merged, key=f"{seed}\n{prompt}") if self.bad else merged
        return self.mrm.refine(rubric, _body(fences, "ANALYSIS"))

    def _rewrite_guidelines(self, prompt: str, fences: Sequence[_Fenced]) -> Mapping[str, Any]:
        (guidelines,) = (criterion["text"] for criterion in _criteria(_outside(prompt)))
        proposals = [_criteria(f.body)[0]["text"] for f in fences if f.label == "PROPOSAL"]
        if proposals:
            return self.mrm.merge_guidelines(guidelines, proposals)
        return self.mrm.refine_guidelines(guidelines, _body(fences, "ANALYSIS"))


def _fences(prompt: str) -> list[_Fenced]:
    found: list[_Fenced] = []
    end = 0
    for match in _FENCE.finditer(prompt):
        found.append(_Fenced(match[1], match[3], prompt[end : match.start()]))
        end = match.end()
    return found


def _outside(prompt: str) -> str:
    """The prompt without what stands in fences."""
    return _FENCE.sub("", prompt)


def _body(fences: Sequence[_Fenced], label: str) -> str:
    """Text in the first fence of a kind; empty where there is none."""
    return next((fence.body for fence in fences if fence.label == label), "")


def _shown_criteria(prompt: str) -> list[tuple[str, str, list[int]]]:
    """Key, wording and allowed scores of the criteria that a prompt asks about."""
    return [
        (m["key"], f"{m['heading']}\n{m['body']}", [int(s) for s in m["scores"].split(",")])
        for m in _CRITERION.finditer(_outside(prompt))
    ]


def _cases(fences: Sequence[_Fenced]) -> list[SeenCase]:
    """Cases in the order of the prompt: a PROMPT fence opens one, a RESPONSE fence follows."""
    cases: list[SeenCase] = []
    for first, second in itertools.pairwise(fences):
        head = list(_CASE.finditer(first.lead))
        if first.label == "PROMPT" and second.label == "RESPONSE" and head:
            reward = head[-1]["reward"]
            cases.append(
                SeenCase(
                    step=int(head[-1]["step"]),
                    reward=None if reward is None else float(reward),
                    prompt=first.body,
                    response=second.body,
                )
            )
    if not cases:
        raise ChatReplyError("unsupported: the prompt shows no case")
    return cases


def _criteria(text: str) -> list[dict[str, Any]]:
    """The criteria that a text shows, in the form of an answer."""
    blocks = [f"## {m['heading']}\n{m['body']}" for m in _CRITERION.finditer(text)]
    body = "\n".join(blocks) if blocks else text.partition("\nReasons: ")[0]
    try:
        rubric = parse_rubric(body)
    except RubricError as error:
        raise ChatReplyError(f"unsupported: the prompt shows no rubric ({error})") from error
    return [
        {
            "name": c.name,
            "text": c.text,
            "weight": c.weight,
            "lowest": c.scores[0],
            "highest": c.scores[-1],
            "levels": [{"score": level.score, "text": level.text} for level in c.levels],
        }
        for c in rubric.criteria
    ]


def _smallest(schema: Schema) -> Any:
    """Some value that satisfies a schema: what a grammar-constrained model would have to say."""
    if "enum" in schema:
        return schema["enum"][0]
    kind = schema.get("type")
    if kind == "object":
        return {key: _smallest(part) for key, part in schema.get("properties", {}).items()}
    return {"array": [], "integer": 0, "number": 0, "boolean": False, "null": None}.get(
        str(kind), "text"
    )
