"""MetaRewardModel: an LLM that rewrites rubrics (the paper's senior instructor).

Four stages, each an async method, typed in and out:

    prescreen(case)                          -> "good" | "ok" | "bad"
    analyze(case, others, earlier)           -> Analysis       (paper §2.3 meta-analysis)
    refine(case, analysis)                   -> Proposal       (meta-refinement)
    merge(proposals)                         -> Rubric         (meta-merging)

and `run(evidence)`, which does the last three for a meta step. Where we depart from the paper:
the analysis sees the scores and rationales of every criterion (the published code shows the
total only), and some other cases beside its own (`others`, `earlier`): what all recent texts
have in common cannot be seen in one of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from pydantic import ValidationError

from .chat import Chat, Message, Schema, require_complete
from .errors import ChatError, ChatReplyError, MetaStepError, RubricError
from .records import Analysis, Case, Proposal, Refinement
from .reward_model import parse_json, render_criteria
from .rubric import Criterion, Level, Rubric
from .task import Task
from .untrusted import clean, fence

__all__ = ["Evidence", "MetaRewardModel", "PrescreenLabel"]

PrescreenLabel = Literal["good", "ok", "bad"]

MAX_SCORE_SPAN = 100
"""Widest closed set that a proposal may ask for, highest minus lowest."""

MERGE_BUDGET_WORDS = 16_000
"""Words of proposals per merge call; above it they are merged in a tree, and none is dropped.
The published code drops what exceeds 25,000/1.5 words (notes/paper.md §1.6)."""


@dataclass(frozen=True)
class Evidence:
    """What one meta step looks at."""

    cases: tuple[Case, ...]
    """The sample, in the order of selection."""
    earlier: tuple[Case, ...] = ()
    """From the start of the run, for comparison; may have been scored under another rubric."""
    others: int = 6
    """Cases of the sample that are shown beside each case."""
    hint: str = ""
    """A monitor's alarm, in words; empty if none."""


