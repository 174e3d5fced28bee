"""One meta step: from a snapshot of the evidence to a result.

    prescreen (MRM) → analyze, refine, merge (MRM) → lint → repair once (MRM) → gate (RM) → scale

A meta step writes nothing: `EvolvingReward.step` turns its result into a decision. So it may run
while training goes on, be given up, or run again from the same evidence.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..chat import Chat, Metered
from ..errors import BudgetError, ChatError, MetaStepError, StoreError
from ..judge import RewardModel
from ..judge.injection_flags import flag_phrases
from ..judge.scale import Scale, jump, normalized
from ..records import Case, Refinement, ScaleMap, Usage
from ..rubric import Rubric
from ..task import Task
from .evidence import Evidence, EvidenceSnapshot, choose
from .gate import Gate, ProbeScorer
from .lint import Finding, has_errors, lint, missing_criteria
from .meta_reward_model import MetaRewardModel
from .options import Evolve

__all__ = ["FAILED", "MetaStep", "MetaStepResult", "PendingMetaStep"]

_log = logging.getLogger(__name__)

FAILED = "the meta step failed: "
"""Start of the reason of a meta step that ended by an error instead of a judgement."""

SUSPECT = ("grader_directed", "control_string", "url")
"""Warnings that the MRM is asked to fix all the same: words to the grader in a rubric come from a
text that it was written on, or from a model that fell for one."""


@dataclass
class MetaStepResult:
    """Result of one meta step. It is filled on the way: a failure keeps what came before it."""

    accepted: bool = False
    reason: str = ""
    evidence: Evidence | None = None
    """Cases that the MRM saw; None where the choice itself failed."""
    refinement: Refinement | None = None
    figures: dict[str, float] = field(default_factory=dict)
    """Measurements of lint, gate and scale, by name."""
    findings: tuple[str, ...] = ()
    """Lint's findings in the proposal, one line each."""
    scale_map: ScaleMap | None = None
    """Map of the proposal, where it was accepted and the scale fits one."""
    meter: Metered | None = None
    """Counts the calls of the MRM while the meta step runs."""
    usage: Usage = field(default_factory=Usage)
    """Usage of the MRM, failed calls that were billed included."""
    rm_usage: Usage = field(default_factory=Usage)
    """Usage of the RM by gate and scale."""


@dataclass(frozen=True)
class PendingMetaStep:
    """A meta step that has begun and is not decided yet."""

    snapshot: EvidenceSnapshot
    parent: Rubric
    """The head when the meta step was due."""
    work: Future[MetaStepResult] | Coroutine[Any, Any, MetaStepResult]
    """A future in the background; a coroutine where the caller waits at once."""
    result: MetaStepResult
    """The result so far; the work fills it."""

    async def wait(self) -> MetaStepResult:
        """The result, from any event loop."""
        if isinstance(self.work, Future):
            return await asyncio.wrap_future(self.work)
        return await self.work

    def give_up(self) -> MetaStepResult:
        """End the work; it can begin again from the same snapshot.

        Returns:
            Its result so far, with the usage of the calls that were answered.
        """
        if isinstance(self.work, Future):
            self.work.cancel()
        else:
            self.work.close()
        if self.result.meter is not None:
            self.result.usage = self.result.meter.usage
        return self.result


