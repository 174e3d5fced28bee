"""Time that training waits for a slow MRM: the meta step in the background, and as in the paper.

    result = compare_delay(step_s=0.25)

The training step is a timed stand-in (a sleep); everything else is the real thing: rollouts are
scored and stored, and every tenth update starts a meta step whose calls follow each other in three
rounds (analyses, refinements, merge), each as long as a step. So the MRM takes three steps, and
some milliseconds more. No torch is loaded.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mpo.chat import ChatRequest, Completion, Message, Schema, ScriptedChat
from mpo.chat.event_loop import run_in_loop
from mpo.errors import ConfigError
from mpo.evolve.options import Evolve
from mpo.records import Rollout
from mpo.reward import EvolvingReward
from mpo.task import load_task

__all__ = ["EVERY", "MOST_WAIT", "MRM_STEPS", "compare_delay"]

EVERY = 10
"""Updates between meta steps (k)."""
MRM_STEPS = 3
"""Steps that a meta step's calls take: its rounds, each as long as one step."""
MOST_WAIT = 0.02
"""Share of wall time that may be waited with `delay` 4."""

BATCH, SAMPLES = 16, 4


class _SlowChat(ScriptedChat):
    """Answers after a while. Calls made together are answered together."""

    def __init__(self, seconds: float) -> None:
        super().__init__(_proposal, name="slow")
        self.seconds = seconds

    async def complete(self, request: ChatRequest) -> Completion:
        await asyncio.sleep(self.seconds)
        return await super().complete(request)


def compare_delay(
    *,
    step_s: float = 0.25,
    meta_steps: int = 4,
    delay: int = 4,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Seconds waited with the meta step in the background, and with a blocking one (the paper's).

    Args:
        step_s: Seconds of a training step.
        meta_steps: Held in each run.
        delay: Updates between the start of a meta step and its decision, in the background.
        say: Called with a line before each run.

    Returns:
        `background` and `blocking`, each with `delay`, `steps`, `decisions`, `wall_s`,
        `waited_s` and `waited_share` (0 to 1, of wall time); and the conditions.
    """
    found: dict[str, Any] = {
        "step_s": step_s,
        "every": EVERY,
        "mrm_s": MRM_STEPS * step_s,
        "target_share": MOST_WAIT,
    }
    for name, after in (("background", delay), ("blocking", 0)):
        say(f"{meta_steps} meta steps, delay {after}")
        steps = meta_steps * EVERY + max(delay, 1)
        found[name] = _run(steps, step_s, after)
    return found


def _run(steps: int, step_s: float, delay: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        reward = EvolvingReward(
            load_task("essay"),
            ScriptedChat(_score),
            Path(scratch) / "mpo.db",
            meta_chat=_SlowChat(step_s),
            evolve=Evolve(every=EVERY, samples=SAMPLES, gate="always", delay=delay),
        )
        started = time.perf_counter()
        for n in range(1, steps + 1):
            run_in_loop(reward.score(_rollouts(n - 1)))
            time.sleep(step_s)
            run_in_loop(reward.step(n))
        wall = time.perf_counter() - started
        held = [d for d in reward.store.lineage() if d.kind == "evolve"]
        run_in_loop(reward.aclose())
        reward.store.close()
    failed = [d.reason for d in held if d.refinement is None]
    if failed:
        raise ConfigError(f"bench: a meta step failed: {failed[0]}")
    return {
        "delay": delay,
        "steps": steps,
        "decisions": len(held),
        "wall_s": round(wall, 3),
        "waited_s": round(reward.waited_s, 3),
        "waited_share": round(reward.waited_s / wall, 4),
    }


def _rollouts(step: int) -> list[Rollout]:
    return [
        Rollout(
            prompt=f"Write about place {i}.",
            completion=f"Draft {step} of place {i}: " + "a harbour in the morning light " * 12,
            step=step,
            index=i,
        )
        for i in range(BATCH)
    ]


def _score(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    """A score that depends on the text, so that there is something to tell apart."""
    digit = sum(map(ord, messages[-1]["content"])) % 6
    properties = (schema or {}).get("properties", {})
    return json.dumps({name: {"rationale": "", "score": digit} for name in properties})


def _proposal(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    """An analysis, or a rubric of one criterion."""
    title: Any = (schema or {}).get("title")
    if title == "analysis":
        return json.dumps({"findings": "Little is said.", "verdict": "fair", "advice": "Say more."})
    levels: list[Mapping[str, Any]] = [
        {"score": 0, "text": "nothing is said of the place"},
        {"score": 5, "text": "the place can be seen"},
    ]
    criterion = {
        "name": "Description",
        "text": "How well the reader can see the place that is written about.",
        "weight": 1,
        "lowest": 0,
        "highest": 5,
        "levels": levels,
    }
    return json.dumps({"reasons": "The texts say little.", "criteria": [criterion]})