class MetaRewardModel:
    """Rewrites a rubric from evidence.

    Args:
        chat: The model that rewrites.
        task: Gives the prompts and the limits that no rubric may break.
        secret: Key of the fences around what the policy or the RM wrote.
        seed: Passed to servers that take one; each case gets its own offset.
        max_tokens: Cap of one answer, in tokens.
    """

    def __init__(
        self,
        chat: Chat,
        task: Task,
        *,
        secret: bytes,
        seed: int = 0,
        temperature: float = 0.0,
        max_tokens: int = 4096,
    ) -> None:
        self._chat = chat
        self._task = task
        self._secret = secret
        self._seed = seed
        self._temperature = temperature
        self._max_tokens = max_tokens

    @property
    def model(self) -> str:
        return self._chat.name

    @property
    def prompts_hash(self) -> str:
        return self._task.meta_hash

    def using(self, chat: Chat) -> MetaRewardModel:
        """The same model asked through another chat (a meter, a budget)."""
        return MetaRewardModel(
            chat,
            self._task,
            secret=self._secret,
            seed=self._seed,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
        )

    # ------------------------------------------------------------------ the four stages

    async def prescreen(self, case: Case, rubric: Rubric, *, seed: int = 0) -> PrescreenLabel:
        """Was the case graded as it deserves?

        Raises:
            ChatError: No usable answer.
        """
        values = {"case": self._render(case, rubric), "format": PRESCREEN_FORMAT}
        answer = await self._ask("prescreen", rubric, values, PRESCREEN_SCHEMA, seed)
        return _choice(answer, "label", ("good", "ok", "bad"))  # type: ignore[return-value]

    async def analyze(
        self,
        case: Case,
        rubric: Rubric,
        *,
        others: Sequence[Case] = (),
        earlier: Sequence[Case] = (),
        hint: str = "",
        seed: int = 0,
    ) -> Analysis:
        """What did the scoring of the case miss?

        Raises:
            ChatError: No usable answer.
        """
        values = {
            "case": self._render(case, rubric),
            "others": self._render_all(others, rubric),
            "earlier": self._render_all(earlier, rubric),
            "hint": self._hint(hint),
            "format": ANALYSIS_FORMAT,
        }
        answer = await self._ask("analyze", rubric, values, ANALYSIS_SCHEMA, seed)
        return Analysis(
            rollout_id=case.rollout.id,
            verdict=_choice(answer, "verdict", ("too_high", "fair", "too_low")),  # type: ignore[arg-type]
            findings=_text(answer, "findings"),
            advice=_text(answer, "advice"),
        )

    async def refine(
        self, case: Case, analysis: Analysis, rubric: Rubric, *, hint: str = "", seed: int = 0
    ) -> Proposal:
        """A rubric that would have graded the case rightly.

        Raises:
            ChatError: No usable answer, or an answer that is no rubric.
        """
        words = f"Verdict: {analysis.verdict}\n{analysis.findings}\nAdvice: {analysis.advice}"
        values = {
            "case": self._render(case, rubric),
            "analysis": self._fenced(words, "ANALYSIS"),
            "hint": self._hint(hint),
            "format": RUBRIC_FORMAT,
        }
        answer = await self._ask("refine", rubric, values, RUBRIC_SCHEMA, seed)
        return Proposal(
            rollout_id=case.rollout.id,
            rubric=read_answer(answer, rubric.title),
            reasons=_text(answer, "reasons"),
        )

    async def merge(
        self, proposals: Sequence[Proposal], rubric: Rubric, *, seed: int = 0
    ) -> Proposal:
        """One rubric out of several; in a tree where they exceed `MERGE_BUDGET_WORDS`.

        Raises:
            ChatError: No usable answer, or an answer that is no rubric.
            MetaStepError: There is nothing to merge.
        """
        if not proposals:
            raise MetaStepError("nothing to merge: no case led to a proposal")
        level = list(proposals)
        while True:
            groups = _within_budget(level)
            level = await asyncio.gather(
                *(self._merge_once(g, rubric, seed + n) for n, g in enumerate(groups))
            )
            seed += len(groups)
            if len(level) == 1:
                return level[0]

    async def _merge_once(
        self, proposals: Sequence[Proposal], rubric: Rubric, seed: int
    ) -> Proposal:
        blocks = [
            self._fenced(f"{p.rubric.to_markdown()}\nReasons: {p.reasons}", "PROPOSAL")
            for p in proposals
        ]
        values = {"proposals": "\n\n".join(blocks), "format": RUBRIC_FORMAT}
        answer = await self._ask("merge", rubric, values, RUBRIC_SCHEMA, seed)
        return Proposal(
            rollout_id=proposals[0].rollout_id,
            rubric=read_answer(answer, rubric.title),
            reasons=_text(answer, "reasons"),
        )

    # ------------------------------------------------------------------ a whole meta step

    async def run(self, evidence: Evidence, rubric: Rubric, *, seed: int = 0) -> Refinement:
        """Analysis and refinement per case, one merge.

        A case that fails is left out and named in `Refinement.skipped`.

        Raises:
            MetaStepError: No case at all, or no case led to a proposal.
            ChatError: The merge failed.
        """
        if not evidence.cases:
            raise MetaStepError("no evidence: no scored rollout since the last meta step")
        outcomes = await asyncio.gather(
            *(self._one(evidence, n, rubric, seed) for n in range(len(evidence.cases)))
        )
        analyses = tuple(o[0] for o in outcomes if not isinstance(o, str))
        proposals = tuple(o[1] for o in outcomes if not isinstance(o, str))
        skipped = tuple(o for o in outcomes if isinstance(o, str))
        if not proposals:
            raise MetaStepError(f"none of {len(outcomes)} cases led to a proposal: {skipped[0]}")
        merged = await self.merge(proposals, rubric, seed=seed)
        return Refinement(
            rubric=merged.rubric,
            reasons=merged.reasons,
            evidence=tuple(case.rollout.id for case in evidence.cases),
            analyses=analyses,
            proposals=proposals,
            skipped=skipped,
            prompts_hash=self.prompts_hash,
            model=self.model,
        )

    async def _one(
        self, evidence: Evidence, number: int, rubric: Rubric, seed: int
    ) -> tuple[Analysis, Proposal] | str:
        cases = evidence.cases
        case = cases[number]
        # The next cases in the (random) order of selection: every case is seen equally often.
        others = [*cases[number + 1 :], *cases[:number]][: evidence.others]
        try:
            analysis = await self.analyze(
                case,
                rubric,
                others=others,
                earlier=evidence.earlier,
                hint=evidence.hint,
                seed=seed + number,
            )
            proposal = await self.refine(
                case, analysis, rubric, hint=evidence.hint, seed=seed + number
            )
        except ChatError as error:
            return f"rollout {case.rollout.id}: {error}"
        return analysis, proposal

    # ------------------------------------------------------------------ prompts

    async def _ask(
        self, kind: str, rubric: Rubric, values: Mapping[str, str], schema: Schema, seed: int
    ) -> dict[str, Any]:
        filled = self._task.prompts[kind].messages(
            {
                "task": self._task.spec.description,
                "limits": self._task.spec.limits,
                "rubric": render_criteria(rubric),
                **values,
            }
        )
        completion = await self._chat.complete(
            [Message(role=m["role"], content=m["content"]) for m in filled],
            schema=schema,
            temperature=self._temperature,
            max_tokens=self._max_tokens,
            seed=self._seed + seed,
        )
        return parse_json(require_complete(completion).text)

    def _fenced(self, text: str, label: str) -> str:
        return fence(clean(text).text, secret=self._secret, label=label)

    def _hint(self, hint: str) -> str:
        return f"A monitor of the training reports:\n{self._fenced(hint, 'HINT')}" if hint else ""

    def _render_all(self, cases: Sequence[Case], rubric: Rubric) -> str:
        return "\n\n".join(self._render(case, rubric) for case in cases) or "(none)"

    def _render(self, case: Case, rubric: Rubric) -> str:
        """One case as the MRM reads it. Rationales quote the policy: they are fenced like it."""
        judgement = case.judgement
        share = judgement.normalized
        under = "" if judgement.rubric_id == rubric.id else " under an earlier rubric"
        worth = "not scored" if share is None else f"{share:.2f} of 1{under}"
        scores = "\n".join(
            f"{s.criterion}: {s.score} ({' '.join(s.rationale.split())})" for s in judgement.scores
        )
        if judgement.rule:
            scores = f"rule {judgement.rule}: lowest reward, not shown to the junior instructor"
        return "\n".join(
            [
                f"Step {case.rollout.step}. Reward: {worth}.",
                self._fenced(case.rollout.prompt, "PROMPT"),
                self._fenced(case.rollout.completion, "RESPONSE"),
                self._fenced(scores, "SCORES"),
            ]
        )


