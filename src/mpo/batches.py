"""Doing many things at once, and committing what has come in while the rest is under way."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["AT_ONCE", "GATHER_S", "commit_as_they_come"]

Item = TypeVar("Item")
Result = TypeVar("Result")

AT_ONCE = 1024
"""Items that are worked on, or wait for their turn at the chat. Those beyond have no prompt yet,
which takes memory."""

GATHER_S = 0.02
"""How long a result waits for others to be committed with, in seconds."""


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
    arrived: asyncio.Queue[_Outcome[Result]] = asyncio.Queue()
    workers = _start(items, work, arrived)
    try:
        left = len(items)
        while left:
            outcomes = [await arrived.get(), *_drain(arrived)]
            if len(outcomes) < left and not _errors(outcomes):
                await asyncio.sleep(GATHER_S)  # a commit costs more than a result
                outcomes += _drain(arrived)
            _commit(outcomes, commit)
            for error in _errors(outcomes):
                raise error
            left -= len(outcomes)
    finally:
        for task in workers:
            task.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        _commit(_drain(arrived), commit)  # paid for, though another one has stopped the batch


@dataclass(frozen=True)
class _Outcome(Generic[Result]):
    """Of one item: what came of it."""

    results: tuple[Result, ...] = ()
    error: Exception | None = None


def _start(
    items: Sequence[Item],
    work: Callable[[Item], Awaitable[Result]],
    arrived: asyncio.Queue[_Outcome[Result]],
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
                arrived.put_nowait(_Outcome((await work(item),)))
            except Exception as error:  # handed over, not swallowed: it is raised to the caller
                arrived.put_nowait(_Outcome(error=error))

    if items:
        workers.append(asyncio.create_task(worker()))
    return workers


def _commit(outcomes: Sequence[_Outcome[Result]], commit: Callable[[list[Result]], None]) -> None:
    results = [result for outcome in outcomes for result in outcome.results]
    if results:
        commit(results)


def _errors(outcomes: Sequence[_Outcome[Result]]) -> list[Exception]:
    return [outcome.error for outcome in outcomes if outcome.error is not None]


def _drain(queue: asyncio.Queue[Item]) -> list[Item]:
    """Everything that waits in the queue."""
    items: list[Item] = []
    while not queue.empty():
        items.append(queue.get_nowait())
    return items
