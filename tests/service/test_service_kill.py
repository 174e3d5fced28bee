"""kill -9 under load: what was committed is there, nothing is there twice, the head stays."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpo.service.client import RewardClient
from mpo.store import Store
from service.conftest import Node

BATCH = 8
BATCHES = 30
KILLS = 3


async def _load(url: str, told: dict[str, float], client_id: int) -> None:
    """Send batches one after another; each until it is answered."""
    client = RewardClient(url, patience_s=120, deadline_s=20)
    for number in range(BATCHES):
        ids = [f"{client_id}-{number}-{i}" for i in range(BATCH)]
        items: list[dict[str, Any]] = [
            {"id": id, "prompt": f"Write about {number}.", "completion": f"An essay, {id}."}
            for id in ids
        ]
        for result in await client.score(items):
            assert result["status"] == "ok", result
            told[result["id"]] = result["reward"]
    await client.aclose()


def test_a_killed_service_loses_nothing_and_pays_nothing_twice(
    start: Callable[..., Node], tmp_path: Path
) -> None:
    calls = tmp_path / "calls.jsonl"
    arguments = ("delay=0.02", "k=1", "every=100", f"calls={calls}")
    node = start("0", *arguments)
    told: dict[str, float] = {}
    heads: list[str] = []

    async def run() -> None:
        nonlocal node
        load = [asyncio.create_task(_load(node.url, told, i)) for i in range(2)]
        for kill in range(KILLS):
            while len(told) < (kill + 1) * BATCH * BATCHES * 2 // (KILLS + 2):
                assert not any(task.done() for task in load), [t.exception() for t in load]
                await asyncio.sleep(0.01)
            node.process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(node.stop, signal.SIGKILL)
            before = Store(tmp_path / "mpo.db")
            heads.append(before.heads()[""])
            committed.append({c.judgement.key for c in before.window(scored=None)})
            before.close()
            node = await asyncio.to_thread(start, str(node.port), *arguments)
            assert node.get("/v1/rubrics/head")[1]["id"] == heads[-1]
        await asyncio.gather(*load)

    committed: list[set[str]] = []
    asyncio.run(run())
    assert node.stop()[0] == 0

    store = Store(tmp_path / "mpo.db")
    cases = store.window(cohort=None, scored=None)
    keys = [case.judgement.key for case in cases]
    assert len(keys) == len(set(keys)) == len(told) == 2 * BATCHES * BATCH
    for earlier in committed:
        assert earlier <= set(keys), "a committed judgement is gone"
    rewards = sorted(reward for reward in told.values())
    assert rewards == sorted(case.judgement.reward for case in cases)
    evolved = [d.step for d in store.lineage() if d.kind == "evolve"]
    assert evolved == sorted(set(evolved)), "a meta step was held twice"
    assert len(evolved) >= 2
    # Asked again is at most what was in flight when it was killed.
    asked = len(calls.read_text().splitlines())
    assert asked - len(keys) <= KILLS * 2 * BATCH
