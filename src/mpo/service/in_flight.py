"""Items in flight: each is judged once for all clients, and no request waits past its deadline.

A call belongs to the service, not to the request that caused it. A client that disconnects, or
whose deadline passes, cancels nothing: the judgement is committed, and a retry returns it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from ..errors import BudgetError, MPOError, StoreError, StoreFileError
from ..judge import judge_identity
from ..records import Judgement, Rollout
from ..reward import EvolvingReward
from .health import Health
from .wire import Refusal

__all__ = ["InFlight", "Outcome"]

_log = logging.getLogger(__name__)

_LOG_EVERY_S = 10.0
_CHUNK = 32
"""Largest number of rollouts of one request that are judged in one turn."""


@dataclass(frozen=True)
class Outcome:
    """State of a rollout at the deadline."""

    rollout: Rollout | None
    """None for an item that is invalid."""
    judgement: Judgement | None = None
    """None if there is no judgement yet, or there never will be."""
    late: bool = False
    """True if it is still being judged."""
    error: str | None = None
    """Reason why it is unscored."""


class InFlight:
    """Scores rollouts, each once.

    Args:
        reward: Scores and commits.
        health: Says whether the store can be written; nothing is asked while it cannot.
        capacity: Number of rollouts that may be with the reward model at once, at least 32.
        max_items: Number of rollouts that may wait or be judged; more are refused.
        on_judged: Called with each new judgement.

    Attributes:
        joined: Number of rollouts that were already in flight when they arrived.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        health: Health,
        capacity: int,
        max_items: int,
        on_judged: Callable[[Rollout, Judgement], None],
    ) -> None:
        self._reward = reward
        self._health = health
        self._on_judged = on_judged
        self._max_items = max_items
        # An error is a value here: there may be nobody left who awaits the future.
        self._pending: dict[str, tuple[Rollout, asyncio.Future[Judgement | MPOError]]] = {}
        self._queue = FairQueue(self._judge, capacity)
        self.joined = 0
        self._failures = 0
        self._logged = -_LOG_EVERY_S

    def __len__(self) -> int:
        return len(self._pending)

    async def score(self, rollouts: Sequence[Rollout], deadline_s: float) -> list[Outcome]:
        """The outcome of each rollout within the deadline, in order.

        Raises:
            Refusal: Too many rollouts are in flight.
            BudgetError: The budget is spent.
            StoreFileError: The store cannot be written.
        """
        futures = self._submit(rollouts)
        await asyncio.wait(set(futures.values()), timeout=deadline_s)
        return [self._outcome(rollout, futures[rollout.id]) for rollout in rollouts]

    async def wait_for_steps_below(self, step: int, timeout_s: float) -> None:
        """Wait until all training rollouts of earlier steps are judged, at most `timeout_s`."""
        earlier = [f for r, f in self._pending.values() if r.step < step and r.mode == "train"]
        if earlier:
            await asyncio.wait(earlier, timeout=timeout_s)

    async def wait_until_empty(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False if something still is after `timeout_s`."""
        if self._pending:
            await asyncio.wait([f for _, f in self._pending.values()], timeout=timeout_s)
        return not self._pending

    async def close(self, timeout_s: float) -> None:
        """Finish what is in flight; what takes longer than `timeout_s` ends as unscored."""
        await self._queue.close(timeout_s)
        for rollout, _ in list(self._pending.values()):
            self._resolve(rollout, _stopped())

    def _submit(
        self, rollouts: Sequence[Rollout]
    ) -> dict[str, asyncio.Future[Judgement | MPOError]]:
        """The future of each rollout, by id; new ones are queued."""
        new = [r for r in {r.id: r for r in rollouts}.values() if r.id not in self._pending]
        if len(self._pending) + len(new) > self._max_items:
            raise Refusal(
                429, f"{len(self._pending)} items are already in flight: try again in a moment"
            )
        self.joined += len(rollouts) - len(new)
        loop = asyncio.get_running_loop()
        self._pending |= {r.id: (r, loop.create_future()) for r in new}
        futures = {r.id: self._pending[r.id][1] for r in rollouts}
        self._queue.put(new)
        return futures

    async def _judge(self, rollouts: Sequence[Rollout]) -> None:
        results: dict[str, Judgement | MPOError] = {}
        try:
            self._health.check_store()  # they may have waited long
            judgements = await self._reward.score(rollouts)
            results = {r.id: j for r, j in zip(rollouts, judgements, strict=True)}
        except Exception as error:
            # One rollout stopped the batch; others may have been committed all the same.
            known = error if isinstance(error, MPOError) else MPOError(f"failed: {error!r}")
            if known is not error:
                self._log_failure(len(rollouts))
            if isinstance(error, StoreFileError):
                self._health.note_fault(error)
            results = {r.id: self._committed(r) or known for r in rollouts}
        finally:
            # On cancellation too: nobody may wait for a result that never comes.
            for rollout in rollouts:
                self._resolve(rollout, results.get(rollout.id) or _stopped())

    def _log_failure(self, n: int) -> None:
        """Log an error that nobody expected, but not for each of a thousand batches."""
        self._failures += 1
        if time.monotonic() > self._logged + _LOG_EVERY_S:
            self._logged = time.monotonic()
            _log.exception("a batch of %d could not be scored (failure %d)", n, self._failures)

    def _resolve(self, rollout: Rollout, result: Judgement | MPOError) -> None:
        if rollout.id not in self._pending:
            return  # `close` has ended it
        _, future = self._pending.pop(rollout.id)
        if isinstance(result, Judgement):
            self._on_judged(rollout, result)
        if not future.done():
            future.set_result(result)

    def _committed(self, rollout: Rollout) -> Judgement | None:
        """This judge's last judgement in the store that gives a reward, else its last one."""
        try:
            every = self._reward.store.judgements_of(rollout.id)
        except StoreError:
            return None
        mine = judge_identity(self._reward.reward_model)
        stored = [judgement for judgement in every if judgement.answered_by == mine]
        scored = [judgement for judgement in stored if judgement.reward is not None]
        return scored[-1] if scored else stored[-1] if stored else None

    def _outcome(self, rollout: Rollout, future: asyncio.Future[Judgement | MPOError]) -> Outcome:
        if not future.done():
            # Others of its chunk may be slow, while its own judgement is committed.
            judgement = self._committed(rollout)
            if judgement is not None and judgement.reward is not None:
                return Outcome(rollout, judgement)
            return Outcome(rollout, late=True, error="late: not judged within the deadline")
        result = future.result()
        if isinstance(result, Judgement):
            return Outcome(rollout, result, error=result.unscored)
        if isinstance(result, BudgetError | StoreFileError):
            raise result
        return Outcome(rollout, error=str(result))


class FairQueue:
    """Judges chunks of rollouts, in turns between requests, so that a large one delays no other.

    Args:
        judge: Judges one chunk. It must not raise.
        capacity: Number of rollouts that may be judged at once, at least 32.
    """

    def __init__(
        self, judge: Callable[[Sequence[Rollout]], Awaitable[None]], capacity: int
    ) -> None:
        self._judge = judge
        self._free = capacity
        self._waiting: OrderedDict[int, deque[Sequence[Rollout]]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = 0

    def put(self, rollouts: Sequence[Rollout]) -> None:
        """Queue the rollouts of one request."""
        if rollouts:
            self._requests += 1
            self._waiting[self._requests] = deque(
                rollouts[i : i + _CHUNK] for i in range(0, len(rollouts), _CHUNK)
            )
            self._start()

    async def close(self, timeout_s: float) -> None:
        """Wait until all work is done; cancel what is not done after `timeout_s`."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._tasks and (left := deadline - asyncio.get_running_loop().time()) > 0:
            await asyncio.wait(self._tasks, timeout=left)
        self._waiting.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _start(self) -> None:
        while self._waiting:
            request, chunks = next(iter(self._waiting.items()))
            if len(chunks[0]) > self._free:
                return  # it keeps its place: otherwise small requests would starve a large one
            chunk = chunks.popleft()
            if chunks:
                self._waiting.move_to_end(request)
            else:
                del self._waiting[request]
            self._free -= len(chunk)
            task = asyncio.get_running_loop().create_task(self._work(chunk))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, chunk: Sequence[Rollout]) -> None:
        try:
            await self._judge(chunk)
        finally:
            self._free += len(chunk)
            self._start()


def _stopped() -> MPOError:
    return MPOError("stopped: the service is shutting down")