def _within_budget(proposals: Sequence[Proposal]) -> list[list[Proposal]]:
    """Consecutive groups within the word budget, each of at least two unless only one is left."""
    groups: list[list[Proposal]] = [[]]
    words = 0
    for proposal in proposals:
        size = len(proposal.rubric.to_markdown().split()) + len(proposal.reasons.split())
        if words + size > MERGE_BUDGET_WORDS and len(groups[-1]) >= 2:
            groups.append([])
            words = 0
        groups[-1].append(proposal)
        words += size
    return groups


# ---------------------------------------------------------------------- answers

PRESCREEN_FORMAT = (
    'Answer with one JSON object: {"reason": "one sentence", "label": "good" | "ok" | "bad"}.'
)
PRESCREEN_SCHEMA: Schema = {
    "title": "prescreen",
    "type": "object",
    "additionalProperties": False,
    "required": ["reason", "label"],
    "properties": {
        "reason": {"type": "string"},
        "label": {"type": "string", "enum": ["good", "ok", "bad"]},
    },
}

ANALYSIS_FORMAT = (
    'Answer with one JSON object: {"findings": "what the grading missed, at most 300 words", '
    '"verdict": "too_high" | "fair" | "too_low", '
    '"advice": "what the rubric should ask for, at most 200 words"}.'
)
ANALYSIS_SCHEMA: Schema = {
    "title": "analysis",
    "type": "object",
    "additionalProperties": False,
    "required": ["findings", "verdict", "advice"],
    "properties": {
        "findings": {"type": "string"},
        "verdict": {"type": "string", "enum": ["too_high", "fair", "too_low"]},
        "advice": {"type": "string"},
    },
}

