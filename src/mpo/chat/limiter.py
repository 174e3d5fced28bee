"""How many requests may be in flight at one endpoint: a limit that follows what it can bear.

Additive increase, multiplicative decrease, as TCP does it: a round of answered requests adds a
step, an overload (429, 5xx, timeout) takes a fifth away, at most once per cooldown, since the
requests that were already under way will fail for the same reason.
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
    """A queue, first come first served, that coroutines of several event loops may share.

    asyncio's own locks belong to one loop; the RM may run in the trainer's loop and the MRM in
    another thread, against one endpoint and one budget.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._queue: deque[_Ticket] = deque()

    def __getstate__(self) -> dict[str, Any]:
        # Who waits here does not wait in the copy. Not empty, else __setstate__ is skipped.
        return {"version": 1}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__()  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._queue)

    async def enter(self, admit: Callable[[], bool], undo: Callable[[], None]) -> None:
        """Wait until `admit` is true.

        Args:
            admit: Takes what there is to take, and says whether it could. Called under the lock,
                maybe from another thread. What it raises is raised here.
            undo: Gives it back; called where the caller was cancelled after it was admitted.
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
        """Admit from the head of the queue whom there is room for."""
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
            self._settle(ticket, error)  # no need to wake a loop that is awake: it costs two calls
            return
        try:
            ticket.loop.call_soon_threadsafe(self._settle, ticket, error)
        except RuntimeError:  # its loop was closed: nobody is waiting any more
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
        ceiling: Most requests in flight, and where the limit starts.
        floor: The limit never falls below it.
        cooldown_s: Seconds after a decrease in which nothing changes the limit.
        clock: Seconds, for tests.
    """

    DECREASE = 0.8
    """Factor of one overload."""

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
        """Requests that may be in flight now; its whole part counts."""
        self.in_flight = 0
        self.overloads = 0
        """Overloads that were reported, those within a cooldown included."""
        self._step = max(1.0, ceiling / 20)
        self._answered = 0
        self._quiet_until = float("-inf")
        self._clock = clock
        self._turnstile = AdmissionQueue()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"in_flight": 0, "_quiet_until": float("-inf")}

    async def acquire(self) -> None:
        """Wait for a place."""
        await self._turnstile.enter(self._take, self._give)

    def release(self) -> None:
        """Give the place back, and let the next one in."""
        with self._turnstile.lock:
            self._give()
        if len(self._turnstile):
            self._turnstile.advance()

    def succeeded(self) -> None:
        """A request was answered: after as many as the limit, the limit grows by a step."""
        with self._turnstile.lock:
            if self.limit >= self.ceiling or self._clock() < self._quiet_until:
                return
            self._answered += 1
            if self._answered < self.limit:
                return
            self._answered = 0
            self.limit = min(float(self.ceiling), self.limit + self._step)
        self._turnstile.advance()

    def overloaded(self, wait_s: float = 0.0) -> None:
        """The endpoint had too much to do: the limit shrinks, unless it just did.

        Args:
            wait_s: What the endpoint asked for in `Retry-After`; no growth before that.
        """
        with self._turnstile.lock:
            self.overloads += 1
            now = self._clock()
            if now < self._quiet_until:
                return
            self.limit = max(float(self.floor), self.limit * self.DECREASE)
            self._answered = 0
            self._quiet_until = now + max(self.cooldown_s, wait_s)
            _log.info("endpoint overloaded: at most %d requests in flight now", int(self.limit))

    def _take(self) -> bool:
        if self.in_flight >= int(self.limit):
            return False
        self.in_flight += 1
        return True

    def _give(self) -> None:
        self.in_flight -= 1
