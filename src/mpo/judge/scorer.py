"""Scorer: from rollouts to stored judgements under the rubric in effect.

assign      rubric, scale map, key and earlier attempts of each rollout: one read of the store
judge       clean once → task rules → RM → scale
commit      what comes in together is committed together
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from ..errors import StoreFileError, UnscoredError
from ..records import Case, CriterionScore, Judgement, Mode, Rollout, ScaleMap, content_hash
from ..rubric import Rubric
from ..sanitize import Cleaned, ControlStrings, clean
from ..store import Group, Store, View
from ..task import Task
from ..task.rules import RuleHit, first_rule
from .base import JudgeResult, RewardModel, judge_identity
from .injection_flags import REFUSED, OnInjection, find_injection_flags, hostile, penalized
from .scale import Scale, normalized

__all__ = ["AT_ONCE", "Scorer", "commit_as_they_come"]

RULE_PROTOCOL = "rule"
"""`Judgement.protocol` where a task rule decided and no model was asked."""

AT_ONCE = 1024
"""Items that are worked on, or wait for their turn at the chat. Those beyond have no prompt yet,
which takes memory."""

GATHER_S = 0.04
"""Seconds that a result waits for others to be committed with: a commit costs more than a result.
Below the time that the store's replies wait for a commit to take them along."""

_KEY_WORDS = {"penalize": "penalise", "refuse": "refuse"}
"""Part of a judgement's key. Stores hold keys with the first spelling: what was paid for stays."""

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Assignment:
    """A rollout, and the conditions that it is scored under."""

    rollout: Rollout
    rubric: Rubric
    scale_map: ScaleMap | None
    key: str
    """Key of the judgement: that of the next attempt where earlier ones failed."""
    known: Judgement | None
    """The judgement that was paid for before; None where the RM has yet to be asked."""


