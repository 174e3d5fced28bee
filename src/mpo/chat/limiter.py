"""Limit on the requests in flight at one endpoint, which adapts to the endpoint's capacity.

Additive increase, multiplicative decrease, as in TCP: a round of answered requests adds a step; an
overload (429, 5xx, timeout) takes a fifth away, at most once per cooldown, since the requests that
are already under way will fail for the same reason.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["AdmissionQueue", "Limiter"]

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Ticket:
    admit: Callable[[], bool]
    undo: Callable[[], None]
    future: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop
    dead: bool = False


class AdmissionQueue:
    """First-come-first-served queue that coroutines of several event loops may share.

    asyncio's own locks belong to one loop; the RM may run in the trainer's loop and the MRM in
    another thread, against one endpoint and one budget.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._queue: deque[_Ticket] = deque()

    def __getstate__(self) -> dict[str, Any]:
        # Nobody waits in the copy. The state is not empty, or __setstate__ would be skipped.
        return {"version": 1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._queue)

    async def enter(self, admit: Callable[[], bool], undo: Callable[[], None]) -> None:
        """Wait until `admit` is true.

        Args:
            admit: Takes a place and returns True, or returns False. It is called under the lock,
                possibly from another thread. Its exceptions are raised here.
            undo: Returns the place; called if the caller was cancelled after it was admitted.
        """
        loop = asyncio.get_running_loop()
        with self.lock:
            if not self._queue and admit():
                return
            ticket = _Ticket(admit, undo, loop.create_future(), loop)
            self._queue.append(ticket)
        try:
            await ticket.future
        except asyncio.CancelledError:
            with self.lock:
                ticket.dead = True
                if ticket.future.done() and not ticket.future.cancelled():
                    undo()
            self.advance()
            raise

    def advance(self) -> None:
        """Admit callers from the head of the queue while there is room."""
        with self.lock:
            while self._queue:
                ticket = self._queue[0]
                error: Exception | None = None
                try:
                    if not ticket.dead and not ticket.admit():
                        return
                except Exception as raised:
                    error = raised
                self._queue.popleft()
                if not ticket.dead:
                    self._wake(ticket, error)

    def _wake(self, ticket: _Ticket, error: Exception | None) -> None:
        if asyncio._get_running_loop() is ticket.loop:
            self._settle(ticket, error)  # the loop is awake: waking it would cost two calls
            return
        try:
            ticket.loop.call_soon_threadsafe(self._settle, ticket, error)
        except RuntimeError:  # its loop is closed: nobody waits any more
            if error is None:
                ticket.undo()

    def _settle(self, ticket: _Ticket, error: Exception | None) -> None:
        if not ticket.future.done():
            if error is None:
                ticket.future.set_result(None)
            else:
                ticket.future.set_exception(error)
        elif error is None:  # cancelled between admission and now
            with self.lock:
                ticket.undo()
            self.advance()


class Limiter:
    """The number of requests in flight at one endpoint, over all loops and threads.

    Args:
        ceiling: Maximum number of requests in flight, and the initial limit.
        floor: Minimum of the limit.
        cooldown_s: Seconds after a decrease during which the limit does not change.
        clock: Function that returns seconds; replaced in tests.
    """

    DECREASE = 0.8
    """Factor applied to the limit at an overload."""

    def __init__(
        self,
        ceiling: int,
        *,
        floor: int = 1,
        cooldown_s: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.ceiling = ceiling
        self.floor = min(floor, ceiling)
        self.cooldown_s = cooldown_s
        self.limit = float(ceiling)
        """Current limit; rounded down when compared."""
        self.in_flight = 0
        self.overloads = 0
        """Number of reported overloads, including those within a cooldown."""
        self._step = max(1.0, ceiling / 20)
        self._answered = 0
        self._fixed_until = float("-inf")
        self._clock = clock
        self._queue = AdmissionQueue()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"in_flight": 0, "_fixed_until": float("-inf")}

    async def acquire(self) -> None:
        """Wait for a place."""
        await self._queue.enter(self._take, self._give)

    def release(self) -> None:
        """Return the place, and admit the next caller."""
        with self._queue.lock:
            self._give()
        if len(self._queue):
            self._queue.advance()

    def succeeded(self) -> None:
        """Count an answered request. After as many as the limit, the limit grows by a step."""
        with self._queue.lock:
            if self.limit >= self.ceiling or self._clock() < self._fixed_until:
                return
            self._answered += 1
            if self._answered < self.limit:
                return
            self._answered = 0
            self.limit = min(float(self.ceiling), self.limit + self._step)
        self._queue.advance()

    def overloaded(self, wait_s: float = 0.0) -> None:
        """Reduce the limit after an overload, unless it was just reduced.

        Args:
            wait_s: The endpoint's `Retry-After` in seconds; the limit does not grow before.
        """
        with self._queue.lock:
            self.overloads += 1
            now = self._clock()
            if now < self._fixed_until:
                return
            self.limit = max(float(self.floor), self.limit * self.DECREASE)
            self._answered = 0
            self._fixed_until = now + max(self.cooldown_s, wait_s)
            _log.info("endpoint overloaded: at most %d requests in flight now", int(self.limit))

    def _take(self) -> bool:
        if self.in_flight >= int(self.limit):
            return False
        self.in_flight += 1
        return True

    def _give(self) -> None:
        self.in_flight -= 1
