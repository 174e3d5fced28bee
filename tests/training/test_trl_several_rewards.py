"""TRLReward beside other reward functions, on the advantages that TRL itself computes."""

from __future__ import annotations

import hashlib
import json
import statistics
import threading
from pathlib import Path
from typing import Any

import pytest

from mpo.chat.cache import normalize_fence_ids
from mpo.errors import ConfigError, UnscoredError
from mpo.integrations.trl import MPOCallback, TRLReward
from training.tiny import ROWS, answer, tiny_reward

WEIGHTS = [1.0, 0.1, 0.5]


def sometimes_silent(messages: Any, schema: Any, seed: Any) -> str:
    """No answer for a third of the texts."""
    text = json.dumps(normalize_fence_ids(messages))
    silent = int(hashlib.sha256(text.encode()).hexdigest(), 16) % 3 == 0
    return "" if silent else answer(messages, schema, seed)


def silent(messages: Any, schema: Any, seed: Any) -> str:
    return ""


def length(completions: list[str], **_: Any) -> list[float]:
    # As a parser with a time limit by signals needs it.
    assert threading.current_thread() is threading.main_thread()
    return [float(len(completion)) for completion in completions]


async def tea(completions: list[str], **_: Any) -> list[float | None]:
    return [1.0 if "tea" in completion else None for completion in completions]


def trained(folder: Path, model: str, reply: Any, kind: str = "grpo", **options: Any) -> Any:
    """A trainer after one update, with the advantages that its loss was given."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    trainer_class, config = {
        "grpo": (GRPOTrainer, GRPOConfig),
        "rloo": (RLOOTrainer, RLOOConfig),
    }[kind]

    class Observed(trainer_class):
        advantages: tuple[float, ...] = ()

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **more: Any) -> Any:
            self.advantages = (*self.advantages, *inputs["advantages"].tolist())
            return super().compute_loss(model, inputs, *args, **more)

    reward = tiny_reward(folder, reply, max_unscored=1.0)
    functions = options.pop("functions", None) or TRLReward(reward).beside(length, tea)
    trainer = Observed(
        model,
        reward_funcs=functions,
        args=config(
            **{
                "output_dir": str(folder / "out"),
                "use_cpu": True,
                "bf16": False,
                "per_device_train_batch_size": 8,
                "num_generations": 4,
                "max_completion_length": 12,
                "max_steps": 1,
                "report_to": "none",
                "save_strategy": "no",
                "disable_tqdm": True,
                "logging_steps": 1,
                "reward_weights": WEIGHTS[: len(functions)],
                **options,
            }
        ),
        train_dataset=Dataset.from_list(ROWS),
        callbacks=[MPOCallback(reward)],
    )
    trainer.train()
    return trainer, reward


def totals(reward: Any) -> list[list[float | None]]:
    """Each group's weighted sums; None where our reward has no score."""
    sums: list[float | None] = []
    for case in reward.store.window(scored=None):
        text = case.rollout.completion
        ours = case.judgement.reward
        others = WEIGHTS[1] * len(text) + WEIGHTS[2] * ("tea" in text)
        sums.append(None if ours is None else ours + others)
    return [sums[i : i + 4] for i in range(0, len(sums), 4)]


def known(values: list[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def sum_then_normalize(groups: list[list[float | None]], scale: str) -> list[float]:
    everything = known([value for group in groups for value in group])
    wanted = []
    for group in groups:
        mean = statistics.fmean(known(group))
        spread = statistics.stdev(known(group) if scale == "group" else everything)
        wanted += [0.0 if value is None else (value - mean) / (spread + 1e-4) for value in group]
    return wanted


def leave_one_out(groups: list[list[float | None]]) -> list[float]:
    wanted = []
    for group in groups:
        scored = known(group)
        for value in group:
            others = (sum(scored) - (value or 0.0)) / max(1, len(scored) - 1)
            alone = value is None or len(scored) == 1
            wanted.append(0.0 if alone else value - others)  # type: ignore[operator]
    return wanted


# `scale_rewards="none"` is what `group` does before it divides.
@pytest.mark.parametrize("scale", ["group", "batch"])
def test_an_unscored_completion_neither_learns_nor_counts(
    model: str, tmp_path: Path, scale: str
) -> None:
    trainer, reward = trained(tmp_path, model, sometimes_silent, scale_rewards=scale)
    groups = totals(reward)
    missing = [value for group in groups for value in group].count(None)
    assert 0 < missing < 8
    assert sorted(trainer.advantages) == pytest.approx(
        sorted(sum_then_normalize(groups, scale)), abs=1e-4
    )
    log = trainer.state.log_history[0]
    assert log["mpo/unscored"] == missing / 8
    assert log["reward"] == pytest.approx(
        statistics.fmean(known([value for group in groups for value in group])), abs=1e-4
    )
    assert {"rewards/mpo_reward/mean", "rewards/length/mean", "rewards/tea/mean"} <= set(log)


def test_the_same_where_each_reward_is_normalized_by_itself(model: str, tmp_path: Path) -> None:
    options = {"multi_objective_aggregation": "normalize_then_sum"}
    trainer, reward = trained(tmp_path, model, sometimes_silent, **options)
    missing = [value for group in totals(reward) for value in group].count(None)
    assert 0 < missing < 8
    zero = [value for value in trainer.advantages if value == 0.0]
    assert len(zero) == missing
    # The advantages of what counts have mean 0: nothing of the others is among them.
    assert sum(trainer.advantages) == pytest.approx(0.0, abs=1e-4)
    assert statistics.stdev(v for v in trainer.advantages if v) == pytest.approx(1.0, abs=1e-3)


def test_the_same_with_rloo(model: str, tmp_path: Path) -> None:
    trainer, reward = trained(tmp_path, model, sometimes_silent, "rloo")
    assert sorted(trainer.advantages) == pytest.approx(
        sorted(leave_one_out(totals(reward))), abs=1e-4
    )


def test_a_batch_without_any_score_moves_nothing(model: str, tmp_path: Path) -> None:
    trainer, _ = trained(tmp_path, model, silent)
    assert trainer.advantages == (0.0,) * 8
    log = trainer.state.log_history[0]
    assert log["mpo/unscored"] == 1.0
    assert "mpo/reward_normalized" not in log


def test_other_functions_as_they_are_would_turn_unscored_into_0(model: str, tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)
    alone = TRLReward(reward)
    with pytest.raises(ConfigError, match=r"TRLReward\(reward\).beside\(length, tea\)"):
        trained(tmp_path, model, answer, functions=[alone, length, tea])
    assert reward.store.count(scored=None) == 0, "nothing was paid for"
    two = [alone, TRLReward(reward)]
    with pytest.raises(ConfigError, match="takes one TRLReward"):
        trained(tmp_path, model, answer, functions=two)
    with pytest.raises(ConfigError, match="pass all that beside"):
        trained(tmp_path, model, answer, functions=alone.beside(length)[1:])


def test_what_is_no_function_is_refused(tmp_path: Path) -> None:
    from torch import nn

    reward = TRLReward(tiny_reward(tmp_path))
    with pytest.raises(ConfigError, match="takes functions, not Linear"):
        reward.beside(nn.Linear(1, 1))
    with pytest.raises(ConfigError, match="takes functions, not str"):
        reward.beside("a/reward-model")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="takes one TRLReward"):
        reward.beside(reward)


def test_an_error_of_the_reward_ends_the_functions_beside_it(model: str, tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path / "r", silent, max_unscored=0.2)
    with pytest.raises(UnscoredError, match="stayed unscored"):
        trained(tmp_path, model, silent, functions=TRLReward(reward).beside(tea, length))