class Scorer:
    """Scores rollouts; the half of `EvolvingReward` that never changes the rubric.

    Args:
        task: Its rules come before the RM.
        store: Keeps the judgements; says which rubric is in effect.
        reward_model: Grades what no rule decides.
        scale: From scores to reward.
        seed_rubric: First rubric of a cohort that has none yet.
        on_injection: Treatment of a hostile text.
        max_unscored: Largest share of one step that may stay unscored.
        seed: Part of a judgement's key.
        deadline_s: Longest time for one call of `score`, in seconds: what has no answer by then is
            unscored. None waits for every call to end by itself.
        earlier_judges: Identities of the models that graded this run before its endpoint changed.
            What they gave to a rollout that is scored again, as after a resume, stays paid for.
        control: Control strings that no completion may say, besides those that `clean` knows.
    """

    def __init__(
        self,
        task: Task,
        store: Store,
        reward_model: RewardModel,
        scale: Scale,
        seed_rubric: Rubric,
        *,
        on_injection: OnInjection,
        max_unscored: float,
        seed: int,
        deadline_s: float | None = None,
        earlier_judges: Sequence[str] = (),
        control: ControlStrings | None = None,
    ) -> None:
        self.task, self.store = task, store
        self.reward_model, self.scale = reward_model, scale
        self.seed_rubric = seed_rubric
        self.on_injection: OnInjection = on_injection
        self.max_unscored = max_unscored
        self.seed = seed
        self.deadline_s = deadline_s
        self.control = control
        self._identity = judge_identity(reward_model)
        self.earlier_judges = tuple(j for j in earlier_judges if j != self._identity)
        # Paid for, and kept out of the store by a full disk; by the judgement's key.
        self._unwritten: dict[str, Case] = {}
        # An id is the hash of its rubric's content, so this can never be out of date.
        self._rubrics = {seed_rubric.id: seed_rubric}

    async def score(self, rollouts: Sequence[Rollout]) -> list[Judgement]:
        """Score rollouts under the heads of their cohorts; see `EvolvingReward.score`."""
        judgements = await self._score(self._assigned(rollouts)) if rollouts else []
        steps: dict[tuple[Mode, int], None] = {}
        for judgement in judgements:
            if judgement.reward is None:
                steps[judgement.mode, judgement.step] = None
        for mode, step in steps:
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
        with self.store.reading() as view:
            scale_map = view.scale_map(rubric.id)
            assigned = [self._assign(view, r, rubric, scale_map) for r in rollouts]
        return await self._score(assigned)

    def flush(self) -> None:
        """Write the judgements that could not be written when they were made.

        Raises:
            StoreFileError: They still cannot be written.
        """
        self._append([])

    def _append(self, cases: Sequence[Case]) -> None:
        """Store cases, after those that wait. If it fails they wait too: they were paid for."""
        waiting = self._unwritten.copy()
        for case in cases:
            waiting[case.judgement.key] = case
        try:
            self.store.append(list(waiting.values()))
        except StoreFileError:
            self._unwritten |= waiting
            raise
        for key in waiting:
            self._unwritten.pop(key, None)

    # ------------------------------------------------------------------ assign

    def _assigned(self, rollouts: Sequence[Rollout]) -> list[_Assignment]:
        """Assignments under the rubrics of the rollouts' groups, in order (law 11)."""
        rubric_ids: dict[Group, str] = {}
        unpinned: dict[Group, str] = {}
        scale_maps: dict[str, ScaleMap | None] = {}
        assigned: list[_Assignment] = []
        seedless = None
        with self.store.reading() as view:
            for rollout in rollouts:
                group = (rollout.cohort, rollout.group, rollout.step)
                if group not in rubric_ids:
                    pinned = view.pinned(group)
                    rubric_id = pinned or view.head_id(rollout.cohort)
                    if rubric_id is None:
                        seedless = rollout.cohort
                        break
                    rubric_ids[group] = rubric_id
                    if pinned is None:
                        unpinned[group] = rubric_id
                    if rubric_id not in scale_maps:
                        scale_maps[rubric_id] = view.scale_map(rubric_id)
                rubric_id = rubric_ids[group]
                rubric = self._rubric(view, rubric_id)
                scale_map = scale_maps[rubric_id]
                assigned.append(self._assign(view, rollout, rubric, scale_map, self.earlier_judges))
        if seedless is not None:  # a cohort that is seen for the first time
            self.store.plant_seed(seedless, self.seed_rubric)
            return self._assigned(rollouts)
        # Another process may have pinned one of the groups in between, to another rubric.
        if unpinned and self.store.pin(unpinned) != unpinned:
            return self._assigned(rollouts)
        return assigned

    def _rubric(self, view: View, rubric_id: str) -> Rubric:
        if rubric_id not in self._rubrics:
            rubric = view.rubric(rubric_id)
            assert rubric is not None, f"rubric {rubric_id} has a pin or a decision, and no text"
            self._rubrics[rubric_id] = rubric
        return self._rubrics[rubric_id]

    def _assign(
        self,
        view: View,
        rollout: Rollout,
        rubric: Rubric,
        scale_map: ScaleMap | None,
        earlier_judges: Sequence[str] = (),
    ) -> _Assignment:
        own = self._key(rollout, rubric, self._identity)
        attempts = view.attempts(own)
        known = list(attempts)
        for judge in earlier_judges:
            known += view.attempts(self._key(rollout, rubric, judge))
        for judgement in known:
            if judgement.reward is not None:
                return _Assignment(rollout, rubric, scale_map, judgement.key, judgement)
        key = f"{own}~{len(attempts)}" if attempts else own
        waiting = self._unwritten.get(key)
        unwritten = waiting.judgement if waiting is not None else None
        return _Assignment(rollout, rubric, scale_map, key, unwritten)

    def _key(self, rollout: Rollout, rubric: Rubric, identity: str) -> str:
        model = self.reward_model
        parts = [rollout.id, rubric.id, model.template_hash, model.protocol, identity, self.seed]
        if self.on_injection != "observe":
            parts.append(_KEY_WORDS[self.on_injection])
        if self.task.spec.rm.temperature:  # not for 0: stores hold keys without it
            parts.append(self.task.spec.rm.temperature)
        return content_hash(parts)

    # ------------------------------------------------------------------ judge

    async def _score(self, assigned: Sequence[_Assignment]) -> list[Judgement]:
        """Judgements in order; asks for what is missing, all at once, and stores it.

        Once the store cannot be written nothing more is asked. Calls in flight come to their end,
        and what they bring waits in memory: it was paid for.
        """
        judgements: dict[str, Judgement] = {}
        missing: dict[str, _Assignment] = {}
        known: list[Case] = []
        faults: list[StoreFileError] = []

        def commit(cases: Sequence[Case | None]) -> None:
            made = list(filter(None, cases))
            for case in made:
                judgements[case.rollout.id] = case.judgement
            try:
                self._append(made)
            except StoreFileError as error:
                faults.append(error)

        async def judge(one: _Assignment) -> Case | None:
            if faults:
                return None
            try:
                return await self._judge(one, ends)
            except StoreFileError as error:  # of the chat's cache, which keeps the answer
                faults.append(error)
                return None

        for one in assigned:
            if one.known is None:
                missing[one.rollout.id] = one
            else:
                known.append(Case(rollout=one.rollout, judgement=one.known))
        if known:  # a judgement from another branch becomes visible here
            commit(known)
        ends = None
        if self.deadline_s is not None:
            ends = asyncio.get_running_loop().time() + self.deadline_s
        await commit_as_they_come(list(missing.values()), judge, commit)
        if faults:
            raise faults[0]
        return [judgements[one.rollout.id] for one in assigned]

    async def _judge(self, one: _Assignment, ends: float | None) -> Case:
        """The rollout with its judgement, by a rule or by the RM.

        Args:
            one: The rollout and its conditions.
            ends: End of the batch's time by the loop's clock; None for no end.
        """
        rollout, rubric, model = one.rollout, one.rubric, self.reward_model
        cleaned = clean(rollout.completion, self.control)
        flags = find_injection_flags(cleaned)
        rule = first_rule(self.task.spec, cleaned)
        if rule is None and self.on_injection == "refuse" and hostile(flags):
            rule = RuleHit(REFUSED)
        reward = share = None
        if rule is not None:
            result = JudgeResult(protocol=RULE_PROTOCOL)
            states_raw = rule.raw is not None and self.scale.name == "raw"
            reward = rule.raw if states_raw else self.scale.floor(rubric, one.scale_map)
            share = 0.0
        else:
            result = await self._ask(rollout, rubric, cleaned, ends)
            if result.unscored is None:
                reward, share = self._rewards(one, result.scores, flags)
        judgement = Judgement(
            key=one.key,
            rollout_id=rollout.id,
            rubric_id=rubric.id,
            step=rollout.step,
            cohort=rollout.cohort,
            mode=rollout.mode,
            scores=result.scores,
            reward=reward,
            normalized_reward=share,
            unscored=result.unscored,
            rule=rule.name if rule else None,
            protocol=result.protocol or model.protocol,
            template_hash=model.template_hash,
            model=model.model,
            identity=self._identity if self._identity != model.model else "",
            usage=result.usage,
            injection_flags=flags,
        )
        return Case(rollout=rollout, judgement=judgement)

    async def _ask(
        self, rollout: Rollout, rubric: Rubric, cleaned: Cleaned, ends: float | None
    ) -> JudgeResult:
        """The RM's result, or an unscored one where it has none at the end of the time."""
        try:
            async with asyncio.timeout_at(ends) as limit:
                return await self.reward_model.judge(rollout, rubric, cleaned)
        except TimeoutError:
            if not limit.expired():
                raise
        return JudgeResult(
            unscored=f"deadline: no answer within the {self.deadline_s:g} s that a step may take"
        )

    def _rewards(
        self, one: _Assignment, scores: Sequence[CriterionScore], flags: Mapping[str, int]
    ) -> tuple[float, float]:
        """Reward in the scale of the run, and normalized reward."""
        rubric, scale_map = one.rubric, one.scale_map
        reward = self.scale.reward(rubric, scores, scale_map)
        share = normalized(rubric, scores)
        if self.on_injection != "penalize" or not hostile(flags):
            return reward, share
        best = [
            CriterionScore(criterion=key, score=criterion.scores[-1])
            for key, criterion in rubric.keyed
        ]
        floor = self.scale.floor(rubric, scale_map)
        top = self.scale.reward(rubric, best, scale_map)
        return penalized(reward, floor, top), penalized(share, 0.0, 1.0)

    # ------------------------------------------------------------------ unscored

    def check_unscored(self, mode: Mode, step: int, expected: int = 0) -> None:
        """Raises an error where too much of a step stayed unscored, over all calls and ranks.

        Args:
            mode: Mode of the rollouts.
            step: Trainer step of the rollouts.
            expected: Rollouts that the step will have at least, while it is not over.

        Raises:
            UnscoredError: More than `max_unscored` of the step, and more than one rollout.
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
            f"{cases[0].judgement.unscored}. Everything scored so far is stored. "
            "Fix the endpoint and run the same command again"
        )

    def _count(self, mode: Mode, step: int, scored: bool | None = None) -> int:
        return self.store.count(
            after_step=step - 1, up_to_step=step, cohort=None, mode=mode, scored=scored
        )


async def commit_as_they_come(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    commit: Callable[[list[Result]], None],
) -> None:
    """Work on all items at once, and commit the results in the batches in which they come in.

    Args:
        items: Arguments of `work`, which itself limits how much is in flight.
        work: Makes the result of one item.
        commit: Takes every result once, within `GATHER_S` of its arrival.

    Raises:
        Exception: The first that `work` raised, after the other results are committed and the
            rest is cancelled.
    """
    waiting, left = iter(items), len(items)
    results: list[Result] = []
    errors: list[Exception] = []
    workers: list[asyncio.Task[None]] = []
    some, over = asyncio.Event(), asyncio.Event()

    async def worker() -> None:
        nonlocal left
        # Each starts the next: the first request is on its way before the last prompt is written.
        if len(workers) < min(len(items), AT_ONCE):
            workers.append(asyncio.create_task(worker()))
        for item in waiting:
            try:
                results.append(await work(item))
            except Exception as error:  # handed over, not swallowed: it is raised to the caller
                errors.append(error)
            left -= 1
            some.set()
            if errors or not left:
                over.set()

    def flush() -> None:
        batch = results.copy()
        results.clear()
        if batch:
            commit(batch)

    try:
        if items:
            workers.append(asyncio.create_task(worker()))
        while left and not errors:
            await some.wait()
            some.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await over.wait()
            flush()
        if errors:
            raise errors[0]
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        flush()  # paid for, though another one has stopped the batch
