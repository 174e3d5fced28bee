"""Meta steps for many clients: one runs, all who ask wait for it, and scoring goes on meanwhile.

They run in the package's shared event loop, in another thread than the requests. The old rubric is
in effect until the store has committed the decision; from then on new groups get the new one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ..chat.event_loop import hand_over
from ..errors import MPOError, StoreFileError
from ..records import Decision
from ..reward import EvolvingReward
from .wire import Refusal

__all__ = ["StepDecisions", "StepQueue"]

_log = logging.getLogger(__name__)

_LONGEST_JUMP = 1000
"""Most updates that are caught up on after a jump of the clock."""
_CLOSE_S = 5.0


@dataclass(frozen=True)
class StepDecisions:
    """Decisions after one update."""

    due: bool
    decisions: tuple[Decision, ...] = ()
    """One per cohort that had evidence."""

    @property
    def changed(self) -> bool:
        """True if a rubric changed."""
        return any(decision.accepted for decision in self.decisions)


class StepQueue:
    """Calls `EvolvingReward.step` after each update, one at a time and in order.

    Args:
        reward: Its `step` is called in the shared event loop.
        before_step: Awaited before a meta step that is due, for judgements that it should see. An
            error that it raises is the step's.
        on_decided: Called after each update that brought a decision.

    Attributes:
        last: Latest update that was dealt with.
        running: Update whose meta step is running now.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        before_step: Callable[[int], Awaitable[None]],
        on_decided: Callable[[StepDecisions], None],
    ) -> None:
        self._reward = reward
        self._before_step = before_step
        self._on_decided = on_decided
        self._tasks: dict[int, asyncio.Task[StepDecisions]] = {}
        self._follower: asyncio.Task[None] | None = None
        self._lock = asyncio.Lock()
        self.running: int | None = None
        self.reset()

    def reset(self) -> None:
        """Read from the store what was decided, after a start or a restore."""
        self.last = self._clock = self.decided
        self._done: set[int] = set()

    @property
    def decided(self) -> int:
        """Latest update after which a meta step was decided; 0 if there is none."""
        return max((d.step for d in self._evolved()), default=0)

    async def step(self, n: int) -> StepDecisions:
        """Decisions after the n-th update, made now or before.

        Raises:
            Refusal: It was due but never decided, and a later one was.
            MPOError: The run cannot go on: the budget is spent, or the store cannot be written.
        """
        task = self._tasks.get(n)
        if task is None:
            task = self._tasks[n] = asyncio.create_task(self._step(n))
            task.add_done_callback(lambda _: self._tasks.pop(n, None))
        return await asyncio.shield(task)

    def follow(self, clock: int) -> None:
        """Run, in the background, the steps of all updates up to `clock` that are not done yet."""
        self._clock = max(clock, self._clock)
        if self._clock > self.last and (self._follower is None or self._follower.done()):
            self._follower = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        # One by one: monitors look at every update. A jump of the clock skips those between.
        while self.last < self._clock:
            n = max(self.last + 1, self._clock - _LONGEST_JUMP)
            try:
                await self.step(n)
            except StoreFileError:
                return  # the next items that are taken bring it up again
            except MPOError as error:
                _log.error("the meta step of update %d failed: %s", n, error)
            self.last = max(self.last, n)  # after a failure the next one gets its turn

    async def wait_until_idle(self, timeout_s: float) -> bool:
        """Wait until no meta step is running; False if one still is after `timeout_s`."""
        if tasks := self._unfinished():
            await asyncio.wait(tasks, timeout=timeout_s)
        return not self._unfinished()

    async def aclose(self, timeout_s: float) -> None:
        """Wait for the running meta step, at most `timeout_s`, and close its connections."""
        await self.wait_until_idle(timeout_s)
        for task in self._unfinished():
            task.cancel()
        try:
            await asyncio.wait_for(hand_over(self._reward.aclose()), timeout=_CLOSE_S)
        except (TimeoutError, MPOError):
            _log.warning("the connections of the meta steps could not be closed in time")

    def _unfinished(self) -> list[asyncio.Task[Any]]:
        follower = [self._follower] if self._follower and not self._follower.done() else []
        return [*self._tasks.values(), *follower]

    async def _step(self, n: int) -> StepDecisions:
        async with self._lock:
            due = self._reward.schedule.due(n)
            if n not in self._done and n >= self.decided:
                await self._step_now(n, due)
            evolved = self._evolved()
            if due and n < self.decided and not any(d.due == n for d in evolved):
                raise Refusal(
                    409,
                    f"the meta step of step {self.decided} is already decided, and {n} comes "
                    "before it: restore a snapshot to go back",
                )
            decisions = tuple(d for d in evolved if d.step == n)
            return StepDecisions(due or bool(decisions), decisions)

    async def _step_now(self, n: int, due: bool) -> None:
        # Also if the store has a decision: a kill may have come between two cohorts, and
        # `EvolvingReward.step` repeats no decision.
        before = len(self._evolved())
        if due:
            await self._before_step(n)
            self.running = n
        try:
            await hand_over(self._reward.step(n))
        finally:
            self.running = None
        self._done.add(n)
        self.last = max(self.last, n)
        if decisions := tuple(self._evolved()[before:]):
            self._on_decided(StepDecisions(due, decisions))

    def _evolved(self) -> list[Decision]:
        return [d for d in self._reward.store.lineage() if d.kind == "evolve"]
