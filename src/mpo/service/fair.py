"""A queue that is fair to its owners: whoever brings much waits for itself, not others for it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

__all__ = ["FairQueue"]

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Runs chunks of work, at most `capacity` items at once, taking turns between owners.

    Args:
        run: Works on one chunk. It must not raise.
        capacity: Items that may be worked on at once.
        chunk: Most items of one owner that are taken in one turn.
    """

    def __init__(
        self, run: Callable[[Sequence[T]], Awaitable[None]], *, capacity: int, chunk: int = 32
    ) -> None:
        self._run = run
        self._free = capacity
        self._chunk = max(1, min(chunk, capacity))
        self._waiting: OrderedDict[int, deque[list[T]]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._owners = 0

    def put(self, items: Sequence[T]) -> None:
        """Queue the items of one owner (a request)."""
        if not items:
            return
        step = self._chunk
        chunks = deque(list(items[i : i + step]) for i in range(0, len(items), step))
        self._owners += 1
        self._waiting[self._owners] = chunks
        self._advance()

    async def drain(self, timeout_s: float) -> None:
        """Wait until everything is done; what is not by then is cancelled."""
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._tasks:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.wait(self._tasks, timeout=left)
        self._waiting.clear()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _advance(self) -> None:
        while self._waiting:
            owner, chunks = next(iter(self._waiting.items()))
            if len(chunks[0]) > self._free:
                return  # it keeps its place: else small requests would starve a large one
            chunk = chunks.popleft()
            if chunks:
                self._waiting.move_to_end(owner)
            else:
                del self._waiting[owner]
            self._free -= len(chunk)
            task = asyncio.get_running_loop().create_task(self._work(chunk))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _work(self, chunk: Sequence[T]) -> None:
        try:
            await self._run(chunk)
        finally:
            self._free += len(chunk)
            self._advance()
