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

import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from .chat import Chat, identity_of, same_model
from .chat.event_loop import hand_over, submit
from .errors import BudgetError, ConfigError, StoreError
from .evolve.evidence import log_choices, take_snapshot
from .evolve.lineage import roll_back
from .evolve.meta_reward_model import MetaRewardModel
from .evolve.meta_step import MetaStep, PendingMetaStep
from .evolve.options import Evolve
from .judge import make_reward_model
from .judge.options import Scoring
from .judge.scorer import Scorer
from .records import Decision, Judgement, Rollout
from .rubric import Rubric
from .sanitize import ControlStrings
from .store import Store
from .task import Task, load_task
from .watch import MONITOR, Canaries, SecondJudge, Watch

__all__ = ["MONITOR", "EvolvingReward", "roll_back"]

_log = logging.getLogger(__name__)

T = TypeVar("T")

FAILURE = "monitor_failure"
"""Name of the monitors' own failures in the store's log."""


class EvolvingReward:
    """Scores rollouts with an LLM, and lets a second LLM rewrite the rubric.

    Args:
        task: A built-in task's name, a task folder, or a loaded task.
        chat: The model that grades (RM).
        store: Path of the SQLite store, or an open one. A store that has a rubric continues.
        meta_chat: The model that rewrites (MRM); the RM's chat if None.
        second_judge: A second RM that grades a few percent of the rollouts, for the monitors
            (`mpo.watch.SECOND_JUDGE_SHARE`); none if None.
        rubric: The seed rubric; the task's own if None.
        scoring: From the RM's scores to the reward.
        evolve: When and from what the rubric is rewritten, and what a proposal must pass. The
            defaults check proposals; `Evolve.paper()` is the published method.
        seed: Random seed for every choice; each choice is logged in the store with its result.
        earlier_judges: Identities (`mpo.chat.identity_of`) of the chats that graded this run before
            its endpoint changed: what they graded is not paid for again.

    Raises:
        TaskError: The task is unknown or has a fault.
        ConfigError: The store continues another seed rubric, or the second judge is the RM.
        DataError: The gate's file of pairs cannot be read.
        StoreError: The store cannot be opened.
    """

    def __init__(
        self,
        task: str | Path | Task,
        chat: Chat,
        store: str | Path | Store,
        *,
        meta_chat: Chat | None = None,
        second_judge: Chat | None = None,
        rubric: Rubric | None = None,
        scoring: Scoring = Scoring(),  # noqa: B008 - frozen
        evolve: Evolve = Evolve(),  # noqa: B008 - frozen
        seed: int = 0,
        earlier_judges: Sequence[str] = (),
    ) -> None:
        if second_judge is not None and same_model(second_judge, chat):
            raise ConfigError(
                f"second_judge is the reward model itself ({identity_of(chat)}): it would repeat "
                "the same answers. Name another model, or leave second_judge out"
            )
        self.task = task if isinstance(task, Task) else load_task(task)
        self.store = store if isinstance(store, Store) else Store(store)
        self.chat = chat
        self.meta_chat = meta_chat if meta_chat is not None else chat
        self.second_judge = second_judge
        self.scoring, self.evolve, self.seed = scoring, evolve, seed
        self.schedule, self.scale = evolve.make_schedule(), scoring.make_scale()
        self.waited_s = 0.0
        """Seconds that `step` has waited for meta steps in this process."""
        self.control_strings = ControlStrings(scoring.control_strings)
        """Control strings that no text may say to the judge, besides those that `clean` knows. A
        trainer adds those of its policy before anything is scored:
        `reward.control_strings.add(control_strings_of(tokenizer))`."""
        self._pending: dict[tuple[str, int], PendingMetaStep] = {}
        self._in_background = False
        self._updates = 0
        """Update that `step` was called for last."""
        self.seed_rubric = rubric if rubric is not None else self.task.rubric
        self.task.check_rubric(self.seed_rubric)
        secret = self.store.secret
        self.reward_model = make_reward_model(
            self.task, chat, secret, seed, control=self.control_strings
        )
        self.gate = evolve.make_gate(self.reward_model, self.task, seed)
        self.meta_reward_model = MetaRewardModel(
            self.meta_chat,
            self.task,
            secret=secret,
            seed=seed,
            analysis=evolve.analysis,
            context_cases=evolve.context_cases,
            rationales=evolve.rationales,
            control=self.control_strings,
        )
        self._scorer = Scorer(
            self.task,
            self.store,
            self.reward_model,
            self.scale,
            self.seed_rubric,
            on_injection=scoring.on_injection,
            max_unscored=scoring.max_unscored,
            seed=seed,
            deadline_s=scoring.deadline_s,
            earlier_judges=earlier_judges,
            control=self.control_strings,
        )
        canaries = Canaries(self.store, self._scorer, seed) if evolve.reads_canaries else None
        self._canaries = canaries
        self.watch = Watch(
            self.store,
            seed,
            alarm_distance=evolve.alarm_distance,
            canaries=canaries,
            second_judge=self._make_second_judge(secret),
        )
        self.store.plant_seed("", self.seed_rubric)

    def _make_second_judge(self, secret: bytes) -> SecondJudge | None:
        if self.second_judge is None:
            return None
        # It grades the text that it is shown: a final answer that a program compares needs no
        # second judge.
        task = self.task.with_rm(answer_check="off")
        model = make_reward_model(
            task, self.second_judge, secret, self.seed, control=self.control_strings
        )
        return SecondJudge(self.store, model, self.seed)

    def __getstate__(self) -> dict[str, Any]:
        # A copy in another process starts a pending meta step again, from the same evidence.
        return {**self.__dict__, "_pending": {}, "_in_background": False}

    def rubric(self, cohort: str = "") -> Rubric:
        """The head: the rubric in effect for a cohort."""
        head = self.store.head(cohort)
        return head if head is not None else self.store.plant_seed(cohort, self.seed_rubric)

    @property
    def pending_steps(self) -> list[int]:
        """Updates whose meta step has begun and is not decided yet; may be read by any thread."""
        return sorted({due for _, due in list(self._pending)})

    async def score(self, rollouts: Sequence[Rollout]) -> list[Judgement]:
        """Score rollouts under the head. Never changes it.

        Completions of one group at one step get one rubric, also when they come in several calls
        around a meta step. What the store has already is not paid for again. Judgements are
        committed as they come in.

        Returns:
            One judgement per rollout, in order.

        Raises:
            UnscoredError: More than `Scoring.max_unscored` of a step stayed unscored; all
                judgements are stored.
            StoreError: The store cannot be written.
        """
        return await self._scorer.score(rollouts)

    def flush(self) -> None:
        """Write what was paid for while the store could not be written: judgements and answers.

        They are written with the next batch too; call it before the process ends.

        Raises:
            StoreFileError: They still cannot be written.
        """
        self._scorer.flush()
        self.store.flush()

    # ------------------------------------------------------------------ step

    async def step(self, n: int, last: int | None = None) -> Decision | None:
        """Hold a meta step after the n-th update, if one is due. The only place where the head
        may move.

        A step that was decided already is not repeated, so that it may be called again after a
        crash. A meta step that fails leaves the head where it was; its decision says why.

        With `Evolve.delay`, a meta step that is due starts here and is decided that many updates
        later. Where canaries have failed twice in a row under a new rubric, an earlier one is put
        back into effect, as a decision of its own (kind `rollback`).

        Args:
            n: Updates that the policy has had.
            last: Number of the run's last update, where it is known: a meta step that could not be
                decided by then is not started.

        Returns:
            The decision; the last one where several cohorts had evidence; None if there was none.

        Raises:
            UnscoredError: More than `Scoring.max_unscored` of the update's rollouts stayed
                unscored.
            StoreError: The store cannot be read or written.
            BudgetError: The budget is spent (from the chat).
        """
        self._updates = n
        self._scorer.check_unscored("train", n - 1)
        begun = [d for d in range(max(1, n - self.evolve.delay), n) if self.schedule.due(d)]
        await self._watched(n, self.watch.look(n, max(begun, default=0)))
        decision = None
        for cohort in list(self.store.heads()):
            decision = await self._watched(n, self._maybe_roll_back(n, cohort)) or decision
            decision = await self._cohort_step(n, cohort, last) or decision
        return decision

    async def _watched(self, n: int, work: Coroutine[Any, Any, T]) -> T | None:
        """The result of work by the monitors; None where it failed, which ends no training."""
        try:
            return await work
        except (StoreError, BudgetError):
            raise
        except Exception as error:
            _log.exception("the monitors failed at update %d: the rubric stays as it is", n)
            words = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            self.store.log_event(FAILURE, n, self.seed, words)
            return None

    async def _maybe_roll_back(self, n: int, cohort: str) -> Decision | None:
        """Go back to an earlier rubric where the canaries have failed twice in a row."""
        canaries = self._canaries
        failure = await canaries.failing(n, cohort) if canaries is not None else None
        if canaries is None or failure is None:
            return None
        target = canaries.target(cohort)
        if target is None:
            return None
        _log.warning("rolled back to %s: %s", target, failure.reason)
        return roll_back(
            self.store, target, n, failure.reason, cohort, failure.figures, canary_failed=True
        )

    async def _cohort_step(self, n: int, cohort: str, last: int | None) -> Decision | None:
        """Start the meta steps that are due, and decide those whose delay is over."""
        decision = None
        for due in self._due_steps(n, cohort):
            past = self._decided(due, cohort)
            if past is not None:
                decision = past if due == n else decision
                continue
            if last is not None and due + self.evolve.delay > last:
                continue  # it would be paid for, and never decided
            pending = self._start(due, cohort)
            if pending is not None and due + self.evolve.delay <= n:
                decision = await self._decide(due, n, cohort, pending)
        return decision

    def _due_steps(self, n: int, cohort: str) -> list[int]:
        """Updates whose meta step is to be started or decided at update n, in order.

        A resumed run has none pending: it looks back as far as one may have been.
        """
        alarms = self.watch.alarm_steps()
        past = range(max(1, n - self.evolve.delay), n + 1)
        due = [d for d in past if self.schedule.due(d) or d in alarms]
        pending = [d for name, d in self._pending if name == cohort and d <= n]
        return sorted({*due, *pending})

    def _decided(self, due: int, cohort: str) -> Decision | None:
        for past in self.store.lineage(cohort):
            if past.kind == "evolve" and past.due == due:
                return past
        return None

    def _start(self, due: int, cohort: str) -> PendingMetaStep | None:
        """The meta step of an update: pending already, or started now."""
        if (cohort, due) in self._pending:
            return self._pending[cohort, due]
        # The lineage as it was then: a resumed run starts again what was pending, and must not
        # know later decisions.
        lineage = [d for d in self.store.lineage(cohort) if d.step <= due]
        since = max((d.due or 0 for d in lineage if d.kind == "evolve"), default=0)
        hint = self.watch.hint(due)
        snapshot = take_snapshot(self.store, cohort, due=due, since=since, hint=hint)
        if not snapshot.recent and (cohort or len(self.store.heads()) > 1):
            return None  # A cohort without evidence keeps its rubric.
        heads = [d.proposed for d in lineage if d.accepted and d.proposed is not None]
        parent = self.store.rubric(heads[-1])
        meta_step = MetaStep(
            task=self.task,
            chat=self.meta_chat,
            model=self.meta_reward_model,
            reward_model=self.reward_model,
            gate=self.gate,
            scale=self.scale,
            evolve=self.evolve,
            seed=self.seed,
        )
        run = meta_step.run(snapshot, parent, self.store.scale_map(parent.id))
        # A trainer's loop may live only as long as one call, and a meta step outlives several: in
        # the background it runs in the shared loop. Where the caller waits, it needs no other one.
        self._in_background |= self.evolve.delay > 0
        work = submit(run) if self.evolve.delay else run
        pending = PendingMetaStep(snapshot, parent, work, meta_step.result)
        self._pending[cohort, due] = pending
        return pending

    async def _decide(self, due: int, n: int, cohort: str, pending: PendingMetaStep) -> Decision:
        """Turn a result into a decision; wait for the result if it is not there yet."""
        started = time.monotonic()
        try:
            result = await pending.wait()
        except BaseException as error:
            self._give_up(due, cohort, pending, f"ended by {type(error).__name__}")
            raise
        finally:
            self._pending.pop((cohort, due), None)
        waited = time.monotonic() - started
        self.waited_s += waited
        if waited > 0.1:
            _log.info("meta step of update %d: waited %.1f s at update %d", due, waited, n)
        accepted, reason, refinement = result.accepted, result.reason, result.refinement
        proposed = refinement.rubric if refinement is not None else None
        head = self.rubric(cohort)
        if head != pending.parent:
            accepted, reason = False, f"the rubric in effect is no longer {pending.parent.id}"
        rejected = self._canaries.rejected_by_canaries(cohort) if self._canaries is not None else ()
        if accepted and proposed is not None and proposed.id in rejected:
            accepted, reason = False, "canaries have put this very rubric out of effect before"
        decision = Decision(
            step=n,
            due=due,
            cohort=cohort,
            parent=head.id,
            proposed=proposed.id if proposed is not None else None,
            accepted=accepted,
            reason=reason,
            figures=result.figures,
            scale_map=result.scale_map if accepted else None,
            findings=result.findings,
            refinement=refinement,
            usage=result.usage,
            rm_usage=result.rm_usage,
        )
        if result.evidence is not None:
            log_choices(self.store, pending.snapshot, result.evidence, self.seed)
        self.store.decide(decision, proposed)
        if accepted:  # a warning: the objective of the training changes
            _log.warning(
                "new rubric after update %d: %s replaces %s: %s",
                n,
                decision.proposed,
                head.id,
                _one_line(reason),
            )
        return decision

    def rollback(self, rubric_id: str, n: int, reason: str, cohort: str = "") -> Decision:
        """Put an earlier rubric back into effect; see `roll_back`."""
        return roll_back(self.store, rubric_id, n, reason, cohort)

    # ------------------------------------------------------------------ checkpoints

    def snapshot(self, step: int) -> dict[str, Any]:
        """State for a trainer's checkpoint: a small JSON object."""
        return {**self.store.snapshot(step), "monitor": self.watch.to_json()}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue from a checkpoint: later rollouts and decisions are set aside, not deleted.

        A meta step that was pending then is started again, from the same evidence.

        Raises:
            StoreError: The snapshot belongs to another store.
        """
        self._give_up_pending("the run goes back to a checkpoint")
        self.flush()  # what belongs to the branch that is left
        plain = dict(snapshot)
        monitor = plain.pop("monitor", None)
        self.store.restore(plain)
        self.watch.restore(monitor)

    async def aclose(self) -> None:
        """Give up pending meta steps, and close the connections of this loop and the shared one.

        What a meta step has cost so far is stored, as a decision of kind `given_up`.
        """
        self._give_up_pending("the run was stopped")
        await self._close_chats()
        if self._in_background:
            await hand_over(self._close_chats())

    def _give_up_pending(self, reason: str) -> None:
        for (cohort, due), pending in list(self._pending.items()):
            self._give_up(due, cohort, pending, reason)
        self._pending.clear()

    def _give_up(self, due: int, cohort: str, pending: PendingMetaStep, reason: str) -> None:
        """End a meta step, and store what it has cost."""
        result = pending.give_up()
        if not result.usage.calls and not result.rm_usage.calls:
            return
        decision = Decision(
            step=max(due, self._updates),
            due=due,
            cohort=cohort,
            kind="given_up",
            parent=pending.parent.id,
            accepted=False,
            reason=f"given up: {reason}",
            usage=result.usage,
            rm_usage=result.rm_usage,
        )
        try:
            self.store.decide(decision)
        except StoreError as error:  # what ends the run is not hidden by it
            _log.warning("the cost of a meta step that was given up is not stored: %s", error)

    async def _close_chats(self) -> None:
        for chat in dict.fromkeys([self.chat, self.meta_chat, self.second_judge]):
            if chat is not None:
                await chat.aclose()


def _one_line(text: str) -> str:
    """At most 300 printable characters: a reason may quote a model."""
    shown = "".join(c if c.isprintable() else " " for c in text)
    return " ".join(shown.split())[:300]
