"""EvolvingReward: a reward whose rubric keeps up with the policy. The centre of the package.

    reward = EvolvingReward(task="essay", chat=OpenAIChat(url, model="qwen"), store="mpo.db")
    judgements = await reward.score(rollouts)      # list[Rollout] -> list[Judgement], in order
    decision = await reward.step(120)              # None where no meta step is due

Two verbs, never mixed. `score` never changes the rubric; `step` is the only place where it may
change. So all rewards of one step are comparable, an evaluation pass cannot evolve the rubric,
and no clock is needed to test either.

Steps count optimizer updates. A rollout sampled after s updates has `step=s`; `step(n)` is called
after the n-th update and looks at rollouts of steps below n. The rubric that it accepts scores
rollouts from step n on.

All state lives in the store: a copy of this object in another rank, process or thread that opens
the same store sees the same head.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .chat import Chat, Metered
from .errors import ChatError, ConfigError, MetaStepError, StoreError, UnscoredError
from .gate import Always, Gate
from .meta_reward_model import Evidence, MetaRewardModel
from .records import Case, Decision, Judgement, Refinement, Rollout, content_hash
from .reward_model import RewardModel, SingleCall, Verdict
from .rubric import Rubric
from .scale import Normalized, Scale, normalized
from .schedule import Every, Schedule, Selection, Uniform, seeded
from .store import Store
from .task import Task, load_task
from .untrusted import precheck

__all__ = ["EvolvingReward"]

RULE_PROTOCOL = "rule"
"""`Judgement.protocol` where a task rule decided and no model was asked."""


class EvolvingReward:
    """Scores rollouts with an LLM, and lets a second LLM rewrite the rubric.

    Args:
        task: A built-in task's name, a task folder, or a loaded task.
        chat: The model that grades (RM).
        store: Path of the SQLite store, or an open one. A store that has a rubric continues.
        meta_chat: The model that rewrites (MRM); the RM's chat if None.
        rubric: The seed rubric; the task's own if None.
        schedule: When a meta step is due; every 10 updates if None (paper §3.2, essays).
        selection: How evidence is picked; uniformly if None (paper §2.3).
        samples: Rollouts per meta step (n).
        others: Cases of the sample that the MRM sees beside each case.
        earlier: Cases from the start of the run that it sees for comparison.
        gate: Decides whether a proposal counts; `Always` if None (the paper).
        scale: From scores to reward; 0 to 1 if None.
        max_unscored: Largest share of one `score` call that may stay unscored, 0 to 1. A single
            unscored rollout never stops a run.
        seed: Of every random choice; each is logged in the store with its result.

    Raises:
        TaskError: The task is unknown or has a fault.
        ConfigError: The store continues another seed rubric.
        StoreError: The store cannot be opened.
    """

    def __init__(
        self,
        task: str | Path | Task,
        chat: Chat,
        store: str | Path | Store,
        *,
        meta_chat: Chat | None = None,
        rubric: Rubric | None = None,
        schedule: Schedule | None = None,
        selection: Selection | None = None,
        samples: int = 16,
        others: int = 6,
        earlier: int = 6,
        gate: Gate | None = None,
        scale: Scale | None = None,
        max_unscored: float = 0.2,
        seed: int = 0,
    ) -> None:
        self.task = task if isinstance(task, Task) else load_task(task)
        self.store = store if isinstance(store, Store) else Store(store)
        self.chat = chat
        self.meta_chat = meta_chat if meta_chat is not None else chat
        self.schedule: Schedule = schedule if schedule is not None else Every(10)
        self.selection: Selection = selection if selection is not None else Uniform()
        self.gate: Gate = gate if gate is not None else Always()
        self.scale: Scale = scale if scale is not None else Normalized()
        self.samples, self.others, self.earlier = samples, others, earlier
        self.max_unscored = max_unscored
        self.seed = seed
        self.seed_rubric = rubric if rubric is not None else self.task.rubric
        secret = self.store.secret
        self.reward_model: RewardModel = SingleCall(chat, self.task, secret=secret, seed=seed)
        self.meta_reward_model = MetaRewardModel(
            self.meta_chat, self.task, secret=secret, seed=seed
        )
        self._plant_seed("")

    # ------------------------------------------------------------------ the rubric in force

    def rubric(self, cohort: str = "") -> Rubric:
        """The head: the rubric in force for a cohort."""
        head = self.store.head(cohort)
        return head if head is not None else self._plant_seed(cohort)

    def _plant_seed(self, cohort: str) -> Rubric:
        """Make the seed rubric the head of a cohort that has none.

        Raises:
            ConfigError: The store's lineage starts from another rubric.
        """
        lineage = self.store.lineage(cohort)
        if not lineage:
            decision = Decision(
                cohort=cohort,
                kind="seed",
                proposed=self.seed_rubric.id,
                accepted=True,
                reason="seed rubric",
            )
            try:
                self.store.decide(decision, self.seed_rubric)
            except StoreError:
                # Another rank may have planted it first; only then is there a lineage now.
                if not self.store.lineage(cohort):
                    raise
            lineage = self.store.lineage(cohort)
        if lineage[0].proposed != self.seed_rubric.id:
            raise ConfigError(
                f"{self.store.path} continues seed rubric {lineage[0].proposed}, not "
                f"{self.seed_rubric.id} ({self.seed_rubric.title!r}): use another store, or the "
                "rubric that it began with (mpo rubric show)"
            )
        head = self.store.head(cohort)
        assert head is not None
        return head

    # ------------------------------------------------------------------ score

    async def score(self, rollouts: Sequence[Rollout]) -> list[Judgement]:
        """Score rollouts under the rubric in force. Never changes it.

        Completions of one group at one step get one rubric, also when they come in several calls
        around a meta step. What the store has already is not asked again. Judgements are
        committed as they come in.

        Returns:
            One judgement per rollout, in order.

        Raises:
            UnscoredError: More than `max_unscored` stayed unscored; all judgements are stored.
            StoreError: The store cannot be written.
        """
        if not rollouts:
            return []
        rubrics = self._pin(rollouts)
        done = self._known(rollouts, rubrics)
        await self._ask_missing(rollouts, rubrics, done)
        judgements = [done[rollout.id] for rollout in rollouts]
        self._check_unscored(judgements)
        return judgements

    def _pin(self, rollouts: Sequence[Rollout]) -> dict[str, Rubric]:
        """Rubric by rollout id (DESIGN law 11)."""
        heads = {cohort: self.rubric(cohort) for cohort in _ordered(r.cohort for r in rollouts)}
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
        return content_hash(
            [rollout.id, rubric.id, model.template_hash, model.protocol, model.model, self.seed]
        )

    def _known(
        self, rollouts: Sequence[Rollout], rubrics: Mapping[str, Rubric]
    ) -> dict[str, Judgement]:
        """Judgements by rollout id that were paid for before, made visible at this point."""
        keys = {r.id: self._base_key(r, rubrics[r.id]) for r in rollouts}
        attempts = self.store.attempts(list(keys.values()))
        done: dict[str, Judgement] = {}
        cases: list[Case] = []
        for rollout in rollouts:
            scored = [j for j in attempts.get(keys[rollout.id], []) if j.reward is not None]
            if scored and rollout.id not in done:
                done[rollout.id] = scored[0]
                cases.append(Case(rollout=rollout, judgement=scored[0]))
        if cases:
            self.store.append(cases)
        return done

    async def _ask_missing(
        self,
        rollouts: Sequence[Rollout],
        rubrics: Mapping[str, Rubric],
        done: dict[str, Judgement],
    ) -> None:
        """Ask for what is missing, all at once; the chat limits how many calls are in flight."""
        missing = list({r.id: r for r in rollouts if r.id not in done}.values())
        keys = {r.id: self._base_key(r, rubrics[r.id]) for r in missing}
        earlier = self.store.attempts(list(keys.values()))
        arrived: asyncio.Queue[Case | Exception] = asyncio.Queue()

        async def ask(rollout: Rollout) -> None:
            base, tries = keys[rollout.id], len(earlier.get(keys[rollout.id], []))
            key = base if tries == 0 else f"{base}~{tries}"
            try:
                judgement = await self._judge(rollout, rubrics[rollout.id], key)
                arrived.put_nowait(Case(rollout=rollout, judgement=judgement))
            except Exception as error:  # handed over, not swallowed: `_collect` raises it
                arrived.put_nowait(error)

        calls = [asyncio.create_task(ask(rollout)) for rollout in missing]
        try:
            left = len(missing)
            while left:
                left -= await self._collect(arrived, done)
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            late = [item for item in _drain(arrived) if isinstance(item, Case)]
            if late:  # paid for, though another call has stopped the batch
                self.store.append(late)

    async def _collect(
        self, arrived: asyncio.Queue[Case | Exception], done: dict[str, Judgement]
    ) -> int:
        """Wait for one outcome, and commit it with whatever else has come in meanwhile.

        Returns:
            How many judgements were committed.

        Raises:
            MPOError: What one of the calls raised, after the others' judgements are committed.
        """
        outcomes = [await arrived.get(), *_drain(arrived)]
        cases = [outcome for outcome in outcomes if isinstance(outcome, Case)]
        if cases:
            self.store.append(cases)
            done.update({case.rollout.id: case.judgement for case in cases})
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return len(cases)

    async def _judge(self, rollout: Rollout, rubric: Rubric, key: str) -> Judgement:
        rule = precheck(rollout.completion, self.task.spec.response.min_words)
        if rule is not None:
            return self._judgement(rollout, rubric, key, Verdict(), rule=rule)
        return self._judgement(
            rollout, rubric, key, await self.reward_model.judge(rollout, rubric), rule=None
        )

    def _judgement(
        self, rollout: Rollout, rubric: Rubric, key: str, verdict: Verdict, rule: str | None
    ) -> Judgement:
        reward = share = None
        if rule is not None:
            reward, share = self.scale.floor(rubric), 0.0
        elif verdict.unscored is None:
            reward = self.scale.reward(rubric, verdict.scores)
            share = normalized(rubric, verdict.scores)
        return Judgement(
            key=key,
            rollout_id=rollout.id,
            rubric_id=rubric.id,
            step=rollout.step,
            cohort=rollout.cohort,
            mode=rollout.mode,
            scores=verdict.scores,
            reward=reward,
            normalized=share,
            unscored=verdict.unscored,
            rule=rule,
            protocol=RULE_PROTOCOL if rule else self.reward_model.protocol,
            template_hash=self.reward_model.template_hash,
            model=self.reward_model.model,
            usage=verdict.usage,
            flags=verdict.flags,
        )

    def _check_unscored(self, judgements: Sequence[Judgement]) -> None:
        reasons = [j.unscored for j in judgements if j.unscored is not None]
        if len(reasons) > max(1.0, self.max_unscored * len(judgements)):
            raise UnscoredError(
                f"{len(reasons)} of {len(judgements)} rollouts stayed unscored, more than "
                f"max_unscored={self.max_unscored:g} allows; the first because of: {reasons[0]}. "
                "Everything scored so far is stored: mend the endpoint and start again"
            )

    # ------------------------------------------------------------------ step

    async def step(self, n: int) -> Decision | None:
        """Hold a meta step after the n-th update, if one is due. The only place where the head
        may move.

        A step that was decided already is not repeated, so that it may be called again after a
        crash. A meta step that fails leaves the head where it was, and says why in its decision.

        Returns:
            The decision; the last one where several cohorts had evidence; None if none was due.

        Raises:
            StoreError: The store cannot be read or written.
            BudgetError: The budget is spent (from the chat).
        """
        if not self.schedule.due(n):
            return None
        decision = None
        for cohort in list(self.store.heads()):
            decision = await self._cohort_step(n, cohort) or decision
        return decision

    async def _cohort_step(self, n: int, cohort: str) -> Decision | None:
        lineage = self.store.lineage(cohort)
        for past in lineage:
            if past.kind == "evolve" and past.step == n:
                return past
        parent = self.rubric(cohort)
        since = max((d.step for d in lineage if d.kind == "evolve"), default=0)
        evidence = self._evidence(n, since, cohort)
        if cohort and not evidence.cases:
            return None  # A cohort without evidence keeps its rubric.
        meter = Metered(self.meta_chat)
        refinement: Refinement | None = None
        try:
            refinement = await self.meta_reward_model.using(meter).run(
                evidence, parent, seed=n * 1000
            )
            ruling = await self.gate.check(parent, refinement, evidence.cases)
            accepted, reason, figures = ruling.accepted, ruling.reason, dict(ruling.figures)
        except (ChatError, MetaStepError) as error:
            accepted, reason, figures = False, f"the meta step failed: {error}", {}
        decision = Decision(
            step=n,
            cohort=cohort,
            parent=parent.id,
            proposed=refinement.rubric.id if refinement else None,
            accepted=accepted,
            reason=reason,
            figures=figures,
            refinement=refinement,
            usage=meter.usage,
        )
        self.store.decide(decision, refinement.rubric if refinement else None)
        return decision

    def _evidence(self, n: int, since: int, cohort: str) -> Evidence:
        """Sample what the meta step looks at; each random choice is logged (DESIGN law 6)."""
        recent = self.store.window(after_step=since - 1, up_to_step=n - 1, cohort=cohort)
        picked = self.selection.pick(recent, self.samples, seeded(self.seed, "evidence", cohort, n))
        earlier: list[Case] = []
        first = self.store.window(up_to_step=self._first_step(cohort), cohort=cohort)
        if self.earlier and first:
            chosen = {case.rollout.id for case in picked}
            pool = [case for case in first if case.rollout.id not in chosen]
            rng = seeded(self.seed, "earlier", cohort, n)
            earlier = rng.sample(pool, min(self.earlier, len(pool)))
        for name, cases in (("evidence", picked), ("earlier", earlier)):
            self.store.log_choice(
                f"{name}:{cohort}" if cohort else name, n, self.seed, [c.rollout.id for c in cases]
            )
        return Evidence(cases=tuple(picked), earlier=tuple(earlier), others=self.others)

    def _first_step(self, cohort: str) -> int:
        """Trainer step of the cohort's first scored rollouts; the policy before it had learned."""
        return self.store.first_step(cohort) or 0

    # ------------------------------------------------------------------ checkpoints

    def snapshot(self, step: int) -> dict[str, Any]:
        """What a trainer puts into its checkpoint: a small JSON object."""
        return dict(self.store.snapshot(step))

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue from a checkpoint: later rollouts and decisions are set aside, not deleted.

        Raises:
            StoreError: The snapshot belongs to another store.
        """
        self.store.restore(dict(snapshot))

    async def aclose(self) -> None:
        """Close the connections that the running event loop holds."""
        await self.chat.aclose()
        if self.meta_chat is not self.chat:
            await self.meta_chat.aclose()


def _ordered(items: Any) -> list[Any]:
    """Distinct items in order of first appearance (a set's order changes between processes)."""
    return list(dict.fromkeys(items))


def _drain(queue: asyncio.Queue[Case | Exception]) -> list[Case | Exception]:
    """Everything that waits in the queue."""
    items: list[Case | Exception] = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items
