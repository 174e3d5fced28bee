"""How long answers take, by role, over a resume."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from mpo.chat import TIMINGS, Budget, ChatRequest, Completion
from mpo.config.chats import compose
from mpo.config.schema import BudgetConfig
from mpo.errors import ChatTransportError
from mpo.records import Usage
from mpo.store import Store


class SlowChat:
    """Answers in 20 ms; what says `fail` fails."""

    name = "slow"

    async def complete(self, request: ChatRequest) -> Completion:
        await asyncio.sleep(0.02)
        if "fail" in request.messages[-1]["content"]:
            raise ChatTransportError("unreachable: nobody answers")
        return Completion("yes", Usage(calls=1, prompt_tokens=1, completion_tokens=1), "stop")

    async def aclose(self) -> None:
        pass


def ask(text: str) -> ChatRequest:
    return ChatRequest(({"role": "user", "content": text},))


def test_answers_are_timed_and_failures_are_not() -> None:
    budget = Budget()
    chat = budget.chat(SlowChat(), "rm")
    assert budget.timings["rm"].mean_s is None

    async def both() -> None:
        await asyncio.gather(chat.complete(ask("a")), chat.complete(ask("b")))

    asyncio.run(both())
    with pytest.raises(ChatTransportError):
        asyncio.run(chat.complete(ask("fail")))
    timing = budget.timings["rm"]
    assert timing.calls == 2
    assert timing.mean_s is not None
    assert 0.02 <= timing.mean_s <= timing.slowest_s <= timing.seconds


def test_timings_by_role_and_hits_outlast_a_resume(tmp_path: Path) -> None:
    def used(texts: list[str]) -> dict[str, Any]:
        with Store(tmp_path / "mpo.db") as store:
            chat = SlowChat()
            chats = compose(chat, chat, BudgetConfig(), store, cache=True)

            async def run() -> None:
                for text in texts:
                    await chats.rm.complete(ask(text))
                await asyncio.gather(*[chats.mrm.complete(ask("same")) for _ in range(3)])

            asyncio.run(run())
            chats.keep()
            return dict(json.loads(store.meta(TIMINGS) or ""))

    first = used(["a", "b", "a"])
    assert {role: (t["calls"], t["cached"], t["shared"]) for role, t in first.items()} == {
        "rm": (2, 1, 0),
        "mrm": (1, 0, 2),
    }
    second = used(["c", "b"])
    assert second["rm"]["calls"] == 3
    assert second["rm"]["cached"] == 2
    assert second["mrm"] == {**first["mrm"], "cached": 3}, "three known answers, nothing asked"
