"""MetaRewardModel: the LLM that rewrites rubrics (the paper's senior instructor).

Prescreen, analysis, refinement, merge and repair are one call each; `run` holds a whole meta step.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..chat import Chat, ChatRequest, Message, Schema, identity_of, require_complete
from ..errors import ChatError, ChatReplyError, MetaStepError
from ..judge import parse_json, render_criteria
from ..records import Analysis, Case, Proposal, Refinement
from ..rubric import Rubric
from ..sanitize import ControlStrings, clean, fence
from ..task import Task
from .evidence import Evidence
from .mrm_answers import (
    ANALYSIS_FORMAT,
    ANALYSIS_SCHEMA,
    GUIDELINES_FORMAT,
    GUIDELINES_SCHEMA,
    PRESCREEN_FORMAT,
    PRESCREEN_SCHEMA,
    RUBRIC_FORMAT,
    RUBRIC_SCHEMA,
    copies_example,
    count_flags,
    read_answer,
    read_choice,
    read_guidelines,
    read_reasons,
    read_text,
)
from .mrm_cases import render_case, render_cases

__all__ = ["MERGE_BUDGET_WORDS", "AnalysisMode", "MetaRewardModel", "PrescreenLabel"]

PrescreenLabel = Literal["good", "ok", "bad"]

AnalysisMode = Literal["per_case", "joint"]
"""`per_case`: an analysis and a refinement of each case, and one merge. `joint`: one analysis of
all cases and one refinement, no merge, as the published code does for math."""

MERGE_BUDGET_WORDS = 16_000
"""Words of proposals per merge call; above it they are merged in a tree, and none is dropped.
The published code drops what exceeds 25,000/1.5 words."""


MAX_ANSWER = 1_000_000
"""Characters of an answer that is read at all; the longest rubric fits with all its escapes."""


class MetaRewardModel:
    """Rewrites a rubric from evidence.

    Args:
        chat: The model that rewrites.
        task: Gives the prompts and the limits that no rubric may break.
        secret: Key of the fences around texts by the policy or the RM.
        seed: Random seed for servers that take one; each case gets its own offset.
        temperature: Sampling temperature.
        max_tokens: Cap of one answer, in tokens.
        analysis: `per_case` or `joint`.
        context_cases: Other cases of the sample that are shown beside each case.
        rationales: Show scores and rationales per criterion; the total only if False.
        merge_words: Most words of proposals in one merge call.
        control: Control strings that no text may say, besides those that `clean` knows.
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
        analysis: AnalysisMode = "per_case",
        context_cases: int = 6,
        rationales: bool = True,
        merge_words: int = MERGE_BUDGET_WORDS,
        control: ControlStrings | None = None,
    ) -> None:
        self._chat = chat
        self._task = task
        self._secret = secret
        self._control = control if control is not None else ControlStrings()
        self._seed = seed
        self._temperature = temperature
        self._max_tokens = max_tokens
        self._analysis = analysis
        self._context_cases = context_cases
        self._rationales = rationales
        self._merge_words = merge_words
        self._remarks: Mapping[str, str] = {}

    @property
    def model(self) -> str:
        """Name of the chat model."""
        return self._chat.name

    @property
    def prompts_hash(self) -> str:
        """Hash of the MRM's prompt templates."""
        return self._task.meta_hash

    def using(self, chat: Chat) -> MetaRewardModel:
        """The same model behind another chat (a meter, a budget)."""
        other = copy.copy(self)
        other._chat = chat
        return other

    def remarking(self, remarks: Mapping[str, str]) -> MetaRewardModel:
        """The same model, which is shown a remark with some cases.

        Args:
            remarks: A sentence of ours by rollout id, such as a person's score.
        """
        other = copy.copy(self)
        other._remarks = remarks
        return other

    # ------------------------------------------------------------------ the four stages

    async def prescreen(self, case: Case, rubric: Rubric, *, seed: int = 0) -> PrescreenLabel:
        """Label the grading of a case: `good`, `ok` or `bad`.

        Raises:
            ChatError: No usable answer.
        """
        values = {"case": self._shown([case], rubric), "format": PRESCREEN_FORMAT}
        answer = await self._ask("prescreen", rubric, values, PRESCREEN_SCHEMA, seed)
        return read_choice(answer, "label", ("good", "ok", "bad"))  # type: ignore[return-value]

    async def analyze(
        self,
        case: Case | Sequence[Case],
        rubric: Rubric,
        *,
        context: Sequence[Case] = (),
        baseline: Sequence[Case] = (),
        hint: str = "",
        seed: int = 0,
    ) -> Analysis:
        """Find what the scoring of a case, or of several, missed.

        Raises:
            ChatError: No usable answer.
        """
        cases = _several(case)
        values = {
            "case": self._shown(cases, rubric),
            "others": self._beside(context, rubric),
            "earlier": self._beside(baseline, rubric),
            "hint": self._hint(hint),
            "format": ANALYSIS_FORMAT,
        }
        answer = await self._ask(
            "analyze", rubric, values, ANALYSIS_SCHEMA, seed, own_words=("findings", "advice")
        )
        return Analysis(
            rollout_id=cases[0].rollout.id,
            verdict=read_choice(answer, "verdict", ("too_high", "fair", "too_low")),
            findings=read_reasons(answer, "findings"),
            advice=read_reasons(answer, "advice"),
        )

    async def refine(
        self,
        case: Case | Sequence[Case],
        analysis: Analysis,
        rubric: Rubric,
        *,
        hint: str = "",
        seed: int = 0,
    ) -> Proposal:
        """Propose a rubric that would have graded the case, or several, rightly.

        Raises:
            ChatError: No usable answer, or an answer that is no rubric.
        """
        cases = _several(case)
        words = f"Verdict: {analysis.verdict}\n{analysis.findings}\nAdvice: {analysis.advice}"
        values = {
            "case": self._shown(cases, rubric),
            "analysis": self._fenced(words, "ANALYSIS"),
            "hint": self._hint(hint),
        }
        return await self._propose("refine", cases[0].rollout.id, rubric, values, seed)

    async def merge(
        self, proposals: Sequence[Proposal], rubric: Rubric, *, seed: int = 0
    ) -> Proposal:
        """Merge several rubrics into one; in a tree where they exceed `merge_words`.

        Raises:
            ChatError: No usable answer, or an answer that is no rubric.
            MetaStepError: There is nothing to merge.
        """
        if not proposals:
            raise MetaStepError("nothing to merge: no case led to a proposal")
        level = list(proposals)
        while True:
            groups = _within_budget(level, self._merge_words)
            if len(groups) == 1:
                return await self._merge_once(level, rubric, seed)
            level = list(
                await asyncio.gather(
                    *(self._merge_group(g, rubric, seed + n) for n, g in enumerate(groups))
                )
            )
            seed += len(groups)

    async def _merge_group(
        self, proposals: Sequence[Proposal], rubric: Rubric, seed: int
    ) -> Proposal:
        # One that is left over waits for the next level of the tree as it is.
        if len(proposals) == 1:
            return proposals[0]
        return await self._merge_once(proposals, rubric, seed)

    async def _merge_once(
        self, proposals: Sequence[Proposal], rubric: Rubric, seed: int
    ) -> Proposal:
        blocks = [
            self._fenced(f"{p.rubric.to_markdown()}\nReasons: {p.reasons}", "PROPOSAL")
            for p in proposals
        ]
        values = {"proposals": "\n\n".join(blocks)}
        return await self._propose("merge", proposals[0].rollout_id, rubric, values, seed)

    async def repair(
        self, refinement: Refinement, findings: Sequence[str], rubric: Rubric, *, seed: int = 0
    ) -> Refinement:
        """The refinement with a rubric that has none of the faults found in it.

        Args:
            refinement: The proposal with its faults.
            findings: One line each. They quote the proposal, so they are fenced too.
            rubric: The head.
            seed: Random seed for servers that take one.

        Raises:
            ChatError: No usable answer, or an answer that is no rubric.
        """
        words = f"{refinement.rubric.to_markdown()}\nReasons: {refinement.reasons}"
        values = {
            "proposal": self._fenced(words, "PROPOSAL"),
            "findings": self._fenced("\n".join(f"- {line}" for line in findings), "FINDINGS"),
        }
        proposal = await self._propose("repair", "", rubric, values, seed)
        return refinement.model_copy(
            update={
                "rubric": proposal.rubric,
                "reasons": proposal.reasons,
                "injection_flags": proposal.injection_flags,
            }
        )

    # ------------------------------------------------------------------ a whole meta step

    async def prescreen_all(
        self, cases: Sequence[Case], rubric: Rubric, *, seed: int = 0
    ) -> tuple[dict[str, str], tuple[str, ...]]:
        """Labels by rollout id, and the cases that got none, with the reason.

        A case that a rule decided is left out: no rubric graded it.

        Raises:
            MetaStepError: No case got a label.
        """
        graded = [case for case in cases if case.judgement.rule is None]

        async def label(number: int, case: Case) -> str:
            try:
                return await self.prescreen(case, rubric, seed=seed + number)
            except ChatError as error:
                return f"rollout {case.rollout.id}: prescreen: {error}"

        answers = await asyncio.gather(*(label(n, case) for n, case in enumerate(graded)))
        labels = {
            case.rollout.id: answer
            for case, answer in zip(graded, answers, strict=True)
            if answer in ("good", "ok", "bad")
        }
        skipped = tuple(answer for answer in answers if answer not in ("good", "ok", "bad"))
        if graded and not labels:
            raise MetaStepError(f"none of {len(graded)} cases could be prescreened: {skipped[0]}")
        return labels, skipped

    async def run(self, evidence: Evidence, rubric: Rubric, *, seed: int = 0) -> Refinement:
        """Analysis, refinement and merge, or the joint analysis and refinement.

        A case that fails is left out and named in `Refinement.skipped`.

        Raises:
            MetaStepError: No case at all, or no case led to a proposal.
            ChatError: The merge failed, or the joint analysis or refinement.
        """
        if not evidence.cases:
            if evidence.labels:
                raise MetaStepError(
                    f"the prescreen found nothing to fix: {len(evidence.labels)} gradings are good"
                )
            raise MetaStepError("no evidence: no scored rollout since the last meta step")
        if self._analysis == "joint":
            return await self._run_joint(evidence, rubric, seed)
        results = await asyncio.gather(
            *(self._one(evidence, n, rubric, seed) for n in range(len(evidence.cases)))
        )
        analyses = tuple(r[0] for r in results if not isinstance(r, str))
        proposals = tuple(r[1] for r in results if not isinstance(r, str))
        skipped = tuple(r for r in results if isinstance(r, str))
        if not proposals:
            raise MetaStepError(f"none of {len(results)} cases led to a proposal: {skipped[0]}")
        merged = await self.merge(proposals, rubric, seed=seed)
        return self._refinement(evidence, merged, analyses, proposals, skipped)

    async def _run_joint(self, evidence: Evidence, rubric: Rubric, seed: int) -> Refinement:
        analysis = await self.analyze(
            evidence.cases, rubric, baseline=evidence.baseline, hint=evidence.hint, seed=seed
        )
        proposal = await self.refine(
            evidence.cases, analysis, rubric, hint=evidence.hint, seed=seed
        )
        return self._refinement(evidence, proposal, (analysis,), (proposal,), ())

    def _refinement(
        self,
        evidence: Evidence,
        proposal: Proposal,
        analyses: tuple[Analysis, ...],
        proposals: tuple[Proposal, ...],
        skipped: tuple[str, ...],
    ) -> Refinement:
        return Refinement(
            rubric=proposal.rubric,
            reasons=proposal.reasons,
            injection_flags=proposal.injection_flags,
            evidence=tuple(case.rollout.id for case in evidence.cases),
            labels=evidence.labels,
            analyses=analyses,
            proposals=proposals,
            skipped=evidence.skipped + skipped,
            prompts_hash=self.prompts_hash,
            model=self.model,
            identity=identity if (identity := identity_of(self._chat)) != self.model else "",
        )

    async def _one(
        self, evidence: Evidence, number: int, rubric: Rubric, seed: int
    ) -> tuple[Analysis, Proposal] | str:
        cases = evidence.cases
        case = cases[number]
        # The next cases in the (random) order of selection: every case is seen equally often.
        context = [*cases[number + 1 :], *cases[:number]][: self._context_cases]
        try:
            analysis = await self.analyze(
                case,
                rubric,
                context=context,
                baseline=evidence.baseline,
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

    async def _propose(
        self, kind: str, rollout_id: str, rubric: Rubric, values: Mapping[str, str], seed: int
    ) -> Proposal:
        """Ask for a rubric; where the task is graded by plan and execution, for guidelines."""
        guidelines = self._task.spec.rm.protocol == "plan_execute"
        shape = GUIDELINES_FORMAT if guidelines else RUBRIC_FORMAT
        schema = GUIDELINES_SCHEMA if guidelines else RUBRIC_SCHEMA
        values = {**values, "format": shape}
        answer = await self._ask(kind, rubric, values, schema, seed, own_words=("reasons",))
        proposed = (
            read_guidelines(answer, rubric) if guidelines else read_answer(answer, rubric.title)
        )
        reasons = read_text(answer, "reasons")
        # A sound rubric is not lost because its author copied the example here even twice.
        reasons = "" if copies_example(reasons) else reasons
        return Proposal(
            rollout_id=rollout_id,
            rubric=proposed,
            reasons=reasons,
            injection_flags=count_flags(answer),
        )

    async def _ask(
        self,
        kind: str,
        rubric: Rubric,
        values: Mapping[str, str],
        schema: Schema,
        seed: int,
        own_words: Sequence[str] = (),
    ) -> dict[str, Any]:
        """The model's answer; asked for once more if it copies the example of the format.

        Args:
            own_words: Keys whose texts only the model can write.
        """
        filled = self._task.prompts[kind].messages(
            {
                "task": self._task.spec.description,
                "limits": self._task.spec.limits,
                "rubric": render_criteria(rubric),
                **values,
            }
        )
        messages = [Message(role=m["role"], content=m["content"]) for m in filled]
        answer = await self._answer(messages, schema, seed)
        copied = [key for key in own_words if copies_example(str(answer.get(key)))]
        if not copied:
            return answer
        last = messages[-1]
        fault = (
            f"Your last answer repeated the example of the format under {', '.join(copied)}. "
            "Answer again, in the same format and in your own words."
        )
        messages[-1] = Message(role=last["role"], content=f"{last['content']}\n\n{fault}")
        return await self._answer(messages, schema, seed)

    async def _answer(
        self, messages: Sequence[Message], schema: Schema, seed: int
    ) -> dict[str, Any]:
        request = ChatRequest(
            tuple(messages), schema, self._temperature, self._max_tokens, self._seed + seed
        )
        completion = await self._chat.complete(request)
        text = require_complete(completion).text
        if len(text) > MAX_ANSWER:
            raise ChatReplyError(f"too_long: {len(text):,} characters; at most {MAX_ANSWER:,}")
        return parse_json(text)

    def _fenced(self, text: str, label: str) -> str:
        return fence(clean(text, self._control).text, secret=self._secret, label=label)

    def _hint(self, hint: str) -> str:
        return f"A monitor of the training reports:\n{self._fenced(hint, 'HINT')}" if hint else ""

    def _beside(self, cases: Sequence[Case], rubric: Rubric) -> str:
        return "\n\n".join(self._shown([case], rubric) for case in cases) or "(none)"

    def _shown(self, cases: Sequence[Case], rubric: Rubric) -> str:
        def show(case: Case) -> str:
            return render_case(
                case,
                rubric,
                self._fenced,
                reference=self._task.reference(case.rollout.columns),
                rationales=self._rationales,
                remark=self._remarks.get(case.rollout.id, ""),
            )

        return render_cases(cases, show)


def _several(case: Case | Sequence[Case]) -> Sequence[Case]:
    return [case] if isinstance(case, Case) else case


def _within_budget(proposals: Sequence[Proposal], budget: int) -> list[list[Proposal]]:
    """Consecutive groups within the word budget, each of at least two unless only one is left."""
    groups: list[list[Proposal]] = [[]]
    words = 0
    for proposal in proposals:
        size = len(proposal.rubric.to_markdown().split()) + len(proposal.reasons.split())
        if words + size > budget and len(groups[-1]) >= 2:
            groups.append([])
            words = 0
        groups[-1].append(proposal)
        words += size
    return groups
