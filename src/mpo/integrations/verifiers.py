"""verifiers 0.4 and prime-rl: an evolving reward as a judge plugin.

    [[env.taskset.task.judges]]
    id = "mpo-judge"                      # the module `mpo_judge`, which comes with this package
    name = "mpo"
    service = "http://127.0.0.1:8000"     # mpo serve config.yaml service.every_items=640
    columns = ["answer"]                  # fields of the task that the reward model may need

Judges run in the environment's worker processes, and see neither step nor group: the service counts
(`service.every_items`), and completions of one prompt are a group. An environment for evaluation
sets `mode = "eval"`. A rollout that stays unscored ends with an error, as verifiers expects, and
not with a reward of 0.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

from verifiers.v1 import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    Judge,
    JudgeConfig,
)

from ..errors import ChatReplyError
from ..service.client import RewardClient
from ..service.wire import METRICS

__all__ = ["MPOJudge", "MPOJudgeConfig"]


class MPOJudgeConfig(JudgeConfig):  # type: ignore[misc, unused-ignore]
    """Keys of the plugin, beside verifiers' own (`id`, `name`, `weight`)."""

    service: str = "http://127.0.0.1:8000"
    """URL of the reward service."""
    run_id: str = ""
    """Run that the rewards must come from; a service of another run refuses. Empty for any."""
    mode: Literal["train", "eval"] = "train"
    """`eval` rollouts never enter the evidence, nor the count."""
    view: Literal["last_reply", "full_trace"] = "last_reply"
    """Part of the rollout that is graded."""
    columns: list[str] = []
    """Fields of the task's data that are sent along."""
    deadline_s: float = 120.0
    """Longest time to wait for a score, in seconds."""


class MPOJudge(Judge[float, MPOJudgeConfig]):  # type: ignore[misc, unused-ignore]
    """Judge that gets its scores from the reward service."""

    async def score(self, task: Any, trace: Any) -> float:
        config = self.config
        full = config.view == "full_trace"
        item = {
            "id": trace.id,
            "prompt": task.prompt_text,
            "completion": trace.transcript if full else trace.last_reply,
            "columns": {name: getattr(task, name) for name in config.columns},
        }
        client = _client(config.service, config.run_id, config.deadline_s)
        (result,) = await client.score([item], mode=config.mode)
        trace.record_metrics({key: float(result["metrics"][key]) for key in METRICS})
        calls = trace.info.setdefault("judge_calls", [])
        calls.append({"judge": self.reward_name, **result["info"], "rubric": result["rubric_id"]})
        if result["reward"] is None:
            raise ChatReplyError(f"unscored: {result['error']}")
        return float(result["reward"])


@functools.cache
def _client(url: str, run_id: str, deadline_s: float) -> RewardClient:
    """One client per service: verifiers makes a judge for every rollout."""
    return RewardClient(url, run_id=run_id, deadline_s=deadline_s)
