"""The shared event loop: work from any thread and any loop ends up in one place."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from mpo.chat.event_loop import hand_over, run_in_loop, submit
from mpo.errors import ConfigError


async def loop_id() -> tuple[int, str]:
    return id(asyncio.get_running_loop()), threading.current_thread().name


async def in_two_ways() -> set[tuple[int, str]]:
    return {await hand_over(loop_id()), await asyncio.wrap_future(submit(loop_id()))}


def test_every_way_leads_into_one_loop() -> None:
    ids = {run_in_loop(loop_id()), submit(loop_id()).result(5)} | asyncio.run(in_two_ways())
    thread = threading.Thread(target=lambda: ids.add(submit(loop_id()).result(5)))
    thread.start()
    thread.join(5)
    ((_, name),) = ids
    assert name == "mpo-loop"


def test_work_that_was_submitted_outlives_the_callers_loop() -> None:
    async def late() -> str:
        await asyncio.sleep(0.05)
        return "done"

    async def caller() -> object:
        return submit(late())

    future = asyncio.run(caller())
    assert future.result(5) == "done"  # type: ignore[attr-defined]


def test_a_cancelled_future_cancels_its_work() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def endless() -> None:
        begun.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()

    future = submit(endless())
    assert begun.wait(5)
    future.cancel()
    assert ended.wait(5)


def test_the_first_error_of_a_group_is_raised() -> None:
    async def fail() -> None:
        raise ConfigError("one of several")

    async def group() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(fail())

    with pytest.raises(ConfigError, match="one of several"):
        run_in_loop(group())


def test_a_forked_child_has_a_loop_of_its_own() -> None:
    run_in_loop(loop_id())
    child = os.fork()
    if child == 0:
        try:
            submit(loop_id()).result(5)
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
