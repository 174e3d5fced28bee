"""Blind: the arm that spends the meta steps before training, on the untrained policy.

It answers "would the same effort have found the same rubric without watching the policy learn?":
as many meta steps as the run it is compared with, each on fresh completions of the policy before
training. The rubric that comes out is then fixed (DESIGN §7.5).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ..chat.event_loop import run_in_loop
from ..errors import ConfigError
from ..records import Rollout
from ..reward import EvolvingReward
from ..rubric import Rubric
from .model import check_before_loading, check_model, load_policy, load_tokenizer, quiet
from .settings import TrainerSettings

__all__ = ["blind_rubric", "sample_batch"]


def blind_rubric(
    *,
    reward: EvolvingReward,
    settings: TrainerSettings,
    model: str,
    rows: Sequence[Mapping[str, Any]],
    rounds: int,
    seed: int,
) -> Rubric:
    """Evolve the rubric on the policy before training.

    Each round samples one update's worth of completions and holds one meta step. Rounds that are
    decided already are not repeated, so that it may be called again after a crash.

    Args:
        reward: On a store of its own (`folder/blind.db`), with `schedule=Every(1)`.
        settings: Batch size and sampling are the run's.
        model: Folder or hub id.
        rows: Dataset; each row has a `prompt`.
        rounds: Meta steps to hold.
        seed: Of the choice of prompts and of sampling.

    Raises:
        ConfigError: The model cannot be used, or the reward's schedule skips a round.
        UnscoredError: Too many completions stayed unscored.
    """
    skipped = [n for n in range(1, rounds + 1) if not reward.schedule.due(n)]
    if skipped:
        raise ConfigError(
            f"blind: the reward's schedule holds no meta step after round {skipped[0]}: give it "
            "schedule=Every(1)"
        )
    check_before_loading(settings, rows)
    done = {d.step for d in reward.store.lineage() if d.kind == "evolve"}
    left = [n for n in range(1, rounds + 1) if n not in done]
    if left:
        check_model(model)
        with quiet():
            policy, tokenizer = load_policy(model, settings), load_tokenizer(model)
        try:
            for n in left:
                batch = sample_batch(policy, tokenizer, reward, settings, rows, n, seed)
                run_in_loop(reward.score(batch))
                run_in_loop(reward.step(n))
        finally:
            run_in_loop(reward.aclose())
    return reward.rubric()


def sample_batch(
    policy: Any,
    tokenizer: Any,
    reward: EvolvingReward,
    settings: TrainerSettings,
    rows: Sequence[Mapping[str, Any]],
    n: int,
    seed: int,
) -> list[Rollout]:
    """Completions of round `n`, the same in every run with the same seed."""
    picked = random.Random(f"mpo:blind:{seed}:{n}").sample(list(rows), settings.prompts)
    repeated = [row for row in picked for _ in range(settings.num_generations)]
    size = settings.micro_batch_size or len(repeated)
    texts: list[str] = []
    with _torch_seed(seed * 1_000_003 + n):
        for start in range(0, len(repeated), size):
            prompts = [str(row["prompt"]) for row in repeated[start : start + size]]
            texts += _complete(policy, tokenizer, prompts, reward, settings)
    return [
        Rollout(
            prompt=str(row["prompt"]),
            completion=text,
            columns={n: value for n, value in row.items() if n not in ("prompt", "cohort")},
            cohort=str(row.get("cohort") or ""),
            step=n - 1,
            index=i,
        )
        for i, (row, text) in enumerate(zip(repeated, texts, strict=True))
    ]


def _complete(
    policy: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    reward: EvolvingReward,
    settings: TrainerSettings,
) -> list[str]:
    import torch

    inputs = tokenizer(list(prompts), return_tensors="pt", padding=True).to(policy.device)
    with torch.no_grad():
        ids = policy.generate(
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
            max_new_tokens=reward.task.spec.response.max_tokens,
            do_sample=True,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=0,
            pad_token_id=tokenizer.pad_token_id,
        )
    new = ids[:, inputs["input_ids"].shape[1] :]
    return [str(text) for text in tokenizer.batch_decode(new, skip_special_tokens=True)]


@contextmanager
def _torch_seed(seed: int) -> Iterator[None]:
    """Torch's random state from a seed, and afterwards as it was."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
