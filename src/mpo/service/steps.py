"""Meta steps for many clients: one holds it, the others wait, and scoring goes on meanwhile.

They run in a thread with an event loop of its own. The old rubric is in force until the store has
committed the decision; from then on new groups get the new one.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from ..errors import MPOError
from ..records import Decision
from ..reward import EvolvingReward
from .wire import Refusal

__all__ = ["Held", "MetaSteps"]

_log = logging.getLogger(__name__)

_FAR = 1000
"""Most updates that are made up for after a jump of the clock."""


@dataclass(frozen=True)
class Held:
    """What was decided after an update."""

    due: bool
    decisions: tuple[Decision, ...] = ()
    """One per cohort that had evidence."""

    @property
    def changed(self) -> bool:
        """Whether a rubric changed."""
        return any(decision.accepted for decision in self.decisions)


class MetaSteps:
    """Calls `EvolvingReward.step` after each update, one at a time and in order.

    Args:
        reward: Its `step` is called in another thread.
        settled: Awaited before a meta step that is due: judgements that it should see.
        on_held: Called after each update that brought a decision.

    Attributes:
        last: The latest update that was dealt with.
        running: The update whose meta step is being held.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        settled: Callable[[int], Awaitable[None]],
        on_held: Callable[[int, Held], None],
    ) -> None:
        self._reward = reward
        self._settled = settled
        self._on_held = on_held
        self._tasks: dict[int, asyncio.Task[Held]] = {}
        self._follower: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.running: int | None = None
        self.reset()

    def reset(self) -> None:
        """Read from the store what was decided; after a start or a restore."""
        self.last = self._clock = self.decided
        self._done: set[int] = set()

    @property
    def decided(self) -> int:
        """The latest update after which a meta step was decided; 0 for none."""
        return max((d.step for d in self._evolved()), default=0)

    async def hold(self, n: int) -> Held:
        """What is decided after the n-th update: now, or before, or by somebody else just now.

        Raises:
            Refusal: It was due, was not decided, and a later one was.
            MPOError: What stops a run: the budget is spent, the store is broken.
        """
        task = self._tasks.get(n)
        if task is None:
            task = self._tasks[n] = asyncio.create_task(self._hold(n))
            task.add_done_callback(lambda _: self._tasks.pop(n, None))
        return await asyncio.shield(task)

    def follow(self, clock: int) -> None:
        """Deal in the background with all updates up to this one that nobody has dealt with."""
        self._clock = max(clock, self._clock)
        if self._clock > self.last and (self._follower is None or self._follower.done()):
            self._follower = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        # Each in its turn: monitors look at every update. A jump of the clock has none between.
        while self.last < self._clock:
            n = max(self.last + 1, self._clock - _FAR)
            try:
                await self.hold(n)
            except MPOError as error:
                _log.error("the meta step of update %d could not be held: %s", n, error)
            self.last = max(self.last, n)  # where it failed, the next one is tried in its turn

    async def idle(self, timeout_s: float) -> bool:
        """Wait until none is being held; False where one still is after the time."""
        tasks = self._under_way()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)
        return not self._under_way()

    async def aclose(self, timeout_s: float) -> None:
        """Wait for the one that is being held, but not for ever."""
        await self.idle(timeout_s)
        for task in self._under_way():
            task.cancel()
        if self._loop is not None:
            try:
                await asyncio.wait_for(self._elsewhere(self._reward.aclose()), timeout=5)
            except (TimeoutError, MPOError):
                _log.warning("connections of the meta steps could not be closed in time")
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._loop = None

    # ------------------------------------------------------------------ within

    def _under_way(self) -> list[asyncio.Task[Any]]:
        follower = [self._follower] if self._follower and not self._follower.done() else []
        return [*self._tasks.values(), *follower]

    async def _hold(self, n: int) -> Held:
        async with self._lock:
            due = self._reward.schedule.due(n)
            if n not in self._done and n >= self.decided:
                await self._now(n, due)
            decisions = tuple(d for d in self._evolved() if d.step == n)
            if due and n < self.decided and not any(d.due == n for d in self._evolved()):
                raise Refusal(
                    409,
                    f"the meta step of step {self.decided} was held already, and {n} comes before "
                    "it: restore a snapshot to go back",
                )
            return Held(due or bool(decisions), decisions)

    async def _now(self, n: int, due: bool) -> None:
        # Also where the store has a decision: a kill may have come between two cohorts, and
        # `step` repeats none that was decided.
        before = len(self._evolved())
        if due:
            await self._settled(n)
            self.running = n
        try:
            await self._elsewhere(self._step(n))
        finally:
            self.running = None
        self._done.add(n)
        self.last = max(self.last, n)
        decisions = tuple(self._evolved()[before:])
        if decisions:
            self._on_held(n, Held(due, decisions))

    async def _step(self, n: int) -> None:
        await self._reward.step(n)

    def _evolved(self) -> list[Decision]:
        return [d for d in self._reward.store.lineage() if d.kind == "evolve"]

    async def _elsewhere(self, work: Coroutine[Any, Any, None]) -> None:
        """Run in the other thread. A daemon: a model that hangs must not hold up the end."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            threading.Thread(
                target=_run_loop, args=(self._loop,), name="mpo-meta-steps", daemon=True
            ).start()
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.close()
