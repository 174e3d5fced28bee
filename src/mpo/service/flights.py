"""Scoring for many clients at once: what is in flight is joined, and nobody waits past a deadline.

A call belongs to the service, not to the request that caused it. A client that gives up, or whose
deadline passes, stops nothing: the answer is committed when it comes, and is there for the retry.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..errors import BudgetError, MPOError
from ..records import Judgement, Rollout
from ..reward import EvolvingReward
from .fair import FairQueue
from .wire import Refusal

__all__ = ["Flights", "Outcome"]

_log = logging.getLogger(__name__)

Landing = Judgement | MPOError
"""How a flight ends. An error is a value: nobody may be waiting for it any more."""


@dataclass(frozen=True)
class Outcome:
    """What became of a rollout by the deadline."""

    rollout: Rollout
    judgement: Judgement | None
    """None where there is none yet, or never will be."""
    late: bool = False
    """Whether it is still being judged."""
    error: str | None = None
    """Why it is unscored."""


class Flights:
    """Scores rollouts, each once.

    Args:
        reward: Scores and commits.
        capacity: Rollouts that may be with the reward model at once; more wait in turn.
        max_in_flight: Rollouts that may wait or be judged; beyond it requests are refused.
        on_judged: Called with each new judgement.

    Attributes:
        joined: Rollouts that were in flight already when they came.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        capacity: int,
        max_in_flight: int,
        on_judged: Callable[[Rollout, Judgement], None],
    ) -> None:
        self._reward = reward
        self._on_judged = on_judged
        self._max = max_in_flight
        self._flights: dict[str, tuple[Rollout, asyncio.Future[Landing]]] = {}
        self._queue: FairQueue[Rollout] = FairQueue(self._fly, capacity=capacity)
        self.joined = 0

    @property
    def in_flight(self) -> int:
        """Rollouts that wait or are being judged."""
        return len(self._flights)

    async def score(self, rollouts: Sequence[Rollout], deadline_s: float) -> list[Outcome]:
        """What became of each rollout within the deadline, in order.

        Raises:
            Refusal: Too much is in flight.
            MPOError: What stops a run: the budget is spent, the store is broken.
        """
        flights = self._board(rollouts)
        await asyncio.wait(set(flights.values()), timeout=deadline_s)
        return [self._outcome(rollout, flights[rollout.id]) for rollout in rollouts]

    async def settled(self, before_step: int, timeout_s: float) -> None:
        """Wait until all training rollouts of earlier steps are judged, or the time is over."""
        early = [
            future
            for rollout, future in self._flights.values()
            if rollout.step < before_step and rollout.mode == "train"
        ]
        if early:
            await asyncio.wait(early, timeout=timeout_s)

    async def landed(self, timeout_s: float) -> bool:
        """Wait until nothing is in flight; False where something still is after the time."""
        futures = [future for _, future in self._flights.values()]
        if futures:
            await asyncio.wait(futures, timeout=timeout_s)
        return not self._flights

    async def drain(self, timeout_s: float) -> None:
        """Finish what is in flight; what takes longer is given up, and who waits for it is told."""
        await self._queue.drain(timeout_s)
        for rollout, _ in list(self._flights.values()):
            self._land(rollout, _gone())

    def _board(self, rollouts: Sequence[Rollout]) -> dict[str, asyncio.Future[Landing]]:
        new = [r for r in {r.id: r for r in rollouts}.values() if r.id not in self._flights]
        if len(self._flights) + len(new) > self._max:
            raise Refusal(
                429, f"{len(self._flights)} items are in flight already: try again in a moment"
            )
        self.joined += len(rollouts) - len(new)
        loop = asyncio.get_running_loop()
        for rollout in new:
            self._flights[rollout.id] = (rollout, loop.create_future())
        flights = {r.id: self._flights[r.id][1] for r in rollouts}
        self._queue.put(new)
        return flights

    async def _fly(self, rollouts: Sequence[Rollout]) -> None:
        """Judge a chunk, and tell all who wait for one of them."""
        landings: dict[str, Landing] = {}
        try:
            judgements = await self._reward.score(rollouts)
            landings = {r.id: j for r, j in zip(rollouts, judgements, strict=True)}
        except Exception as error:
            # One of them stopped the batch; the others may be committed all the same.
            known = error if isinstance(error, MPOError) else MPOError(f"failed: {error!r}")
            if known is not error:
                _log.exception("a batch of %d could not be scored", len(rollouts))
            landings = {r.id: self._committed(r) or known for r in rollouts}
        finally:
            # On cancellation too: nobody shall wait for what will never come.
            for rollout in rollouts:
                self._land(rollout, landings.get(rollout.id) or _gone())

    def _land(self, rollout: Rollout, landing: Landing) -> None:
        if rollout.id not in self._flights:
            return  # given up at the end
        _, future = self._flights.pop(rollout.id)
        if isinstance(landing, Judgement):
            self._on_judged(rollout, landing)
        if not future.done():
            future.set_result(landing)

    def _committed(self, rollout: Rollout) -> Judgement | None:
        """A judgement that the store has got by now; the last one that gives a reward."""
        stored = self._reward.store.judgements_of(rollout.id)
        scored = [judgement for judgement in stored if judgement.reward is not None]
        return scored[-1] if scored else stored[-1] if stored else None

    def _outcome(self, rollout: Rollout, flight: asyncio.Future[Landing]) -> Outcome:
        if not flight.done():
            # The others of its chunk may be slow; what it waited for may be there.
            early = self._committed(rollout)
            if early is not None and early.reward is not None:
                return Outcome(rollout, early)
            return Outcome(rollout, None, late=True, error="late: not judged within the deadline")
        landing = flight.result()
        if isinstance(landing, Judgement):
            return Outcome(rollout, landing, error=landing.unscored)
        if isinstance(landing, BudgetError):
            raise landing
        return Outcome(rollout, None, error=str(landing))


def _gone() -> MPOError:
    return MPOError("stopped: the service is shutting down")
