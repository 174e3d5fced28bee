"""veRL 0.9: an evolving reward as a reward manager, and rubrics that go with the checkpoints.

    reward.reward_manager.source=importlib
    reward.reward_manager.module.path=pkg://mpo.integrations.verl
    reward.reward_manager.name=MPORewardManager
    trainer.checkpoint_callback_class=mpo.integrations.verl.MPOCheckpoint
    +mpo.url=http://127.0.0.1:8000

Where the package is installed, its entry point in `verl.plugins` registers the manager as `mpo`:
`reward.reward_manager.name=mpo` is enough then. Meta steps are
held by `verl_trainer.py`, or by the service's count (`service.every_items`).

veRL scores each sample in one of several worker processes; all of them call one service
(`mpo serve`), which has the rubric, the limits and the store. veRL takes no missing reward, so an
unscored sample gets its group's mean, flagged in `mpo_unscored` and `mpo_fallback`; if there is
none, the run stops.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verl.experimental.reward_loop.reward_manager import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    register,
)
from verl.experimental.reward_loop.reward_manager.base import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    RewardManagerBase,
)

from ..data import plain
from ..errors import ConfigError
from ..service.client import RewardClient
from ..service.wire import METRICS

__all__ = ["MPOCheckpoint", "MPORewardManager", "client_for", "restore"]

SNAPSHOT = "mpo_state.json"
"""File in a checkpoint's folder that says where the rubric and its evidence stood."""
EVAL_SPLITS = ("eval", "test", "val", "validation")


def client_for(config: Any) -> RewardClient:
    """A client of the service in veRL's config (`+mpo.url=…`) or in the environment (MPO_URL).

    Raises:
        ConfigError: Neither names one.
    """
    settings = config.get("mpo") or {}
    url = settings.get("url") or os.environ.get("MPO_URL")
    if not url:
        raise ConfigError(
            "veRL's config names no reward service: add +mpo.url=http://127.0.0.1:8000 to it, "
            "or set MPO_URL on every node"
        )
    return RewardClient(
        str(url),
        run_id=str(settings.get("run_id", "")),
        deadline_s=float(settings.get("deadline_s", 120)),
        patience_s=float(settings.get("patience_s", 600)),
    )


@register("mpo")
class MPORewardManager(RewardManagerBase):  # type: ignore[misc, unused-ignore]
    """Gets the reward of each sample from the reward service."""

    def __init__(
        self,
        config: Any,
        tokenizer: Any,
        compute_score: Any = None,
        reward_router_address: Any = None,
        reward_model_tokenizer: Any = None,
    ) -> None:
        super().__init__(config, tokenizer, compute_score)
        self.client = client_for(config)

    async def run_single(self, data: Any) -> dict[str, Any]:
        """The reward of one sample, as `reward_score` and `reward_extra_info`.

        `reward_extra_info` has the same keys for every sample, scored or not.

        Raises:
            MPOError: The service could not be reached for `patience_s`, or nothing was ever
                scored: better than a 0 that looks like a judgement.
        """
        sample = data[-1:][0]  # the last of several turns
        row = sample.non_tensor_batch
        completion = await self.loop.run_in_executor(None, self._completion, sample)
        item = {
            "id": _name(row),
            "group_id": str(row.get("uid", "")),
            "step": _step(row),
            "prompt": _prompt(row),
            "completion": completion,
            "columns": _columns(row),
        }
        (result,) = await self.client.score([item], mode=_mode(row), on_failure="group_mean")
        metrics = {key: float(result["metrics"][key]) for key in METRICS}
        return {
            "reward_score": float(result["reward"]),
            "reward_extra_info": {"mpo_score": float(result["score"]), **metrics},
        }

    def _completion(self, sample: Any) -> str:
        ids = sample.batch["responses"]
        length = int(sample.batch["attention_mask"][-ids.shape[-1] :].sum())
        return str(self.tokenizer.decode(ids[:length], skip_special_tokens=True))


class MPOCheckpoint:
    """Keeps a snapshot of the rubric's state in each checkpoint. veRL calls it on its driver.

    Args:
        config: veRL's config.
    """

    def __init__(self, config: Any = None) -> None:
        self.config = config
        self.client = client_for(config)

    def on_save(
        self,
        trainer: Any,
        global_step: int,
        checkpoint_dir: str,
        async_save: bool = False,
        **_: Any,
    ) -> None:
        # veRL saves before its step ends. The meta step of this update belongs to the checkpoint:
        # a resumed run begins with the next update.
        self.client.meta_step_now(global_step)
        answer = self.client.snapshot_now(f"global_step_{global_step}", global_step)
        path = Path(checkpoint_dir) / SNAPSHOT
        path.write_text(json.dumps(answer["snapshot"]), "utf-8")


def restore(checkpoint_dir: str | Path, url: str) -> dict[str, Any]:
    """Take the service back to a checkpoint. Call this before veRL resumes: veRL has no such hook.

    Args:
        checkpoint_dir: Folder of the checkpoint, `…/global_step_40`.
        url: The service's URL.

    Raises:
        ConfigError: The checkpoint was written without `MPOCheckpoint`, or belongs to another run.
    """
    path = Path(checkpoint_dir) / SNAPSHOT
    try:
        snapshot = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): was the checkpoint written with "
            "trainer.checkpoint_callback_class=mpo.integrations.verl.MPOCheckpoint?"
        ) from error
    return RewardClient(url).restore_now(snapshot=snapshot)


def _step(row: Mapping[str, Any]) -> int | None:
    """Updates that the policy had when it sampled this row; veRL counts its steps from 1."""
    steps = row.get("global_steps")
    return None if steps is None else max(0, int(steps) - 1)


def _name(row: Mapping[str, Any]) -> str:
    """Name that distinguishes equal completions of a prompt; empty where veRL gives none."""
    if row.get("uid") is None or row.get("session_id") is None:
        return ""
    return f"{row['uid']}-{row['session_id']}"


def _mode(row: Mapping[str, Any]) -> str:
    """Mode of a row: veRL does not tell it, but its datasets do, in `extra_info.split`."""
    extra = row.get("extra_info") or {}
    split = extra.get("split") if isinstance(extra, Mapping) else None
    return "eval" if split in EVAL_SPLITS else "train"


def _prompt(row: Mapping[str, Any]) -> Any:
    messages = plain(row.get("raw_prompt", ""))
    if not isinstance(messages, list):
        return str(messages)
    keys = ("content", "tool_calls", "function_call", "refusal")
    return [
        {"role": m.get("role", ""), **{key: m[key] for key in keys if m.get(key) is not None}}
        for m in messages
    ]


def _columns(row: Mapping[str, Any]) -> dict[str, Any]:
    """The dataset's columns, as JSON values."""
    extra = plain(row.get("extra_info") or {})
    columns = dict(extra) if isinstance(extra, dict) else {}
    truth = row.get("reward_model")
    if isinstance(truth, Mapping) and "ground_truth" in truth:
        columns["ground_truth"] = plain(truth["ground_truth"])
    if row.get("data_source") is not None:
        columns["data_source"] = str(row["data_source"])
    return columns