@dataclass(frozen=True)
class MetaStep:
    """Runs one meta step, once.

    Attributes:
        result: The result so far.

    Args:
        task: Gives the limits that lint checks against.
        chat: The MRM's chat; its usage is counted here.
        model: Rewrites the rubric.
        reward_model: Scores probes and anchors.
        gate: Decides on the proposal.
        scale: The run's scale.
        evolve: Selection, sample sizes and lint.
        seed: The run's random seed.
    """

    task: Task
    chat: Chat
    model: MetaRewardModel
    reward_model: RewardModel
    gate: Gate
    scale: Scale
    evolve: Evolve
    seed: int = 0
    result: MetaStepResult = field(default_factory=MetaStepResult, init=False)

    async def run(
        self, snapshot: EvidenceSnapshot, parent: Rubric, scale_map: ScaleMap | None = None
    ) -> MetaStepResult:
        """From evidence to a result. A failure is a result, not an error, wherever it comes from:
        a model's answer, lint, the gate, the scale or the selection.

        Args:
            snapshot: Recent and first cases.
            parent: The head.
            scale_map: The head's map; None where nothing was fitted.

        Raises:
            StoreError: A cache in the store cannot be read or written.
            BudgetError: The budget is spent.
        """
        result, meter = self.result, Metered(self.chat)
        result.meter = meter
        try:
            await self._run(result, self.model.using(meter), snapshot, parent, scale_map)
        except (StoreError, BudgetError):
            raise
        except (ChatError, MetaStepError) as error:
            _log.info("meta step of update %d", snapshot.due, exc_info=True)
            result.accepted, result.reason = False, f"{FAILED}{error}"
        except Exception as error:
            # Training goes on, whatever a model answered and whatever gate or scale is plugged in.
            _log.exception("meta step of update %d: the rubric stays as it is", snapshot.due)
            words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            result.accepted, result.reason = False, f"{FAILED}{words}"
        result.usage = meter.usage
        return result

    async def _run(
        self,
        result: MetaStepResult,
        model: MetaRewardModel,
        snapshot: EvidenceSnapshot,
        parent: Rubric,
        scale_map: ScaleMap | None,
    ) -> None:
        seed = snapshot.due * 1000
        result.evidence = evidence = await self._choose(model, snapshot, parent, seed)
        result.refinement = await model.run(evidence, parent, seed=seed)
        result.refinement, findings = await self._repaired(
            model, result.refinement, evidence, parent, seed
        )
        result.findings = tuple(map(str, findings))
        result.figures |= _counts(findings) | _flags(result.refinement)
        if has_errors(findings):
            error = next(f for f in findings if f.severity == "error")
            result.reason = f"refused by lint: {error}"
            return
        known = snapshot.known
        answer = await self.gate.check(parent, result.refinement, known)
        result.figures |= answer.figures
        result.rm_usage += answer.usage
        if answer.accepted:
            await self._fit_scale(result, parent, result.refinement.rubric, known, scale_map)
        result.accepted, result.reason = answer.accepted, answer.reason

    async def _choose(
        self, model: MetaRewardModel, snapshot: EvidenceSnapshot, parent: Rubric, seed: int
    ) -> Evidence:
        selection = self.evolve.make_selection()
        labels: dict[str, str] = {}
        skipped: tuple[str, ...] = ()
        if selection.needs_labels:
            labels, skipped = await model.prescreen_all(snapshot.recent, parent, seed=seed)
        return choose(
            snapshot,
            selection,
            labels,
            skipped,
            seed=self.seed,
            samples=self.evolve.samples,
            baseline_cases=self.evolve.baseline_cases,
        )

    async def _repaired(
        self,
        model: MetaRewardModel,
        refinement: Refinement,
        evidence: Evidence,
        parent: Rubric,
        seed: int,
    ) -> tuple[Refinement, list[Finding]]:
        """The proposal, or the MRM's repair of it, with lint's findings.

        The MRM is shown words to the grader, links and control strings too. They are warnings: they
        refuse nothing. A repair that fails, breaks something or loses a criterion that had no fault
        is not taken: the proposal stays as it was.
        """
        if not self.evolve.lint:
            return refinement, []
        findings = self._lint(refinement, parent, evidence)
        faults = [str(f) for f in findings if f.severity == "error" or f.code in SUSPECT]
        if not faults:
            return refinement, findings
        try:
            repaired = await model.repair(refinement, faults, parent, seed=seed + 1)
        except ChatError:
            if has_errors(findings):
                raise
            return refinement, findings
        left = self._lint(repaired, parent, evidence)
        worse = has_errors(left) and not has_errors(findings)
        faulty = {f.criterion for f in findings if f.severity == "error" or f.code in SUSPECT}
        sound = [c for n, c in enumerate(refinement.rubric.criteria, start=1) if n not in faulty]
        if worse or missing_criteria(sound, repaired.rubric):
            return refinement, findings
        return repaired, left

    def _lint(self, refinement: Refinement, parent: Rubric, evidence: Evidence) -> list[Finding]:
        return lint(
            refinement.rubric,
            task=self.task,
            parent=parent,
            evidence=evidence.cases,
            reasons=refinement.reasons,
        )

    async def _fit_scale(
        self,
        result: MetaStepResult,
        parent: Rubric,
        rubric: Rubric,
        known: Sequence[Case],
        previous: ScaleMap | None,
    ) -> None:
        """Fit the map that keeps the anchors' reward through the switch, where the scale asks."""
        anchors = self.scale.anchors(known)
        scorer = ProbeScorer(self.reward_model, self.task, normalized)
        scorer.know(anchors, parent)
        texts = [case.rollout for case in anchors]
        before, after = await scorer.scores(texts, parent), await scorer.scores(texts, rubric)
        old = previous if previous is not None else ScaleMap()
        new = result.scale_map = self.scale.refit(before, after, previous)
        result.rm_usage += scorer.usage
        if new is None:
            return
        # The jump that training sees is the jump of what the policy writes now.
        start = min((text.step for text in texts), default=0)
        late = [n for n, text in enumerate(texts) if text.step > start] or range(len(texts))
        was, now = [before[n] for n in late], [after[n] for n in late]
        result.figures |= jump(
            [None if reward is None else old(reward) for reward in was],
            [None if reward is None else new(reward) for reward in now],
        )


def _counts(findings: Sequence[Finding]) -> dict[str, float]:
    """Number of findings by `lint.<code>`; empty where there are none."""
    counts: dict[str, float] = {}
    for finding in findings:
        name = f"lint.{finding.code}"
        counts[name] = counts.get(name, 0.0) + 1.0
    return counts


def _flags(refinement: Refinement) -> dict[str, float]:
    """Signs of an injection by `flag.<kind>`: in the MRM's answer before it was cleaned, and in the
    proposal's words."""
    # Not its Markdown, whose headings are what a forged rubric looks like.
    texts = [refinement.rubric.title]
    for criterion in refinement.rubric.criteria:
        texts += [criterion.name, criterion.text, *(level.text for level in criterion.levels)]
    flags = {**refinement.injection_flags, **flag_phrases("\n\n".join(texts))}
    return {f"flag.{kind}": float(count) for kind, count in flags.items()}
