"""Many things at once: results are committed in batches, and none is lost."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from mpo.judge.scorer import AT_ONCE, commit_as_they_come


def run(count: int, work: object, committed: list[list[int]]) -> None:
    asyncio.run(commit_as_they_come(range(count), work, committed.append))  # type: ignore[arg-type]


def test_every_result_is_committed_once_whatever_their_number() -> None:
    for count in (0, 1, 7, AT_ONCE + 100):
        committed: list[list[int]] = []

        async def work(item: int) -> int:
            await asyncio.sleep(0)
            return item

        run(count, work, committed)
        assert sorted(itertools.chain.from_iterable(committed)) == list(range(count))


def test_what_comes_in_together_is_committed_together() -> None:
    committed: list[list[int]] = []

    async def work(item: int) -> int:
        await asyncio.sleep(0.0005 * item)
        return item

    run(100, work, committed)
    assert len(committed) < 60
    committed.clear()

    async def slow_last(item: int) -> int:
        await asyncio.sleep(0.5 if item == 99 else 0)
        return item

    run(100, slow_last, committed)
    assert [99] in committed, "nobody waits for the slowest"


def test_no_more_than_a_thousand_are_begun_at_once() -> None:
    under_way = most = 0

    async def work(item: int) -> int:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(1.0 if most < AT_ONCE else 0)
        under_way -= 1
        return item

    run(3 * AT_ONCE, work, [])
    assert most == AT_ONCE


def test_the_first_is_on_its_way_before_the_last_is_begun() -> None:
    begun: list[int] = []
    seen: list[int] = []

    async def work(item: int) -> int:
        begun.append(item)
        for _ in range(3):
            await asyncio.sleep(0)
        seen.append(len(begun))
        return item

    run(500, work, [])
    assert seen[0] < 10


def test_an_error_cancels_the_rest_and_loses_no_result() -> None:
    committed: list[list[int]] = []
    cancelled: list[int] = []

    async def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        if item > 5:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
        return item

    with pytest.raises(ValueError, match="five"):
        run(10, work, committed)
    assert sorted(itertools.chain.from_iterable(committed)) == [0, 1, 2, 3, 4]
    assert set(cancelled) <= {6, 7, 8, 9}
