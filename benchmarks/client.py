"""A client of `service.py`, as a process of its own: it sends batches, and times the answers.

    python benchmarks/client.py < JOB.json     prints one JSON object

With a rate it sends at fixed moments and counts a request's time from its moment on, also where it
could not be sent yet: a service that stalls must not slow down its own measurement. Without one,
`parallel` workers send as fast as they are answered. What fails is sent again, as engines do.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from mpo.service.client import RewardClient

__all__ = ["main"]

TEXT = (
    "Tea is a plant that grows on hills, and people drink it in the morning and at night. It was "
    "carried by ships, and it is sold by weight. Some like it hot, others with milk or ice. "
) * 3


@dataclass
class _Job:
    url: str
    name: str
    """Prefix of its items' ids, different for each client."""
    items: int
    batch: int
    rate: float
    """Items per second; 0 for as fast as answered."""
    parallel: int = 8
    seconds: list[float] = field(default_factory=list)
    rewards: dict[str, float | None] = field(default_factory=dict)

    def request(self, number: int) -> list[dict[str, Any]]:
        """The items of one batch: eight completions per prompt."""
        first = number * self.batch
        return [
            {
                "id": f"{self.name}-{i}",
                "prompt": f"Write about {self.name} {i // 8}.",
                "completion": f"Essay {self.name} {i}. {TEXT}",
            }
            for i in range(first, first + self.batch)
        ]


def main() -> None:
    """Do the job on stdin."""
    job = _Job(**json.load(sys.stdin))
    started = time.perf_counter()
    asyncio.run(_run(job))
    result = {
        "wall_s": time.perf_counter() - started,
        "seconds": job.seconds,
        "rewards": job.rewards,
    }
    sys.stdout.write(json.dumps(result))


async def _run(job: _Job) -> None:
    client = RewardClient(job.url, deadline_s=60, patience_s=300)
    await client.post("/v1/snapshot", {"tag": "warm-up"})  # the connection is there
    batches = job.items // job.batch
    if job.rate:
        # Apart from other clients that started at the same moment.
        start = time.perf_counter() + random.random() * job.batch / job.rate
        gap = job.batch / job.rate
        await asyncio.gather(*(_at(start + n * gap, client, job, n) for n in range(batches)))
    else:
        numbers = iter(range(batches))
        await asyncio.gather(*(_worker(client, job, numbers) for _ in range(job.parallel)))
    await client.aclose()


async def _worker(client: RewardClient, job: _Job, numbers: Any) -> None:
    for number in numbers:
        await _at(time.perf_counter(), client, job, number)


async def _at(moment: float, client: RewardClient, job: _Job, number: int) -> None:
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))
    results = await client.score(job.request(number))
    job.seconds.append(time.perf_counter() - moment)
    job.rewards.update({result["id"]: result["reward"] for result in results})


if __name__ == "__main__":
    main()
