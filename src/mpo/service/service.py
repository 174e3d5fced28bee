"""RewardService: one EvolvingReward for many clients, without any HTTP.

    service = RewardService(reward, run_id="a", settings=ServiceSettings(every_items=640))
    response = await service.score(request)
    await service.aclose()

It belongs to one event loop. All that must survive is in the reward's store; the state in memory
(items in flight, means for fallbacks) may be lost at any moment.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from ..errors import StoreError, StoreFileError
from ..evolve.schedule import Every
from ..records import Judgement, Mode, Rollout, to_json
from ..reward import EvolvingReward
from .health import Health
from .in_flight import InFlight, Outcome
from .items import FallbackRewards, RolloutAssigner, item_result
from .metrics import Metrics, ServiceStats
from .rubric_history import RubricHistory
from .steps import StepDecisions, StepQueue
from .wire import (
    InvalidItem,
    Item,
    MetaStepRequest,
    MetaStepResponse,
    Refusal,
    RestoreRequest,
    ScoreOptions,
    ScoreRequest,
    ScoreResponse,
    SnapshotRequest,
    SnapshotResponse,
    StateResponse,
)

__all__ = ["RewardService", "ServiceSettings"]

_log = logging.getLogger(__name__)

MAX_IN_FLIGHT = 8192
"""Largest number of items that may wait or be judged at once, over all clients."""
MAX_COHORTS = 64
"""A cohort is a rubric and a lineage of its own; a client must not create them by the thousand."""
SETTLE_S = 30.0
"""Longest wait for judgements that a meta step should see, in seconds."""
GENESIS = "genesis"


class ServiceSettings(BaseModel):
    """The reward over HTTP (`mpo serve`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every_items: int | None = Field(default=None, ge=1)
    """Training items between meta steps, for engines that cannot ask for them: the service then
    runs them itself. None leaves it to the engine (`POST /v1/meta_step`)."""
    deadline_s: float = Field(default=120.0, gt=0, le=3600)
    """Longest time until a response, in seconds. Stay below the engine's own time-out (OpenRLHF:
    180 s). Items that are still pending then are returned as unscored, and a retry returns the
    finished judgement."""


class RewardService:
    """Scores for many clients.

    Args:
        reward: Made with `max_unscored=1.0`: only the engine can stop its run, and it sees each
            unscored item.
        run_id: Name of the run; a request that names another one is refused.
        settings: Deadline, and how meta steps are started.
        concurrency: Number of calls that the chat makes at once.
        save: Called after each meta step and at the end, to save state outside the store (the
            ledger).
        health: Watches the store and the models; made for the store alone if None.

    Raises:
        MissingExtraError: `prometheus-client` is not installed.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        run_id: str = "",
        settings: ServiceSettings | None = None,
        concurrency: int = 64,
        save: Callable[[], None] = lambda: None,
        health: Health | None = None,
    ) -> None:
        self.reward = reward
        self.run_id = run_id
        self.settings = settings if settings is not None else ServiceSettings()
        self.metrics = Metrics()
        self.rubrics = RubricHistory(reward.store)
        self.health = health if health is not None else Health(reward)
        self._save = save
        every = reward.schedule.k if isinstance(reward.schedule, Every) else 1
        self._assigner = RolloutAssigner(
            reward.store, every_items=self.settings.every_items, every_steps=every
        )
        self._fallbacks = FallbackRewards(reward.store)
        # Twice what the chat does at once, so that its own limiter never runs dry; all else waits
        # here, where requests take turns.
        self._in_flight = InFlight(
            reward,
            health=self.health,
            capacity=max(64, 2 * concurrency),
            max_items=MAX_IN_FLIGHT,
            on_judged=self._on_judged,
        )
        self._meta_steps = StepQueue(
            reward, before_step=self._before_step, on_decided=self._on_decided
        )
        self._open = asyncio.Event()
        self._open.set()
        self._last_unscored: deque[bool] = deque(maxlen=1000)
        self._stopping: asyncio.Task[None] | None = None
        self._stop_by = 0.0

    # ------------------------------------------------------------------ score

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Score a batch by its deadline.

        Raises:
            Refusal: It is meant for another run or task, or too many items are in flight.
            BudgetError: The budget is spent.
            StoreFileError: The store cannot be written: nothing is asked until it can.
        """
        self._check_run(request.run_id)
        self.health.check_store()
        effective = self._effective()
        results = []
        if request.items:
            outcomes = await self._outcomes(request.items, request.mode, request.options)
            on_failure = request.options.on_failure
            results = [
                item_result(item, outcome, on_failure, self._fallbacks, self.rubrics)
                for item, outcome in zip(request.items, outcomes, strict=True)
            ]
        self.metrics.add_results(request.mode, results)
        return ScoreResponse(**effective, results=results)

    async def _outcomes(
        self, items: Sequence[Item | InvalidItem], mode: Mode, options: ScoreOptions
    ) -> list[Outcome]:
        """The outcome of each item, in order; that of an invalid one is its reason."""
        valid = [item for item in items if isinstance(item, Item)]
        judged = iter(await self._judge(valid, mode, options) if valid else ())
        return [
            next(judged)
            if isinstance(item, Item)
            else Outcome(None, error=f"invalid: {item.reason}")
            for item in items
        ]

    async def _judge(
        self, items: Sequence[Item], mode: Mode, options: ScoreOptions
    ) -> list[Outcome]:
        started = time.monotonic()
        deadline = min(options.deadline_s or self.settings.deadline_s, self.settings.deadline_s)
        self._check_items(items)
        await self._until_open(deadline)
        rollouts = self._assigner.assign(items, mode)
        if options.rubric_version is not None:
            self._pin(rollouts, options.rubric_version)
        left = max(0.0, deadline - (time.monotonic() - started))
        outcomes = self._in_flight.score(rollouts, left)
        if mode == "train" and self.settings.every_items:
            # Once the batch is submitted: the meta step waits for it.
            asyncio.get_running_loop().call_soon(self._meta_steps.follow, self._assigner.progress)
        return await outcomes

    def _check_run(self, run_id: str) -> None:
        if run_id and self.run_id and run_id != self.run_id:
            raise Refusal(409, f"this service serves run {self.run_id!r}, not {run_id!r}")

    def _check_items(self, items: Sequence[Item]) -> None:
        task = self.reward.task
        known = self.reward.store.heads()
        for item in items:
            if item.task and item.task != task.name:
                raise Refusal(409, f"this service serves task {task.name!r}, not {item.task!r}")
            if item.cohort and task.spec.cohorts is None:
                raise Refusal(422, f"task {task.name!r} has no cohorts: leave out `cohort`")
            if item.cohort not in known:
                if len(known) >= MAX_COHORTS:
                    raise Refusal(422, f"the run has {MAX_COHORTS} cohorts, which is the most")
                known[item.cohort] = ""

    def _pin(self, rollouts: Sequence[Rollout], version: int) -> None:
        """Pin groups to an earlier rubric, before they get the one in effect."""
        for rollout in rollouts:
            wanted = self.rubrics.id(version, rollout.cohort)
            place = (rollout.cohort, rollout.group, rollout.step)
            pinned = self.reward.store.pin({place: wanted})[place]
            if pinned != wanted:
                raise Refusal(
                    409,
                    f"group {rollout.group!r} of step {rollout.step} is scored under rubric "
                    f"{pinned}, not {wanted}: completions of one group get one rubric",
                )

    def _on_judged(self, rollout: Rollout, judgement: Judgement) -> None:
        self._fallbacks.add(rollout, judgement)
        self._last_unscored.append(judgement.reward is None)
        self.health.note_judgement(judgement)
        self.metrics.add_judgement(judgement)

    # ------------------------------------------------------------------ meta steps

    async def meta_step(self, request: MetaStepRequest) -> MetaStepResponse:
        """Run a meta step if one is due. Repeated requests get the same response.

        Raises:
            Refusal: It is meant for another run, or a later one is already decided.
            BudgetError: The budget is spent.
            StoreFileError: The store cannot be written.
        """
        self._check_run(request.run_id)
        await self._until_open(self.settings.deadline_s)
        try:
            result = await self._meta_steps.step(request.step)
        except StoreFileError as error:
            self.health.note_fault(error)
            raise
        self._assigner.advance_to(request.step)
        return MetaStepResponse(
            **self._effective(),
            step=request.step,
            due=result.due,
            changed=result.changed,
            reasons=[decision.reason for decision in result.decisions],
        )

    async def _before_step(self, n: int) -> None:
        self.health.check_store()
        timeout_s = min(SETTLE_S, self.settings.deadline_s)
        await self._in_flight.wait_for_steps_below(n, timeout_s)

    def _on_decided(self, result: StepDecisions) -> None:
        self.rubrics.reset()
        self._save()
        self.metrics.add_decisions(result)

    # ------------------------------------------------------------------ state

    def state(self, run_id: str = "") -> StateResponse:
        """State of the run. It counts rows of the store; call it from any thread."""
        self._check_run(run_id)
        store = self.reward.store
        decided = self._meta_steps.decided
        after = decided - 1 if decided else None
        return StateResponse(
            **self._effective(),
            task=self.reward.task.name,
            heads=store.heads(),
            step=self._assigner.clock,
            scored=store.count(cohort=None),
            unscored=store.count(cohort=None, scored=False),
            since_meta=store.count(after_step=after, cohort=None, scored=None),
            in_flight=len(self._in_flight),
            meta_step=self._meta_steps.running,
        )

    def stats(self) -> ServiceStats:
        """State of the service, without reading the store."""
        last = self._last_unscored
        return ServiceStats(
            in_flight=len(self._in_flight),
            unscored_ratio=sum(last) / len(last) if last else 0.0,
            rubric_version=self.rubrics.head()[0],
            step=self._assigner.clock,
            joined=self._in_flight.joined,
        )

    def render_metrics(self) -> bytes:
        """All metrics as text. It looks again at what was faulty: call it from a thread."""
        problems = self.health.problems()
        try:
            usage = self.reward.store.usage()
        except StoreError:
            usage = {}  # the store's alarm says it; the other metrics are needed all the more
        return self.metrics.render(self.stats(), usage, problems)

    def _effective(self) -> dict[str, Any]:
        """The run and its rubric in effect: the fields that every response has."""
        version, rubric = self.rubrics.head()
        return {"run_id": self.run_id, "rubric_version": version, "rubric_id": rubric}

    # ------------------------------------------------------------------ checkpoints

    async def snapshot(self, request: SnapshotRequest) -> SnapshotResponse:
        """Store the run's position under a tag. A tag that is used again moves.

        Raises:
            Refusal: It is meant for another run, or the tag is reserved.
        """
        self._check_run(request.run_id)
        if request.tag == GENESIS:
            raise Refusal(409, f"tag {GENESIS!r} is the start of the run: choose another")
        # Items in flight may be committed behind it: a restore sets them aside, but their
        # judgements stay paid for.
        snapshot = self.reward.snapshot(request.step)
        self.reward.store.set_meta(f"snapshot:{request.tag}", to_json(snapshot))
        return SnapshotResponse(**self._effective(), tag=request.tag, snapshot=snapshot)

    async def restore(self, request: RestoreRequest) -> StateResponse:
        """Go back to a snapshot. Later records are set aside, not deleted.

        Raises:
            Refusal: It is meant for another run; there is no such snapshot; or items are still in
                flight after the deadline.
        """
        self._check_run(request.run_id)
        snapshot = self._find_snapshot(request)
        async with self._paused():
            try:
                self.reward.restore(snapshot)
            except StoreError as error:
                raise Refusal(409, str(error)) from error
            except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
                raise Refusal(422, f"this is no snapshot of a run: {error!r}") from error
            for part in (self.rubrics, self._meta_steps, self._fallbacks, self._assigner):
                part.reset()
        return self.state()

    def _find_snapshot(self, request: RestoreRequest) -> Mapping[str, Any]:
        if (request.tag is None) == (request.snapshot is None):
            raise Refusal(422, "send either `tag` or `snapshot`: the position to go back to")
        if request.snapshot is not None:
            return request.snapshot
        if request.tag == GENESIS:
            return self.reward.store.genesis()
        text = self.reward.store.meta(f"snapshot:{request.tag}")
        if text is None:
            raise Refusal(404, f"there is no snapshot {request.tag!r}")
        snapshot: Mapping[str, Any] = json.loads(text)
        return snapshot

    @asynccontextmanager
    async def _paused(self) -> AsyncIterator[None]:
        """Hold back new requests, and wait until nothing is in flight."""
        limit = self.settings.deadline_s
        await self._until_open(limit)
        self._open.clear()
        try:
            if not (
                await self._meta_steps.wait_until_idle(limit)
                and await self._in_flight.wait_until_empty(limit)
            ):
                raise Refusal(
                    409, f"{len(self._in_flight)} items are still being judged: try again"
                )
            yield
        finally:
            self._open.set()

    async def _until_open(self, timeout_s: float) -> None:
        if self._open.is_set():
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._open.wait()
        except TimeoutError:
            raise Refusal(429, "a restore is running: try again") from None

    # ------------------------------------------------------------------ the end

    def stop(self, timeout_s: float) -> None:
        """End what is still in flight after `timeout_s`, so that clients get their responses
        before the connections are closed. The time of `aclose` counts from here too."""
        if self._stopping is None:
            self._stop_by = time.monotonic() + timeout_s
            self._stopping = asyncio.create_task(self._in_flight.close(timeout_s))

    async def aclose(self, timeout_s: float = 30.0) -> None:
        """Finish what is in flight, at most `timeout_s`; then close connections and store."""
        self.stop(timeout_s)
        assert self._stopping is not None
        await self._stopping
        await self._in_flight.close(1.0)  # requests that arrived meanwhile
        await self._meta_steps.aclose(max(1.0, self._stop_by - time.monotonic()))
        await self.reward.aclose()
        try:
            self.reward.flush()
            self._save()
        except StoreFileError as error:
            _log.error("what waited for the store is lost, and will be paid for again: %s", error)
        self.reward.store.close()
