"""A reward service as a process of its own, over a scripted chat: what a test kills and restarts.

    python tests/service/node.py FOLDER [PORT] [every=N] [delay=S] [k=N] [deadline=S] [calls=FILE]
                                   [header=S] [body=S] [write=S] [drain=S]

It prints its URL. With `calls` each call to the RM is noted in a file before it is answered. A
completion with "SLOW" in it takes 30 s, one with "BROKEN" gets no usable answer.
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakes import loop_answer, make_reward, text_of
from mpo.chat import ChatRequest, Completion, Message, Schema, ScriptedChat
from mpo.judge.scale import Scale
from mpo.service.guard import limits_for
from mpo.service.server import serve
from mpo.service.service import RewardService, ServiceSettings


class SlowChat(ScriptedChat):
    """The scripted chat of the laws, which takes its time."""

    def __init__(self, delay: float = 0.0, calls: Path | None = None) -> None:
        super().__init__(self._say, name="node")
        self.delay = delay
        self.file = calls.open("a") if calls else None
        self.hang = 30.0

    async def complete(self, request: ChatRequest) -> Completion:
        text = text_of(request.messages)
        assert request.schema is not None
        if self.file is not None and request.schema["title"] == "judgement":
            print(json.dumps(text[-300:]), file=self.file, flush=True)
        await asyncio.sleep(self.hang if "SLOW" in text else self.delay)
        completion = await super().complete(request)
        self.calls.clear()  # it is asked for hours, too
        return completion

    def _say(self, messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        assert schema is not None
        if schema["title"] == "judgement" and "BROKEN" in text_of(messages):
            return "no answer"
        return loop_answer(messages, schema, seed)


def make_service(
    folder: Path,
    *,
    k: int = 10,
    chat: Any = None,
    delay: int = 0,
    scale: Scale | str = "normalized",
    **settings: Any,
) -> RewardService:
    folder.mkdir(parents=True, exist_ok=True)
    reward = make_reward(
        "essay",
        chat if chat is not None else SlowChat(),
        folder / "mpo.db",
        every=k,
        max_unscored=1.0,
        samples=4,
        context_cases=1,
        baseline_cases=1,
        lint=False,
        delay=delay,
        scale=scale,
    )
    return RewardService(
        reward,
        run_id="r1",
        settings=ServiceSettings(**settings),
    )


def say(url: str) -> None:
    sys.stdout.write(f"{url}\n")
    sys.stdout.flush()


def main() -> None:
    folder, *rest = sys.argv[1:]
    port = int(rest.pop(0)) if rest and rest[0].isdecimal() else 0
    given = dict(part.split("=", 1) for part in rest)
    calls = Path(given["calls"]) if "calls" in given else None
    service = make_service(
        Path(folder),
        k=int(given.get("k", 10)),
        chat=SlowChat(float(given.get("delay", 0)), calls),
        every_items=int(given["every"]) if "every" in given else None,
        deadline_s=float(given.get("deadline", 20)),
    )
    limits = dataclasses.replace(
        limits_for("127.0.0.1", os.environ.get("MPO_TOKEN")),
        header_timeout_s=float(given.get("header", 15)),
        body_timeout_s=float(given.get("body", 30)),
        write_timeout_s=float(given.get("write", 30)),
        drain_s=float(given.get("drain", 30)),
    )
    serve(service, port=port, limits=limits, ready=say)


if __name__ == "__main__":
    main()
