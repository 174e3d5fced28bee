"""RewardService: one EvolvingReward for many clients, without any HTTP.

    service = RewardService(reward, run_id="a", settings=ServiceSettings(every_items=640))
    response = await service.score(request)
    await service.aclose()

It belongs to one event loop. What must survive is in the reward's store; what is kept here (who
waits for what, means for fallbacks) may be lost at any moment.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from ..errors import StoreError
from ..evolve.schedule import Every
from ..records import Judgement, Mode, Rollout
from ..reward import EvolvingReward
from .answers import answer
from .fallback import Means
from .flights import Flights, Outcome
from .placing import Placer
from .settings import ServiceSettings
from .steps import Held, MetaSteps
from .versions import Versions
from .wire import (
    Item,
    MetaStepRequest,
    MetaStepResponse,
    Options,
    Refusal,
    RestoreRequest,
    ScoreRequest,
    ScoreResponse,
    SnapshotRequest,
    SnapshotResponse,
    StateResponse,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .metrics import Metrics

__all__ = ["RewardService"]

MAX_IN_FLIGHT = 8192
"""Items that may wait or be judged at once, over all clients."""
MAX_COHORTS = 64
"""A cohort is a rubric and a lineage of its own; a client must not make them by the thousand."""
SETTLE_S = 30.0
"""Longest wait for judgements that a meta step should see, in seconds."""
GENESIS = "genesis"


class RewardService:
    """Scores for many clients.

    Args:
        reward: Made with `max_unscored=1.0`: here nobody but the engine can stop a run, and it is
            told of each unscored item.
        run_id: Name of the run; a request that names another one is refused.
        settings: Deadline, and who drives the meta steps.
        concurrency: Calls that the chat makes at once.
        metrics: Told what happens; may be left out.
        keep: Called after each meta step and in the end, to write down what must be (the ledger).
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        run_id: str = "",
        settings: ServiceSettings | None = None,
        concurrency: int = 64,
        metrics: Metrics | None = None,
        keep: Callable[[], None] | None = None,
    ) -> None:
        self.reward = reward
        self.run_id = run_id
        self.settings = settings if settings is not None else ServiceSettings()
        self.metrics = metrics
        self._keep = keep
        store = reward.store
        every = reward.schedule.k if isinstance(reward.schedule, Every) else 1
        self._placer = Placer(store, every_items=self.settings.every_items, every_steps=every)
        self._means = Means(store)
        self.versions = Versions(store)
        # Twice what the chat does at once: its own limiter shall never want for work, and what
        # waits beyond that waits here, where requests take turns.
        self._flights = Flights(
            reward,
            capacity=max(64, 2 * concurrency),
            max_in_flight=MAX_IN_FLIGHT,
            on_judged=self._judged,
        )
        self._meta = MetaSteps(reward, settled=self._settled, on_held=self._held)
        self._open = asyncio.Event()
        self._open.set()
        self._last_unscored: deque[bool] = deque(maxlen=1000)
        self._stopping: asyncio.Task[None] | None = None
        self._stop_by = 0.0

    # ------------------------------------------------------------------ score

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Score a batch by its deadline.

        Raises:
            Refusal: It is meant for another run or task, or too much is in flight.
            BudgetError: There is no money left for it.
            StoreError: The store cannot be read or written.
        """
        self._mine(request.run_id)
        number, head = self.versions.head()
        results = []
        if request.items:
            outcomes = await self.judge(request.items, request.mode, request.options)
            results = [
                answer(item, outcome, request.options.on_failure, self._means, self.versions)
                for item, outcome in zip(request.items, outcomes, strict=True)
            ]
        if self.metrics is not None:
            self.metrics.answered(request.mode, results)
        return ScoreResponse(
            run_id=self.run_id, rubric_version=number, rubric_id=head, results=results
        )

    async def judge(self, items: Sequence[Item], mode: Mode, options: Options) -> list[Outcome]:
        """What became of each item by the deadline."""
        started = time.monotonic()
        deadline = min(options.deadline_s or self.settings.deadline_s, self.settings.deadline_s)
        self._check(items)
        await self._until_open(deadline)
        rollouts = self._placer.place(items, mode)
        if options.rubric_version is not None:
            self._pin(rollouts, options.rubric_version)
        left = max(0.0, deadline - (time.monotonic() - started))
        outcomes = self._flights.score(rollouts, left)
        if mode == "train" and self.settings.every_items:
            # After the batch is on its way: the meta step waits for it.
            asyncio.get_running_loop().call_soon(self._meta.follow, self._placer.progress)
        return await outcomes

    def _check(self, items: Sequence[Item]) -> None:
        task = self.reward.task
        known = self.reward.store.heads()
        for item in items:
            if item.task and item.task != task.name:
                raise Refusal(409, f"task {item.task!r} is not served here, but {task.name!r}")
            if item.cohort and task.spec.cohorts is None:
                raise Refusal(422, f"task {task.name!r} has no cohorts: leave out `cohort`")
            if item.cohort not in known:
                if len(known) >= MAX_COHORTS:
                    raise Refusal(422, f"there are {MAX_COHORTS} cohorts already, and no more")
                known[item.cohort] = ""

    def _pin(self, rollouts: Sequence[Rollout], version: int) -> None:
        """Pin groups to an earlier rubric, before they get the one in force."""
        for rollout in rollouts:
            try:
                wanted = self.versions.id(version, rollout.cohort)
            except StoreError as error:
                raise Refusal(404, str(error)) from None
            place = (rollout.cohort, rollout.group, rollout.step)
            pinned = self.reward.store.pin({place: wanted})[place]
            if pinned != wanted:
                raise Refusal(
                    409,
                    f"group {rollout.group!r} of step {rollout.step} is scored under rubric "
                    f"{pinned}, not {wanted}: completions of one group get one rubric",
                )

    # ------------------------------------------------------------------ meta steps

    async def meta_step(self, request: MetaStepRequest) -> MetaStepResponse:
        """Hold a meta step if one is due; the same answer however often it is asked for.

        Raises:
            Refusal: It is meant for another run, or a later one was held already.
            BudgetError: There is no money left for it.
        """
        self._mine(request.run_id)
        await self._until_open(self.settings.deadline_s)
        held = await self._meta.hold(request.step)
        self._placer.reached(request.step)
        number, head = self.versions.head()
        return MetaStepResponse(
            run_id=self.run_id,
            step=request.step,
            due=held.due,
            changed=held.changed,
            rubric_version=number,
            rubric_id=head,
            reasons=[decision.reason for decision in held.decisions],
        )

    async def _settled(self, n: int) -> None:
        await self._flights.settled(n, min(SETTLE_S, self.settings.deadline_s))

    def _held(self, n: int, held: Held) -> None:
        self.versions.reset()
        if self._keep is not None:
            self._keep()
        if self.metrics is not None:
            self.metrics.held(held)

    def _judged(self, rollout: Rollout, judgement: Judgement) -> None:
        self._means.add(rollout, judgement)
        self._last_unscored.append(judgement.reward is None)
        if self.metrics is not None:
            self.metrics.judged(rollout, judgement)

    # ------------------------------------------------------------------ how it stands

    def state(self, run_id: str = "") -> StateResponse:
        """How the run stands. It counts in the store: call it from any thread."""
        self._mine(run_id)
        number, head = self.versions.head()
        store = self.reward.store
        after = self._meta.decided - 1 if self._meta.decided else None
        return StateResponse(
            run_id=self.run_id,
            task=self.reward.task.name,
            rubric_version=number,
            rubric_id=head,
            heads=store.heads(),
            step=self.step,
            scored=store.count(cohort=None),
            unscored=store.count(cohort=None, scored=False),
            since_meta=store.count(after_step=after, cohort=None, scored=None),
            in_flight=self.in_flight,
            meta_step=self._meta.running,
        )

    @property
    def in_flight(self) -> int:
        """Items that wait or are being judged."""
        return self._flights.in_flight

    @property
    def step(self) -> int:
        """The latest trainer step that is known."""
        return self._placer.clock

    @property
    def joined(self) -> int:
        """Items that were in flight already when they came."""
        return self._flights.joined

    @property
    def unscored_share(self) -> float:
        """Of the last 1000 judgements, 0 to 1."""
        last = self._last_unscored
        return sum(last) / len(last) if last else 0.0

    # ------------------------------------------------------------------ checkpoints

    async def snapshot(self, request: SnapshotRequest) -> SnapshotResponse:
        """Note where the store stands, under a tag. A tag that is used again means the new place.

        Raises:
            Refusal: It is meant for another run, or the tag is taken.
        """
        self._mine(request.run_id)
        if request.tag == GENESIS:
            raise Refusal(409, f"tag {GENESIS!r} is where the run began, and cannot be moved")
        # What is in flight may land behind it: after a restore it is set aside, and not paid again.
        snapshot = self.reward.snapshot(request.step)
        self.reward.store.set_meta(f"snapshot:{request.tag}", json.dumps(snapshot))
        number, head = self.versions.head()
        return SnapshotResponse(
            run_id=self.run_id,
            tag=request.tag,
            snapshot=snapshot,
            rubric_version=number,
            rubric_id=head,
        )

    async def restore(self, request: RestoreRequest) -> StateResponse:
        """Go back to a snapshot. What came after is set aside, not deleted.

        Raises:
            Refusal: It is meant for another run; there is no such snapshot; or what is in flight
                does not come to an end.
        """
        self._mine(request.run_id)
        snapshot = self._snapshot_of(request)
        async with self._still():
            try:
                self.reward.restore(snapshot)
            except StoreError as error:
                raise Refusal(409, str(error)) from error
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise Refusal(422, f"that is no snapshot of a run: {error!r}") from error
            self.versions.reset()
            self._meta.reset()
            self._means.reset()
            self._placer.reset()
        return self.state()

    def _snapshot_of(self, request: RestoreRequest) -> Mapping[str, Any]:
        if (request.tag is None) == (request.snapshot is None):
            raise Refusal(422, "say where to go back to: `tag` or `snapshot`, one of them")
        if request.snapshot is not None:
            return request.snapshot
        if request.tag == GENESIS:
            return self.reward.store.genesis()
        kept = self.reward.store.meta(f"snapshot:{request.tag}")
        if kept is None:
            raise Refusal(404, f"there is no snapshot {request.tag!r}")
        found: Mapping[str, Any] = json.loads(kept)
        return found

    @asynccontextmanager
    async def _still(self) -> AsyncIterator[None]:
        """Let nothing new in, and wait until what is in flight has landed."""
        await self._until_open(self.settings.deadline_s)
        self._open.clear()
        try:
            limit = self.settings.deadline_s
            if not (await self._meta.idle(limit) and await self._flights.landed(limit)):
                raise Refusal(
                    409, f"{self._flights.in_flight} items are still being judged: try again"
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
            raise Refusal(429, "a restore is under way: try again") from None

    # ------------------------------------------------------------------ the end

    def stop(self, timeout_s: float) -> None:
        """Give up in so many seconds what is in flight then, so that clients get their answers
        before the connections are closed. `aclose` counts from here too."""
        if self._stopping is None:
            self._stop_by = time.monotonic() + timeout_s
            self._stopping = asyncio.create_task(self._flights.drain(timeout_s))

    async def aclose(self, timeout_s: float = 30.0) -> None:
        """Finish what is in flight, for so long; then close connections and store."""
        self.stop(timeout_s)
        assert self._stopping is not None
        await self._stopping
        await self._flights.drain(1.0)  # what came in meanwhile
        await self._meta.aclose(max(1.0, self._stop_by - time.monotonic()))
        await self.reward.aclose()
        if self._keep is not None:
            self._keep()
        self.reward.store.close()

    def _mine(self, run_id: str) -> None:
        if run_id and self.run_id and run_id != self.run_id:
            raise Refusal(409, f"run {run_id!r} is not served here, but {self.run_id!r}")
