"""One load of `judge.py`, in a process of its own: its memory and processor time are then
the judge's alone.

    python benchmarks/load.py '{"url": …, "in_flight": 64, …}'     prints one JSON object
"""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from material import make_rollouts, make_rubric
from mpo.chat import Chat, ChatRequest, Completion, OpenAIChat
from mpo.cli.group import GC_THRESHOLD
from mpo.config import compose
from mpo.config.schema import BudgetConfig
from mpo.errors import ConfigError
from mpo.judge.options import Scoring
from mpo.records import Usage
from mpo.reward import EvolvingReward
from mpo.store import Store

__all__ = ["main"]

WARM_UP = 16


class SDKChat:
    """The official openai client behind the same protocol, for comparison. Not part of the
    library: it costs several times the processor time (docs/judge.md)."""

    def __init__(self, url: str, model: str, in_flight: int) -> None:
        import openai  # type: ignore[import-not-found]

        self.name = model
        self._client = openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=5)
        self._places = asyncio.Semaphore(in_flight)

    async def complete(self, request: ChatRequest) -> Completion:
        async with self._places:
            said = await self._client.chat.completions.create(
                model=self.name,
                messages=[dict(message) for message in request.messages],
                temperature=request.temperature,
                max_tokens=request.max_tokens,
                seed=request.seed,
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "judgement", "strict": True, "schema": request.schema},
                },
            )
        choice, spent = said.choices[0], said.usage
        usage = Usage(
            calls=1,
            prompt_tokens=spent.prompt_tokens,
            completion_tokens=spent.completion_tokens,
        )
        return Completion(choice.message.content, usage, choice.finish_reason, said.model)

    async def aclose(self) -> None:
        await self._client.close()


def main(arguments: list[str]) -> None:
    """Run the load that the first argument describes."""
    gc.set_threshold(*GC_THRESHOLD)  # as `mpo` itself does
    print(json.dumps(asyncio.run(_measure(json.loads(arguments[0])))))


async def _measure(load: Mapping[str, Any]) -> dict[str, Any]:
    in_flight, url = int(load["in_flight"]), str(load["url"])
    chat: Chat
    if load["client"] == "openai":
        chat = SDKChat(url, "bench", in_flight)
    else:
        chat = OpenAIChat(url, "bench", concurrency=in_flight, structured_output="json_schema")
    rollouts = make_rollouts(int(load["rollouts"]) + WARM_UP)
    # Texts of their own: those that are measured must not be known from them.
    first, rollouts = rollouts[-WARM_UP:], rollouts[:-WARM_UP]
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "mpo.db") as store:
        chats = compose(chat, chat, BudgetConfig(), store, cache=True)
        reward = EvolvingReward(
            "essay",
            chats.rm,
            store,
            rubric=make_rubric(int(load["criteria"])),
            scoring=Scoring(max_unscored=0.0),
        )
        # Imports, connections and the first compiled patterns are no part of a long run.
        await reward.score([rollout.model_copy(update={"mode": "eval"}) for rollout in first])
        wall, cpu = time.perf_counter(), time.process_time()
        judgements = await reward.score(rollouts)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        await reward.aclose()
        stored = store.count()
    if stored != len(rollouts) or any(j.reward is None for j in judgements):
        raise ConfigError(f"bench: {stored} of {len(rollouts)} judgements were stored")
    return {
        "seconds": wall,
        "judgements_per_s": len(rollouts) / wall,
        "cpu_ms_per_judgement": 1000 * cpu / len(rollouts),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


if __name__ == "__main__":
    main(sys.argv[1:])
