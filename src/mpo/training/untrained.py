"""Base: the arm without training. The untrained policy's texts are scored, and that is all.

What it says is where every other arm began. It has the arguments and the result of `run.train`,
so that a command can hold either.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from ..chat.event_loop import run_in_loop
from ..integrations.trl import GoldScorer
from ..records import Judgement, Rollout
from ..reward import EvolvingReward
from .blind import sample_batch
from .files import write_rubrics
from .model import check_before_loading, check_model, load_policy, load_tokenizer, quiet
from .settings import TrainerSettings
from .trl_trainer import StepReport

__all__ = ["BATCHES", "score_untrained"]

BATCHES = 10
"""Batches that are scored, at most: as many steps as a run's start and end are means over."""


def score_untrained(
    *,
    reward: EvolvingReward,
    settings: TrainerSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    folder: Path,
    seed: int,
    auditor: GoldScorer | None = None,
    progress: Callable[[StepReport], None] | None = None,
) -> dict[str, Any]:
    """Sample batches of the run's size from the policy as it is, and score them.

    Started again after a crash it samples the same texts; what was scored is not asked again.

    Args:
        reward: Scores the completions; its rubric stays in force.
        settings: Batch size and sampling; at most `steps` batches.
        model: Folder or hub id of a causal language model.
        rows: Dataset; each row has the policy's `prompt`.
        folder: Of the run.
        seed: Of the choice of prompts and of sampling.
        auditor: Scores the same completions from outside.
        progress: Called after each batch.

    Raises:
        ConfigError: Settings or model cannot be used. Nothing was asked yet.
        UnscoredError: Too many completions stayed unscored.
    """
    check_before_loading(settings, rows)
    check_model(model)
    started = told = time.monotonic()
    batches = min(BATCHES, settings.steps)
    with quiet():
        policy, tokenizer = load_policy(model, settings), load_tokenizer(model)
    try:
        for n in range(1, batches + 1):
            batch = sample_batch(policy, tokenizer, reward, settings, rows, n, seed)
            judgements = run_in_loop(reward.score(batch))
            gold = _audited(reward, auditor, batch)
            if progress is not None:
                seconds, told = time.monotonic() - told, time.monotonic()
                progress(_report(n, batches, batch, judgements, gold, reward, seconds))
    finally:
        run_in_loop(reward.aclose())
    store = reward.store
    write_rubrics(folder / "rubrics", store)
    return {
        "steps": 0,
        "resumed_from": None,
        "seconds": round(time.monotonic() - started, 3),
        "checkpoint": None,
        "rubrics": len({d.proposed for d in store.lineage() if d.accepted}),
        "head": store.heads(),
        "usage": {role: usage.model_dump() for role, usage in store.usage().items()},
    }


def _audited(
    reward: EvolvingReward, auditor: GoldScorer | None, batch: Sequence[Rollout]
) -> list[float]:
    if auditor is None:
        return []
    audits = auditor.audit(batch)
    reward.store.add_external_scores(audits, name="gold")
    return [value for _, value, _ in audits if value is not None]


def _report(
    n: int,
    batches: int,
    batch: Sequence[Rollout],
    judgements: Sequence[Judgement],
    gold: Sequence[float],
    reward: EvolvingReward,
    seconds: float,
) -> StepReport:
    rewards = [j.normalized_reward for j in judgements if j.normalized_reward is not None]
    return StepReport(
        step=n,
        steps=batches,
        reward=fmean(rewards) if rewards else None,
        gold=fmean(gold) if gold else None,
        audit=None,
        unscored=len(judgements) - len(rewards),
        words=fmean(len(rollout.completion.split()) for rollout in batch),
        rubric_id=reward.rubric().id,
        kl=None,
        decision=None,
        seconds=seconds,
    )
