"""One step of PPO on a batch: passes before, rewards per token, and the optimizer's epochs."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .engine import Engine
from .language_model import Weights
from .math import (
    AdaptiveKL,
    advantages,
    clipped_policy_loss,
    clipped_value_loss,
    kl_estimate,
    token_rewards,
    whiten,
)
from .rollout import CHUNK_TOKENS, Chunk, Sample, chunk_of, chunks

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Experience", "Update", "before", "learn"]


@dataclass
class Experience:
    """A batch and what policy, critic and reference said of it before the update.

    Tensors are [N, R]: a row per completion, a column per token.
    """

    samples: Sequence[Sample]
    mask: Tensor
    logps: Tensor
    values: Tensor
    reference: Tensor | None
    held: dict[tuple[int, ...], tuple[Tensor, Tensor]]
    """Log-probabilities and values of each micro-batch, still with their graphs."""
    chunks: dict[tuple[int, ...], Chunk]
    """Micro-batches that were made, by their rows."""


@dataclass(frozen=True)
class Update:
    """What an update measured, over all ranks; None where nothing was scored."""

    figures: dict[str, float]
    kl: float | None
    """Mean divergence per token from the policy before training."""


def before(engine: Engine, samples: Sequence[Sample], pad: int) -> Experience:
    """The passes that come before the rewards are known.

    Where the first epoch would begin with the very same forward pass (one mini-batch, no limit on
    memory), its graph is kept and the pass is made once.
    """
    import torch

    settings = engine.settings
    keep = settings.minibatches == 1 and settings.micro_batch_size is None and not engine.sharded
    longest = max(len(sample.completion) for sample in samples)
    mask = torch.zeros(len(samples), longest, dtype=torch.bool, device=engine.device)
    for row, sample in enumerate(samples):
        mask[row, : len(sample.completion)] = True
    blank = torch.zeros(mask.shape, device=engine.device)
    reference = blank.clone() if engine.settings.kl_coef else None
    found = Experience(samples, mask, blank, blank.clone(), reference, {}, {})
    folding = engine.ac.folding
    weights = folding.begin() if keep else folding.weights()
    for rows in _divide(engine, samples, range(len(samples))):
        chunk = _chunk(engine, found, rows, pad)
        index, inside = list(rows), mask[list(rows)]
        if found.reference is not None:
            _put(found.reference, index, inside, engine.reference(chunk))
        with torch.set_grad_enabled(keep):
            logps, values = engine.evaluate(chunk, weights)
        if keep:
            found.held[rows] = (logps, values)
        _put(found.logps, index, inside, logps.detach())
        _put(found.values, index, inside, values.detach())
    return found


def _divide(
    engine: Engine, samples: Sequence[Sample], rows: Sequence[int]
) -> list[tuple[int, ...]]:
    most = engine.settings.micro_batch_size
    small = most is None and engine.device.type == "cpu" and not engine.sharded
    return chunks(samples, rows, most=most, tokens=CHUNK_TOKENS if small else None)


def _chunk(engine: Engine, batch: Experience, rows: tuple[int, ...], pad: int) -> Chunk:
    if rows not in batch.chunks:
        batch.chunks[rows] = chunk_of(batch.samples, rows, pad, engine.device)
    return batch.chunks[rows]


def _put(target: Tensor, rows: list[int], inside: Tensor, flat: Tensor) -> None:
    block = target[rows]
    block[inside] = flat.to(target.dtype)
    target[rows] = block


# ---------------------------------------------------------------------- learning


@dataclass(frozen=True)
class _Targets:
    """What the passes of an update are compared with, [N, R] each."""

    logps: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def of(self, rows: list[int], inside: Tensor) -> tuple[Tensor, ...]:
        each = (self.logps, self.values, self.advantages, self.returns)
        return tuple(tensor[rows][inside] for tensor in each)


def learn(
    engine: Engine,
    batch: Experience,
    scores: Sequence[float | None],
    kl: AdaptiveKL,
    step: int,
    seed: int,
    pad: int,
) -> Update:
    """Update policy and critic; completions without a score are left out of everything.

    Args:
        engine: Model and optimizer.
        batch: From `before`.
        scores: Per completion, with the penalty for a missing end; None for unscored.
        kl: Coefficient of the divergence; adapted.
        step: 0-based; with the seed it decides the order of mini-batches.
        seed: The run's.
        pad: Padding token.
    """
    import torch

    rows = [row for row, score in enumerate(scores) if score is not None]
    n = int(engine.total(torch.tensor([float(len(rows))], device=engine.device)))
    if n == 0:
        batch.held.clear()
        engine.ac.folding.finish()
        return Update({}, None)
    known = torch.tensor([s if s is not None else 0.0 for s in scores], device=engine.device)
    scored = torch.zeros_like(batch.mask)
    scored[rows] = batch.mask[rows]
    divergence, figures, per_token = _divergence(engine, batch, scored, n)
    figures["objective/kl_coef"] = kl.coefficient
    rewards = token_rewards(known, divergence, kl.coefficient, batch.mask)
    targets = _targets(engine, batch, rewards, scored)
    figures |= _epochs(engine, batch, targets, scored, rows, step, seed, pad)
    sums = engine.total(torch.stack([known[rows].double().sum(), rewards[scored].double().sum()]))
    figures["objective/scores"], figures["objective/rlhf_reward"] = (sums / n).tolist()
    if "objective/kl" in figures:
        kl.update(figures["objective/kl"], n)
    return Update(figures, per_token)


def _divergence(
    engine: Engine, batch: Experience, scored: Tensor, n: int
) -> tuple[Tensor | None, dict[str, float], float | None]:
    """Divergence per token [N, R], figures, and its mean per token."""
    import torch

    entropy = -batch.logps[scored].double().sum()
    tokens = scored.sum().double()
    if batch.reference is None:
        sums = engine.total(torch.stack([entropy, tokens]))
        return None, {"objective/entropy": float(sums[0] / sums[1])}, None
    found = kl_estimate(batch.logps, batch.reference, engine.settings.kl_estimator)
    total = engine.total(torch.stack([entropy, tokens, found[scored].double().sum()]))
    figures = {
        "objective/entropy": float(total[0] / total[1]),
        "objective/kl": float(total[2] / n),
    }
    return found, figures, float(total[2] / total[1])


def _targets(engine: Engine, batch: Experience, rewards: Tensor, scored: Tensor) -> _Targets:
    settings = engine.settings
    if settings.whiten_rewards:
        rewards = whiten(rewards, scored, engine.total, shift_mean=False)
    advantage, returns = advantages(rewards, batch.values, batch.mask, settings.gamma, settings.lam)
    if settings.whiten_advantages:
        advantage = whiten(advantage, scored, engine.total)
    return _Targets(batch.logps, batch.values, advantage, returns)


def _epochs(
    engine: Engine,
    batch: Experience,
    targets: _Targets,
    scored: Tensor,
    rows: list[int],
    step: int,
    seed: int,
    pad: int,
) -> dict[str, float]:
    import torch

    settings = engine.settings
    tally = torch.zeros(6, dtype=torch.float64, device=engine.device)
    norm = 0.0
    everything = list(range(len(batch.samples)))
    for epoch in range(settings.epochs):
        rank = engine.accelerator.process_index
        order = list(everything)
        if settings.minibatches > 1:
            random.Random(f"mpo:ppo:{seed}:{step}:{epoch}:{rank}").shuffle(order)
        size = len(order) // settings.minibatches
        for start in range(0, len(order), size):
            part = order[start : start + size]
            norm = _minibatch(engine, batch, targets, scored, rows, part, tally, pad)
    sums = engine.total(tally).tolist()
    n = max(sums[0], 1.0)
    names = ("loss/policy", "loss/value", "policy/clipfrac", "value/clipfrac", "policy/approx_kl")
    return {**{name: s / n for name, s in zip(names, sums[1:], strict=True)}, "grad_norm": norm}


def _minibatch(
    engine: Engine,
    batch: Experience,
    targets: _Targets,
    scored: Tensor,
    rows: list[int],
    part: list[int],
    tally: Tensor,
    pad: int,
) -> float:
    """One optimizer step; the gradient norm."""
    wanted = set(rows)
    tokens = float(engine.total(scored[part].sum().double()[None]))
    if tokens == 0:
        return 0.0
    if batch.held:
        passes: list[tuple[int, ...]] = list(batch.held)
        weights = Weights()
    else:
        # A sharded model's ranks make the same number of passes, whatever was scored.
        used = part if engine.sharded else [row for row in part if row in wanted]
        passes = _divide(engine, batch.samples, used)
        weights = engine.ac.folding.begin()
    for number, each in enumerate(passes):
        loss = _loss(engine, batch, targets, scored, each, weights, tokens, tally, pad)
        engine.backward(loss, last=number + 1 == len(passes))
    batch.held.clear()
    engine.ac.folding.finish()
    return engine.step()


def _loss(
    engine: Engine,
    batch: Experience,
    targets: _Targets,
    scored: Tensor,
    rows: tuple[int, ...],
    weights: Weights,
    tokens: float,
    tally: Tensor,
    pad: int,
) -> Tensor:
    """Loss of a micro-batch: its share of the mean over the mini-batch's tokens on all ranks."""
    import torch

    settings = engine.settings
    index = list(rows)
    inside = batch.mask[index]
    kept = batch.held.get(rows)
    logps, values = kept or engine.evaluate(_chunk(engine, batch, rows, pad), weights)
    old, old_values, advantage, returns = targets.of(index, inside)
    policy, cut = clipped_policy_loss(logps, old, advantage, settings.clip)
    value, value_cut = clipped_value_loss(values, old_values, returns, settings.value_clip)
    weight = scored[index][inside].float()
    policy_sum, value_sum = (policy * weight).sum(), (value * weight).sum()
    with torch.no_grad():
        moved = 0.5 * ((logps - old) ** 2 * weight).sum()
        counts = [weight.sum(), policy_sum, value_sum, (cut * weight).sum()]
        tally += torch.stack([*counts, (value_cut * weight).sum(), moved]).double()
    loss: Any = (policy_sum + settings.value_coef * value_sum) / tokens
    return loss  # type: ignore[no-any-return]
