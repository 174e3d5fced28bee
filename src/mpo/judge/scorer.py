"""Scoring: from rollouts to stored judgements under the rubric in force."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..errors import UnscoredError
from ..records import Case, CriterionScore, Judgement, Mode, Rollout, content_hash
from ..rubric import Rubric
from ..store import Store
from ..task import Task
from ..task.rules import RuleHit, first_rule
from . import JudgeResult, RewardModel
from .batches import commit_as_they_come
from .injection_flags import REFUSED, OnInjection, find_injection_flags, hostile, penalized
from .scale import Scale, normalized

__all__ = ["Scorer"]

RULE_PROTOCOL = "rule"
"""`Judgement.protocol` where a task rule decided and no model was asked."""

_KEY_WORDS = {"penalize": "penalise", "refuse": "refuse"}
"""Part of a judgement's key. Stores hold keys with the first spelling: what was paid for stays."""


class Scorer:
    """Scores rollouts; the half of `EvolvingReward` that never changes the rubric.

    Args:
        task: Its rules come before the RM.
        store: Where judgements are kept.
        reward_model: Grades.
        scale: From scores to reward.
        head: The rubric in force for a cohort.
        on_injection: Treatment of a hostile text.
        max_unscored: Largest share of one step that may stay unscored.
        seed: Part of a judgement's key.
        deadline_s: Longest time for one call of `score`, in seconds: what has no answer by then is
            unscored. None waits for every call to end by itself.
    """

    def __init__(
        self,
        task: Task,
        store: Store,
        reward_model: RewardModel,
        scale: Scale,
        head: Callable[[str], Rubric],
        *,
        on_injection: OnInjection,
        max_unscored: float,
        seed: int,
        deadline_s: float | None = None,
    ) -> None:
        self.task, self.store = task, store
        self.reward_model, self.scale = reward_model, scale
        self._head = head
        self.on_injection: OnInjection = on_injection
        self.max_unscored = max_unscored
        self.seed = seed
        self.deadline_s = deadline_s

    async def score(self, rollouts: Sequence[Rollout]) -> list[Judgement]:
        """Score rollouts under the heads of their cohorts; see `EvolvingReward.score`."""
        if not rollouts:
            return []
        rubrics = self._pin(rollouts)
        keys = {r.id: self._base_key(r, rubrics[r.id]) for r in rollouts}
        attempts = self.store.attempts(keys.values())
        done = self._known(rollouts, keys, attempts)
        missing = list({r.id: r for r in rollouts if r.id not in done}.values())
        await self._ask(missing, rubrics, keys, attempts, done)
        judgements = [done[rollout.id] for rollout in rollouts]
        for mode, step in _ordered((j.mode, j.step) for j in judgements if j.reward is None):
            # The step is not over: it will have at least as many rollouts as the one before.
            self.check_unscored(mode, step, expected=self._count(mode, step - 1))
        return judgements

    async def score_under(self, rubric: Rubric, rollouts: Sequence[Rollout]) -> list[Judgement]:
        """Score texts that are no rollouts of a step, under any rubric; kept and paid for once.

        Returns:
            One judgement per text, in order.

        Raises:
            StoreError: The store cannot be written.
        """
        rubrics = {r.id: rubric for r in rollouts}
        keys = {r.id: self._base_key(r, rubric) for r in rollouts}
        attempts = self.store.attempts(keys.values())
        done = self._known(rollouts, keys, attempts)
        await self._ask([r for r in rollouts if r.id not in done], rubrics, keys, attempts, done)
        return [done[rollout.id] for rollout in rollouts]

    def _pin(self, rollouts: Sequence[Rollout]) -> dict[str, Rubric]:
        """Rubric by rollout id (DESIGN law 11)."""
        heads = {cohort: self._head(cohort) for cohort in _ordered(r.cohort for r in rollouts)}
        known = {head.id: head for head in heads.values()}
        pinned: dict[str, Rubric] = {}
        for cohort, head in heads.items():
            members = [r for r in rollouts if r.cohort == cohort]
            groups = _ordered((r.group, r.step) for r in members)
            ids = self.store.pin(groups, head.id, cohort)
            for rollout in members:
                rubric_id = ids[rollout.group, rollout.step]
                if rubric_id not in known:
                    known[rubric_id] = self.store.rubric(rubric_id)
                pinned[rollout.id] = known[rubric_id]
        return pinned

    def _base_key(self, rollout: Rollout, rubric: Rubric) -> str:
        model = self.reward_model
        parts = [rollout.id, rubric.id, model.template_hash, model.protocol, model.model, self.seed]
        if self.on_injection != "observe":
            parts.append(_KEY_WORDS[self.on_injection])
        return content_hash(parts)

    def _known(
        self,
        rollouts: Sequence[Rollout],
        keys: Mapping[str, str],
        attempts: Mapping[str, Sequence[Judgement]],
    ) -> dict[str, Judgement]:
        """Judgements by rollout id that were paid for before, made visible at this point."""
        done: dict[str, Judgement] = {}
        cases: list[Case] = []
        for rollout in rollouts:
            scored = [j for j in attempts[keys[rollout.id]] if j.reward is not None]
            if scored and rollout.id not in done:
                done[rollout.id] = scored[0]
                cases.append(Case(rollout=rollout, judgement=scored[0]))
        if cases:
            self.store.append(cases)
        return done

    async def _ask(
        self,
        missing: Sequence[Rollout],
        rubrics: Mapping[str, Rubric],
        keys: Mapping[str, str],
        attempts: Mapping[str, Sequence[Judgement]],
        done: dict[str, Judgement],
    ) -> None:
        """Ask for what is missing, all at once; the chat limits how many calls are in flight."""

        started = asyncio.get_running_loop().time()
        ends = None if self.deadline_s is None else started + self.deadline_s

        async def ask(rollout: Rollout) -> Case:
            base = keys[rollout.id]
            tries = len(attempts[base])
            key = base if tries == 0 else f"{base}~{tries}"
            judgement = await self._judge(rollout, rubrics[rollout.id], key, ends)
            return Case(rollout=rollout, judgement=judgement)

        def commit(cases: list[Case]) -> None:
            self.store.append(cases)
            done.update({case.rollout.id: case.judgement for case in cases})

        await commit_as_they_come(missing, ask, commit)

    async def _judge(
        self, rollout: Rollout, rubric: Rubric, key: str, ends: float | None
    ) -> Judgement:
        rule = first_rule(self.task.spec, rollout.completion)
        flags = find_injection_flags(rollout.completion)
        if rule is None and self.on_injection == "refuse" and hostile(flags):
            rule = RuleHit(REFUSED)
        verdict = JudgeResult() if rule else await self._verdict(rollout, rubric, ends)
        return self._judgement(rollout, rubric, key, verdict, rule, flags)

    async def _verdict(self, rollout: Rollout, rubric: Rubric, ends: float | None) -> JudgeResult:
        """The RM's, or an unscored one at the end of the step's time (of the loop's clock)."""
        if ends is None:
            return await self.reward_model.judge(rollout, rubric)
        try:
            async with asyncio.timeout_at(ends) as limit:
                return await self.reward_model.judge(rollout, rubric)
        except TimeoutError:
            if not limit.expired():
                raise
        return JudgeResult(
            unscored=f"deadline: no answer within the {self.deadline_s:g} s that a step may take"
        )

    def _judgement(
        self,
        rollout: Rollout,
        rubric: Rubric,
        key: str,
        verdict: JudgeResult,
        rule: RuleHit | None,
        flags: Mapping[str, int],
    ) -> Judgement:
        reward = share = None
        if rule is not None:
            states_raw = rule.raw is not None and self.scale.name == "raw"
            reward, share = (
                rule.raw
                if states_raw
                else self.scale.floor(rubric, self.store.scale_map(rubric.id)),
                0.0,
            )
        elif verdict.unscored is None:
            reward, share = self._rewarded(rubric, verdict.scores, flags)
        return Judgement(
            key=key,
            rollout_id=rollout.id,
            rubric_id=rubric.id,
            step=rollout.step,
            cohort=rollout.cohort,
            mode=rollout.mode,
            scores=verdict.scores,
            reward=reward,
            normalized_reward=share,
            unscored=verdict.unscored,
            rule=rule.name if rule else None,
            protocol=RULE_PROTOCOL if rule else verdict.protocol or self.reward_model.protocol,
            template_hash=self.reward_model.template_hash,
            model=self.reward_model.model,
            usage=verdict.usage,
            injection_flags={**verdict.flags, **flags},
        )

    def _rewarded(
        self, rubric: Rubric, scores: Sequence[CriterionScore], flags: Mapping[str, int]
    ) -> tuple[float, float]:
        """Reward in the scale of the run, and normalized."""
        fitted = self.store.scale_map(rubric.id)
        reward, share = self.scale.reward(rubric, scores, fitted), normalized(rubric, scores)
        if self.on_injection != "penalize" or not hostile(flags):
            return reward, share
        best = [
            CriterionScore(criterion=key, score=criterion.scores[-1])
            for key, criterion in zip(rubric.criterion_ids, rubric.criteria, strict=True)
        ]
        floor, top = self.scale.floor(rubric, fitted), self.scale.reward(rubric, best, fitted)
        return penalized(reward, floor, top), penalized(share, 0.0, 1.0)

    def check_unscored(self, mode: Mode, step: int, expected: int = 0) -> None:
        """Raises an error where too much of a step stayed unscored, over all calls and ranks.

        Args:
            mode: Of the rollouts.
            step: Their trainer step.
            expected: Rollouts that the step will have at least, while it is not over.
        """
        unscored = self._count(mode, step, scored=False)
        n = self._count(mode, step)
        if unscored <= max(1.0, self.max_unscored * max(n, expected)):
            return
        cases = self.store.window(
            after_step=step - 1, up_to_step=step, cohort=None, mode=mode, scored=False
        )
        raise UnscoredError(
            f"{unscored} of {n} rollouts of step {step} stayed unscored, more than "
            f"max_unscored={self.max_unscored:g} allows; the first because of: "
            f"{cases[0].judgement.unscored}. "
            "Everything scored so far is stored: mend the endpoint and start again"
        )

    def _count(self, mode: Mode, step: int, scored: bool | None = None) -> int:
        return self.store.count(
            after_step=step - 1, up_to_step=step, cohort=None, mode=mode, scored=scored
        )


def _ordered(items: Any) -> list[Any]:
    """Distinct items in order of first appearance (a set's order changes between processes)."""
    return list(dict.fromkeys(items))