RUBRIC_FORMAT = (
    'Answer with one JSON object: {"reasons": "why, at most 100 words", "criteria": [{"name": '
    '"short name", "text": "what to look at", "weight": 1, "lowest": 0, "highest": 5, "levels": '
    '[{"score": 0, "text": "what this score means"}, …]}, …]}. Levels ascend and lie between '
    "lowest and highest; scores are integers."
)
RUBRIC_SCHEMA: Schema = {
    "title": "rubric",
    "type": "object",
    "additionalProperties": False,
    "required": ["reasons", "criteria"],
    "properties": {
        "reasons": {"type": "string"},
        "criteria": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "text", "weight", "lowest", "highest", "levels"],
                "properties": {
                    "name": {"type": "string"},
                    "text": {"type": "string"},
                    "weight": {"type": "number"},
                    "lowest": {"type": "integer"},
                    "highest": {"type": "integer"},
                    "levels": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["score", "text"],
                            "properties": {
                                "score": {"type": "integer"},
                                "text": {"type": "string"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def _choice(answer: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    value = answer.get(key)
    if value not in allowed:
        raise ChatReplyError(f"wrong_keys: {key!r} must be one of {list(allowed)}")
    return str(value)


def _text(answer: Mapping[str, Any], key: str) -> str:
    value = answer.get(key)
    if not isinstance(value, str):
        raise ChatReplyError(f"wrong_keys: {key!r} must be text")
    # What a model wrote is shown to a model again, and to people: keep it clean from here on.
    return clean(value).text


def read_answer(answer: Mapping[str, Any], title: str) -> Rubric:
    """The rubric in an MRM answer. Names and texts are cleaned; the title stays the parent's.

    Raises:
        ChatReplyError: No list of criteria, or a criterion that breaks the rules of `Criterion`.
    """
    entries = answer.get("criteria")
    if not isinstance(entries, list) or not entries:
        raise ChatReplyError("no_criteria: the proposed rubric has no criterion")
    try:
        return Rubric(title=title, criteria=tuple(_read_criterion(entry) for entry in entries))
    except (ValidationError, RubricError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise ChatReplyError(f"invalid_rubric: {reason}") from error


def _read_criterion(entry: Any) -> Criterion:
    if not isinstance(entry, dict):
        raise RubricError("a criterion must be an object")
    low, high, weight = entry.get("lowest"), entry.get("highest"), entry.get("weight", 1)
    if not _is_int(low) or not _is_int(high) or not low < high <= low + MAX_SCORE_SPAN:
        raise RubricError(
            f"criterion {str(entry.get('name'))[:60]!r}: lowest and highest must be integers, at "
            f"most {MAX_SCORE_SPAN} apart; got {str(low)[:20]!r} and {str(high)[:20]!r}"
        )
    if isinstance(weight, bool) or not isinstance(weight, int | float):
        raise RubricError(f"criterion {str(entry.get('name'))[:60]!r}: weight must be a number")
    return Criterion(
        name=_text(entry, "name"),
        text=_text(entry, "text"),
        levels=tuple(_read_level(level) for level in entry.get("levels") or ()),
        scores=tuple(range(low, high + 1)),
        weight=float(weight),
    )


def _read_level(entry: Any) -> Level:
    if not isinstance(entry, dict) or not _is_int(entry.get("score")):
        raise RubricError("a level must be an object with an integer score")
    return Level(score=entry["score"], text=_text(entry, "text"))


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
