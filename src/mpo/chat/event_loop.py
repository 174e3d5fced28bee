"""One event loop in a thread, shared by all code of this process that has no loop to work in.

A client's connections belong to the loop that opened them. The trainer calls the reward in its own
loop and the callback on its main thread (which, in a notebook, already runs a loop); a meta step in
the background outlives both calls. All of them hand their work to this one loop, so that RM and MRM
share connections, and there is one place to close them.

    run_in_loop(work)            # from a thread without a loop: wait for the result
    await hand_over(work)        # from another loop: await the result
    future = submit(work)        # from anywhere: start the work, and collect the result later

The loop starts on first use and runs until the process ends. It is a module's state, so pickling
does not carry it over; a forked child starts its own. Work that was under way stays in the parent.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from ..errors import MPOError

__all__ = ["hand_over", "run_in_loop", "submit"]

T = TypeVar("T")


class _LoopThread:
    """A daemon thread with an event loop: a model that hangs must not delay the process's end."""

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


def _renew() -> None:
    """Replace the loop in a forked child, which inherits the loop but not its thread."""
    global _THREAD
    _THREAD = _LoopThread()


os.register_at_fork(after_in_child=_renew)


def submit(work: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
    """Start work in the shared loop. May be called from any thread, with or without a loop.

    Returns:
        Future of the result. Wait for it with `result()` outside the shared loop, or await
        `asyncio.wrap_future(future)` in any loop. Cancelling it cancels the work.
    """
    return asyncio.run_coroutine_threadsafe(_with_plain_error(work), _THREAD.get())


def run_in_loop(work: Coroutine[Any, Any, T]) -> T:
    """Run work in the shared loop and wait for it. Must not be called within that loop."""
    future = submit(work)
    try:
        return future.result()
    except BaseException:  # Ctrl-C in the waiting thread ends the work too
        future.cancel()
        raise


async def hand_over(work: Coroutine[Any, Any, T]) -> T:
    """Run work in the shared loop and await it in another one."""
    return await asyncio.wrap_future(submit(work))


async def _with_plain_error(work: Coroutine[Any, Any, T]) -> T:
    """The result of the work. A group of errors is replaced by its first error of this package."""
    try:
        return await work
    except BaseExceptionGroup as group:
        error: BaseException | None = group.subgroup(MPOError)
        if error is None:
            raise
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
