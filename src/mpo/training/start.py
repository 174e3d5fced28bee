"""Train with the algorithm that the settings name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..integrations.trainer_rollouts import GoldScorer
from ..reward import EvolvingReward
from .ppo.trainer import train_ppo
from .reporting import Progress
from .settings import TrainerSettings
from .trackers import tensorboard_folder
from .trl_trainer import train_trl

__all__ = ["train"]


def train(
    *,
    reward: EvolvingReward,
    settings: TrainerSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    gold_scorer: GoldScorer | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a policy, from the beginning or from the newest complete checkpoint.

    In the folder: `checkpoints/checkpoint-N/`; `rubrics/*.md`, one file per rubric that took
    effect; `tensorboard/`, where `report_to` has it. A run that has checkpoints continues from the
    newest complete one, with the rubric, the random state and the learning rate that it had then.

    Started with `torchrun`, every process calls `train` with a reward on the same store. On a CPU
    torch takes as many threads as there are cores; OMP_NUM_THREADS=1 is faster where other programs
    run beside it.

    Args:
        reward: Scores the completions; its schedule says when the rubric may change.
        settings: How the policy is updated.
        model: Folder or hub id of a causal language model.
        rows: Dataset; each row has the policy's `prompt` (text), and may have other columns.
        folder: The run's folder; made if missing.
        seed: Random seed for sampling, data order and new weights.
        gold_scorer: Scores the same completions from outside.
        progress: Called on the main process after each update.

    Returns:
        JSON values: `steps`, `resumed_from`, `seconds`, `checkpoint`, `rubrics`, `head`, `usage`,
        `tensorboard` (folder, or None).

    Raises:
        ConfigError: Settings, model or installation cannot be used. No model was called yet.
        DataError: There are too few rows, or one has no prompt.
        UnscoredError: Too many completions stayed unscored.
        StoreError: A checkpoint cannot be written or read; what was stored before is kept.
    """
    trainer = train_ppo if settings.algorithm == "ppo" else train_trl
    result = trainer(
        reward=reward,
        settings=settings,
        model=model,
        rows=rows,
        folder=folder,
        seed=seed,
        gold_scorer=gold_scorer,
        progress=progress,
    )
    board = tensorboard_folder(settings, folder)
    return {**result, "tensorboard": str(board) if board else None}
