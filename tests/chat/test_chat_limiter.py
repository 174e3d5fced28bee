"""The limit on requests in flight follows what the endpoint can bear."""

from __future__ import annotations

import asyncio
import pickle
import threading
from typing import Any

import pytest

from mpo.chat import ChatRequest, Limiter, Message, OpenAIChat
from mpo.chat.limiter import AdmissionQueue

ASK: tuple[Message, ...] = ({"role": "user", "content": "x"},)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_an_overload_takes_a_fifth_once_per_cooldown() -> None:
    clock = Clock()
    limiter = Limiter(100, cooldown_s=5, clock=clock)
    for _ in range(40):  # those that were in flight together fail together
        limiter.overloaded()
    assert limiter.limit == 80
    clock.now = 5.1
    limiter.overloaded(wait_s=30)
    assert limiter.limit == 64
    clock.now = 20
    limiter.overloaded()
    assert limiter.limit == 64, "Retry-After is a cooldown too"
    assert limiter.overloads == 42


def test_a_round_of_answers_adds_a_step_up_to_the_ceiling() -> None:
    clock = Clock()
    limiter = Limiter(20, cooldown_s=1, clock=clock)
    limiter.overloaded()
    assert limiter.limit == 16
    for _ in range(100):
        limiter.succeeded()
    assert limiter.limit == 16, "nothing grows within the cooldown"
    clock.now = 2
    for _ in range(16):
        limiter.succeeded()
    assert limiter.limit == 17
    for _ in range(1000):
        limiter.succeeded()
    assert limiter.limit == 20


def test_the_floor_holds() -> None:
    limiter = Limiter(8, floor=2, cooldown_s=0)
    for _ in range(50):
        limiter.overloaded()
    assert limiter.limit == 2
    assert Limiter(1, floor=5).floor == 1


def test_first_come_first_served_and_cancellation() -> None:
    async def scene() -> list[int]:
        limiter = Limiter(1)
        order: list[int] = []

        async def use(number: int) -> None:
            await limiter.acquire()
            try:
                order.append(number)
                await asyncio.sleep(0)
            finally:
                limiter.release()

        await limiter.acquire()
        tasks = [asyncio.create_task(use(number)) for number in range(6)]
        await asyncio.sleep(0)
        tasks[0].cancel()
        tasks[3].cancel()
        limiter.release()
        tasks[1].cancel()  # it was admitted, and has not run yet
        await asyncio.gather(*tasks, return_exceptions=True)
        assert limiter.in_flight == 0
        return order

    assert asyncio.run(scene()) == [2, 4, 5]


def test_a_loop_that_ended_does_not_hold_up_the_others() -> None:
    limiter = Limiter(1)
    held = threading.Event()
    done = threading.Event()

    def abandon() -> None:
        loop = asyncio.new_event_loop()

        async def wait_for_ever() -> None:
            await limiter.acquire()

        task = loop.create_task(wait_for_ever())
        loop.run_until_complete(asyncio.sleep(0.01))
        held.set()
        done.wait(5)
        task.add_done_callback(lambda _: None)
        loop.close()  # with the task still pending
        task._log_destroy_pending = False  # type: ignore[attr-defined]

    async def scene() -> None:
        await limiter.acquire()
        thread = threading.Thread(target=abandon)
        thread.start()
        await asyncio.to_thread(held.wait, 5)
        done.set()
        await asyncio.to_thread(thread.join, 5)
        waiting = asyncio.create_task(limiter.acquire())
        await asyncio.sleep(0)
        limiter.release()
        await asyncio.wait_for(waiting, 2)
        limiter.release()

    asyncio.run(scene())
    assert limiter.in_flight == 0


def test_what_admit_raises_reaches_the_caller() -> None:
    async def scene() -> None:
        turnstile = AdmissionQueue()
        verdicts: list[Any] = [False, ValueError("no")]

        def admit() -> bool:
            verdict = verdicts.pop(0)
            if isinstance(verdict, Exception):
                raise verdict
            return bool(verdict)

        waiting = asyncio.create_task(turnstile.enter(admit, lambda: None))
        await asyncio.sleep(0)
        turnstile.advance()
        with pytest.raises(ValueError, match="no"):
            await waiting

    asyncio.run(scene())


def test_a_copy_starts_empty() -> None:
    limiter = Limiter(4)
    asyncio.run(limiter.acquire())
    limiter.overloaded()
    copied = pickle.loads(pickle.dumps(limiter))
    assert (copied.in_flight, copied.limit) == (0, limiter.limit)


def test_an_overloaded_endpoint_is_asked_less(endpoint: Any, faults: Any) -> None:
    capacity = 6

    async def strained(request: Any, body: Any) -> Any:
        crowd = endpoint.in_flight > capacity
        await asyncio.sleep(0.005)
        from aiohttp import web

        return web.Response(status=429) if crowd else web.json_response(faults.body())

    endpoint.default = strained
    limiter = Limiter(32, cooldown_s=0.02)
    chat = OpenAIChat(endpoint.url, "tiny", limiter=limiter, backoff_s=0.01, retries=30)

    async def many() -> None:
        await asyncio.gather(*(chat.complete(ChatRequest(ASK)) for _ in range(300)))
        await chat.aclose()

    asyncio.run(many())
    assert limiter.overloads > 0
    assert limiter.limit < 20
    refused = len(endpoint.requests) - 300
    assert refused < 150


def test_two_chats_share_one_limit(endpoint: Any) -> None:
    endpoint.delay_s = 0.01
    limiter = Limiter(3)
    chats = [OpenAIChat(endpoint.url, name, limiter=limiter) for name in ("rm", "mrm")]

    async def many() -> None:
        await asyncio.gather(
            *(chat.complete(ChatRequest(ASK)) for chat in chats for _ in range(15))
        )
        for chat in chats:
            await chat.aclose()

    asyncio.run(many())
    assert endpoint.most_in_flight == 3
