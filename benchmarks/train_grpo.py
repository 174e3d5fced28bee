"""Cost of grading through `TRLReward` in TRL's GRPO: the same training beside a constant reward.

    result = compare_grpo(folder, rounds=3)

The model, tokenizer and prompts of `train_ppo.make_inputs`, in groups of 8. Both sides are TRL's
GRPOTrainer with the same arguments; the chat answers at once, so that what is left is this
package: rollouts, prompts, parsing, the store, monitors and the callback. In every round the two
sides follow one another, each in a process of its own, and the order alternates.

Also a program, for one run: python benchmarks/train_grpo.py FOLDER mpo|plain UPDATES
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mpo.chat import ScriptedChat
from mpo.errors import ConfigError
from mpo.evolve.options import Evolve
from mpo.integrations import trl as mpo_trl
from mpo.reward import EvolvingReward
from train_ppo import bench_task, make_inputs, run_child, same_score

__all__ = ["GRPO_CONDITIONS", "compare_grpo", "overhead", "run_grpo"]

GRPO_CONDITIONS: Mapping[str, Any] = {
    "per_device_train_batch_size": 16,
    "num_generations": 8,
    "max_completion_length": 64,
    "beta": 0.05,
    "learning_rate": 1e-6,
    "temperature": 1.0,
}
"""Arguments of GRPOConfig on both sides."""

SIDES = ("plain", "mpo")


def run_grpo(folder: Path, side: str, updates: int) -> dict[str, list[float]]:
    """In this process: wall and CPU seconds of each update after the first.

    Args:
        folder: What `make_inputs` wrote.
        side: `mpo` for `TRLReward` and `MPOCallback`, `plain` for a constant reward.
        updates: One more than are measured.

    Returns:
        `wall`, `cpu`; and of ours `inside`, the CPU seconds of them within reward and callback.
    """
    import torch
    from datasets import Dataset
    from transformers import PrinterCallback, ProgressCallback
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

    torch.set_num_threads(1)
    conditions = json.loads((folder / "conditions.json").read_text())
    texts = json.loads((folder / "texts.json").read_text())
    clock = _Clock()
    with tempfile.TemporaryDirectory() as scratch:
        rewards: list[Any] = [_constant]
        callbacks: list[Any] = [clock.callback("before"), clock.callback("after")]
        if side == "mpo":
            reward = EvolvingReward(
                bench_task(conditions["response"]),
                ScriptedChat(same_score),
                Path(scratch) / "mpo.db",
                evolve=Evolve(every=None),
            )
            rewards = [clock.timed(mpo_trl.TRLReward(reward))]
            callbacks.insert(1, mpo_trl.MPOCallback(reward))
        trainer = GRPOTrainer(
            str(folder / "model"),
            reward_funcs=rewards,
            args=GRPOConfig(
                **GRPO_CONDITIONS,
                output_dir=scratch,
                max_steps=updates,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                dataloader_pin_memory=False,
                report_to="none",
                save_strategy="no",
                logging_steps=1,
                disable_tqdm=True,
                seed=0,
            ),
            train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
            callbacks=callbacks,
        )
        trainer.remove_callback(PrinterCallback)
        trainer.remove_callback(ProgressCallback)
        trainer.train()
    return clock.figures()


def _constant(completions: Sequence[Any], **_: Any) -> list[float]:
    return [0.6] * len(completions)


class _Clock:
    """When updates end, and how long this package had the processor in each."""

    def __init__(self) -> None:
        self.ends: list[tuple[float, float]] = []
        self.inside: list[float] = [0.0]
        self.began = 0.0

    def timed(self, reward: mpo_trl.TRLReward) -> Callable[..., Any]:
        async def mpo_reward(**given: Any) -> list[float | None]:
            before = time.process_time()
            rewards = await reward(**given)
            self.inside[-1] += time.process_time() - before
            return rewards

        return mpo_reward

    def callback(self, place: str) -> Any:
        """For the place before, or after, the callback that is timed."""
        from transformers import TrainerCallback

        clock = self

        class Mark(TrainerCallback):
            def on_step_end(self, *_: Any, **__: Any) -> None:
                if place == "before":
                    clock.began = time.process_time()
                    return
                clock.inside[-1] += time.process_time() - clock.began
                clock.inside.append(0.0)
                clock.ends.append((time.perf_counter(), time.process_time()))

        return Mark()

    def figures(self) -> dict[str, list[float]]:
        pairs = list(pairwise(self.ends))
        return {
            "wall": [b[0] - a[0] for a, b in pairs],
            "cpu": [b[1] - a[1] for a, b in pairs],
            "inside": self.inside[1:-1],
        }


def compare_grpo(
    folder: Path,
    *,
    updates: int = 8,
    rounds: int = 3,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Seconds per update of both sides, and what ours adds, in shares of the plain one.

    Args:
        folder: Folder for model and prompts; made if missing.
        updates: Timed per run, after one that is not.
        rounds: Of both sides, one after the other.
        say: Called with a line before each run.

    Raises:
        ConfigError: A run failed.
    """
    make_inputs(folder)
    rows = []
    for number in range(rounds):
        row: dict[str, Any] = {"load": os.getloadavg()[0]}
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            say(f"round {number + 1} of {rounds}: GRPO, {side}")
            run = run_child(__file__, str(folder), side, str(updates + 1))
            row[side] = {kind: median(run[kind]) for kind in ("wall", "cpu", "inside")}
        rows.append(row)
    return overhead(rows)


def overhead(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over rounds.

    `overhead` is the ratio of both sides within a round, minus 1. Two processes differ by some
    percent whatever they do; `inside`, the CPU time within reward and callback as a share of the
    rest of the update, has no such noise.
    """
    found: dict[str, Any] = {"rounds": list(rows)}
    for side in SIDES:
        found[f"{side}_s"] = {
            kind: round(median(row[side][kind] for row in rows), 4) for kind in ("wall", "cpu")
        }
    found["overhead"] = {
        kind: round(median(row["mpo"][kind] / row["plain"][kind] for row in rows) - 1, 4)
        for kind in ("wall", "cpu")
    }
    mine = [row["mpo"] for row in rows]
    found["inside"] = round(median(one["inside"] / (one["cpu"] - one["inside"]) for one in mine), 4)
    return found


def main() -> None:
    folder, side, updates = sys.argv[1:]
    if side not in SIDES:
        raise ConfigError(f"side {side!r}: one of {', '.join(SIDES)}")
    sys.stdout.write(json.dumps(run_grpo(Path(folder), side, int(updates))) + "\n")


if __name__ == "__main__":
    main()
