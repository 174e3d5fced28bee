"""One event loop in a thread of its own, for everything that a trainer's reward asks.

A client's connections belong to the loop that opened them. The trainer calls the reward in its
own loop and the callback on its main thread (which, in a notebook, runs a loop already); both hand
their work to this one loop, so that RM and MRM share connections and there is one place to close.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, TypeVar

from ..errors import MPOError

__all__ = ["hand_over", "run_in_loop", "start_in_loop"]

T = TypeVar("T")


class _LoopThread:
    """A loop that runs until the process ends. Started on first use."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None

    def get(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = asyncio.new_event_loop()
                threading.Thread(target=loop.run_forever, name="mpo-loop", daemon=True).start()
                self._loop = loop
            return self._loop


_THREAD = _LoopThread()


def _forget() -> None:
    """A forked child has the loop but not the thread that runs it."""
    global _THREAD
    _THREAD = _LoopThread()


os.register_at_fork(after_in_child=_forget)


async def _plain(work: Coroutine[Any, Any, T]) -> T:
    """What came out of tasks side by side as a group of errors is told by its first one of ours."""
    try:
        return await work
    except BaseExceptionGroup as group:
        error: BaseException | None = group.subgroup(MPOError)
        if error is None:
            raise
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group


def start_in_loop(work: Coroutine[Any, Any, T]) -> Future[T]:
    """Start `work` in the shared loop and return at once; the future may be cancelled."""
    return asyncio.run_coroutine_threadsafe(_plain(work), _THREAD.get())


def run_in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in the shared loop and wait for it. Not from within that loop."""
    future = start_in_loop(work)
    try:
        return future.result()
    except BaseException:  # Ctrl-C in the waiting thread ends the work as well
        future.cancel()
        raise


async def hand_over(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` in the shared loop and await it from another one."""
    return await asyncio.wrap_future(start_in_loop(work))
