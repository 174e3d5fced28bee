"""Progress of work in stages: a line on stderr for each finished one, on a terminal or not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import typer

from ..evaluate_common import LINE_EVERY_S
from ..tables import clock

__all__ = ["Stages"]

T = TypeVar("T")


class Stages:
    """Stages of a command.

    Args:
        planned: Estimated calls by stage, in order; a stage without calls is no stage.
        every_s: Seconds between two lines of `watch`.
    """

    def __init__(self, planned: Mapping[str, float], every_s: float = LINE_EVERY_S) -> None:
        self._every_s = every_s
        self._left = {name: calls for name, calls in planned.items() if calls > 0}
        self._made = 0.0
        self._started = self._last = time.monotonic()

    def done(self, name: str, what: str = "") -> None:
        """Say that a stage is finished, and when all will be, if calls take as long as so far.

        Args:
            name: Name of the stage; one that is not planned says nothing.
            what: Its outcome, in a few words.
        """
        calls = self._left.pop(name, 0)
        if not calls:
            return
        now = time.monotonic()
        self._made += calls
        left = sum(self._left.values()) / self._made * (now - self._started)
        rest = f"about {clock(left)} left" if self._left else "last stage"
        outcome = f" ({what})" if what else ""
        typer.echo(f"{name}: done{outcome} in {clock(now - self._last)}; {rest}", err=True)
        self._last = now

    async def watch(self, work: Coroutine[Any, Any, T], calls: Callable[[], int]) -> T:
        """Result of work of many calls; meanwhile a line now and then with the calls made so far.

        Args:
            work: The work of the stages to come.
            calls: Number of calls that were made, by the command or before it.
        """
        task, before = asyncio.create_task(work), calls()
        try:
            while not (await asyncio.wait([task], timeout=self._every_s))[0]:
                taken = clock(time.monotonic() - self._last)
                typer.echo(f"at work: {calls() - before} calls made, {taken} so far", err=True)
            return task.result()
        finally:
            task.cancel()
