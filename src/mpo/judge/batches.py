"""Doing many things at once, and committing what has come in while the rest is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["AT_ONCE", "GATHER_S", "commit_as_they_come"]

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 1024
"""Items that are worked on, or wait for their turn at the chat. Those beyond have no prompt yet,
which takes memory."""

GATHER_S = 0.04
"""How long a result waits for others to be committed with, in seconds: a commit costs more than a
result. Below the time that the store's replies wait for a commit to take them along."""


async def commit_as_they_come(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    commit: Callable[[list[Result]], None],
) -> None:
    """Work on all items at once, and commit the results in the batches in which they come in.

    Args:
        items: What is worked on; the work itself limits how much is under way.
        work: Of one item.
        commit: Takes every result once. A result is committed within `GATHER_S` of its arrival.

    Raises:
        Exception: The first that `work` raised, after the other results are committed and what is
            still under way is cancelled.
    """
    arrivals = _Arrivals[Result](len(items))
    workers = _start(items, work, arrivals)
    try:
        left = len(items)
        while left:
            outcomes = await arrivals.batch()
            _commit(outcomes, commit)
            for outcome in outcomes:
                if outcome.error is not None:
                    raise outcome.error
            left -= len(outcomes)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        _commit(arrivals.take(), commit)  # paid for, though another one has stopped the batch


@dataclass(frozen=True)
class _Outcome(Generic[Result]):
    """Of one item: what came of it."""

    results: tuple[Result, ...] = ()
    error: Exception | None = None


class _Arrivals(Generic[Result]):
    """What has come in and is not committed yet.

    Args:
        expected: How many will come.
    """

    def __init__(self, expected: int) -> None:
        self._expected = expected
        self._outcomes: list[_Outcome[Result]] = []
        self._some, self._enough = asyncio.Event(), asyncio.Event()

    def put(self, outcome: _Outcome[Result]) -> None:
        self._outcomes.append(outcome)
        self._expected -= 1
        self._some.set()
        if self._expected == 0 or outcome.error is not None:
            self._enough.set()

    async def batch(self) -> list[_Outcome[Result]]:
        """The next to be committed: what comes in `GATHER_S` from the first of them on, or until
        nothing more will come."""
        await self._some.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._enough.wait()
        return self.take()

    def take(self) -> list[_Outcome[Result]]:
        """All that is there."""
        self._some.clear()
        taken, self._outcomes = self._outcomes, []
        return taken


def _start(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    arrivals: _Arrivals[Result],
) -> list[asyncio.Task[None]]:
    """The workers; each starts the next one, so that the first request is on its way before the
    last prompt is written."""
    waiting = iter(items)
    workers: list[asyncio.Task[None]] = []

    async def worker() -> None:
        if len(workers) < min(len(items), AT_ONCE):
            workers.append(asyncio.create_task(worker()))
        for item in waiting:
            try:
                arrivals.put(_Outcome((await work(item),)))
            except Exception as error:  # handed over, not swallowed: it is raised to the caller
                arrivals.put(_Outcome(error=error))

    if items:
        workers.append(asyncio.create_task(worker()))
    return workers


def _commit(outcomes: Sequence[_Outcome[Result]], commit: Callable[[list[Result]], None]) -> None:
    results = [result for outcome in outcomes for result in outcome.results]
    if results:
        commit(results)
