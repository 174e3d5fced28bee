"""TimedChat: how long a model takes to answer.

    timed = TimedChat(OpenAIChat(...))
    await timed.complete(request)
    timed.timing.mean_s

A call's time runs from the question to the answer as the asker feels it: waiting for a free place
at the endpoint and retries are in it, answers out of a cache are not.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from .base import Chat, ChatRequest, ChatWrapper, Completion

__all__ = ["TIMINGS", "TimedChat", "Timing"]

TIMINGS = "timings"
"""Under this key a run's store keeps the timings by role; see `mpo.config.chats.Chats`."""


@dataclass(frozen=True)
class Timing:
    """Of answered calls."""

    calls: int = 0
    seconds: float = 0.0
    """Sum over the calls, which overlap: much more than the clock on the wall shows."""
    slowest_s: float = 0.0

    @property
    def mean_s(self) -> float | None:
        """Seconds a call; None before the first."""
        return self.seconds / self.calls if self.calls else None


class TimedChat(ChatWrapper):
    """A chat that keeps the time of its answers; failed calls do not count.

    Args:
        inner: Who answers.
        timing: What was measured before, in a run that was stopped.
    """

    def __init__(self, inner: Chat, timing: Timing | None = None) -> None:
        super().__init__(inner)
        self.timing = timing if timing is not None else Timing()

    async def complete(self, request: ChatRequest) -> Completion:
        started = time.monotonic()
        completion = await self.inner.complete(request)
        took, so_far = time.monotonic() - started, self.timing
        # Two threads may end at once: then one call is missing in a mean, which is worth no lock.
        self.timing = Timing(so_far.calls + 1, so_far.seconds + took, max(so_far.slowest_s, took))
        return completion
