"""One update of PPO: the passes before the rewards are known, and the optimizer's epochs.

Tensor shapes: N completions in the batch, R tokens in the longest one. What lies outside the mask
[N, R] never matters.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ..generation import Sample
from .batch import CPU_TOKENS, MicroBatch, make_micro_batch, split_rows
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

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Batch", "Update", "forward_pass", "ppo_update"]

Rows = tuple[int, ...]
"""Rows of a micro-batch."""


@dataclass
class Batch:
    """A batch, and what policy, critic and reference computed for it before the update."""

    samples: Sequence[Sample]
    pad: int
    """Padding token."""
    mask: Tensor
    """True where a completion has a token, [N, R]."""
    logps: Tensor
    """Log-probabilities of the completions' tokens under the policy, [N, R]."""
    values: Tensor
    """The critic's values of the states before those tokens, [N, R]."""
    ref_logps: Tensor | None
    """Log-probabilities under the policy before training, [N, R]; None without a KL term."""
    cached_graphs: dict[Rows, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """Log-probabilities and values of each micro-batch, still with their graphs."""
    micro_batches: dict[Rows, MicroBatch] = field(default_factory=dict)
    """Micro-batches that were made."""

    def micro_batch(self, rows: Rows) -> MicroBatch:
        """The tensors of these rows, made once."""
        if rows not in self.micro_batches:
            device = self.mask.device
            self.micro_batches[rows] = make_micro_batch(self.samples, rows, self.pad, device)
        return self.micro_batches[rows]


@dataclass(frozen=True)
class Update:
    """Measurements of one update, over all ranks; None where nothing was scored."""

    figures: dict[str, float]
    kl: float | None
    """Mean KL divergence per token from the policy before training."""


# ---------------------------------------------------------------------- before the rewards


def forward_pass(engine: Engine, samples: Sequence[Sample], pad: int) -> Batch:
    """The passes of policy, critic and reference that need no rewards.

    Where the first epoch would begin with the very same forward pass (one mini-batch, no limit on
    memory), its graph is kept and the pass is made once.

    Args:
        engine: Model and optimizer.
        samples: Prompts and completions of this rank.
        pad: Padding token.
    """
    import torch

    settings = engine.settings
    keep_graphs = (
        settings.ppo.minibatches == 1 and settings.micro_batch_size is None and not engine.sharded
    )
    batch = _empty_batch(engine, samples, pad)
    folding = engine.ac.folding
    weights = folding.begin() if keep_graphs else folding.weights()
    for rows in _split(engine, samples, range(len(samples))):
        micro = batch.micro_batch(rows)
        if batch.ref_logps is not None:
            _put(batch.ref_logps, rows, batch.mask, engine.reference_log_probs(micro))
        with torch.set_grad_enabled(keep_graphs):
            logps, values = engine.evaluate(micro, weights)
        if keep_graphs:
            batch.cached_graphs[rows] = (logps, values)
        _put(batch.logps, rows, batch.mask, logps.detach())
        _put(batch.values, rows, batch.mask, values.detach())
    return batch


def _empty_batch(engine: Engine, samples: Sequence[Sample], pad: int) -> Batch:
    import torch

    longest = max(len(sample.completion) for sample in samples)
    mask = torch.zeros(len(samples), longest, dtype=torch.bool, device=engine.device)
    for row, sample in enumerate(samples):
        mask[row, : len(sample.completion)] = True
    blank = torch.zeros(mask.shape, device=engine.device)
    reference = blank.clone() if engine.settings.beta else None
    return Batch(samples, pad, mask, logps=blank, values=blank.clone(), ref_logps=reference)


def _split(engine: Engine, samples: Sequence[Sample], rows: Sequence[int]) -> list[Rows]:
    most = engine.settings.micro_batch_size
    on_cpu = most is None and engine.device.type == "cpu" and not engine.sharded
    return split_rows(samples, rows, most=most, tokens=CPU_TOKENS if on_cpu else None)


def _put(target: Tensor, rows: Rows, mask: Tensor, flat: Tensor) -> None:
    """Write `flat` [M] to the tokens of `rows` in `target` [N, R]."""
    index = list(rows)
    block = target[index]
    block[mask[index]] = flat.to(target.dtype)
    target[index] = block


# ---------------------------------------------------------------------- the update


def ppo_update(
    engine: Engine,
    batch: Batch,
    scores: Sequence[float | None],
    kl: AdaptiveKL,
    *,
    step: int,
    seed: int,
) -> Update:
    """Update policy and critic; completions without a score are left out of everything.

    Args:
        engine: Model and optimizer.
        batch: Result of `forward_pass`.
        scores: Reward of each completion, with the penalty for a missing end; None for unscored.
        kl: Coefficient of the KL term; it is adapted.
        step: Number of the step, 0-based; with the seed it decides the order of mini-batches.
        seed: The run's seed.
    """
    import torch

    rows = [row for row, score in enumerate(scores) if score is not None]
    n = int(engine.sum_over_ranks(torch.tensor([float(len(rows))], device=engine.device)))
    if n == 0:
        batch.cached_graphs.clear()
        engine.ac.folding.finish()
        return Update({}, None)
    known = torch.tensor([s if s is not None else 0.0 for s in scores], device=engine.device)
    scored = torch.zeros_like(batch.mask)
    scored[rows] = batch.mask[rows]
    token_kl, figures, mean_kl = _measure_kl(engine, batch, scored, n)
    figures["objective/kl_coef"] = kl.coefficient
    rewards = token_rewards(known, token_kl, kl.coefficient, batch.mask)
    targets = _targets(engine, batch, rewards, scored)
    figures |= _Epochs(engine, batch, targets, scored, rows).run(step, seed)
    score_sum, reward_sum = known[rows].double().sum(), rewards[scored].double().sum()
    sums = engine.sum_over_ranks(torch.stack([score_sum, reward_sum]))
    figures["objective/scores"], figures["objective/rlhf_reward"] = (sums / n).tolist()
    if "objective/kl" in figures:
        kl.update(figures["objective/kl"], n)
    return Update(figures, mean_kl)


def _measure_kl(
    engine: Engine, batch: Batch, scored: Tensor, n: int
) -> tuple[Tensor | None, dict[str, float], float | None]:
    """KL divergence per token [N, R], figures, and the mean KL divergence per token."""
    import torch

    entropy = -batch.logps[scored].double().sum()
    tokens = scored.sum().double()
    if batch.ref_logps is None:
        sums = engine.sum_over_ranks(torch.stack([entropy, tokens]))
        return None, {"objective/entropy": float(sums[0] / sums[1])}, None
    token_kl = kl_estimate(batch.logps, batch.ref_logps, engine.settings.ppo.kl_estimator)
    sums = engine.sum_over_ranks(torch.stack([entropy, tokens, token_kl[scored].double().sum()]))
    figures = {
        "objective/entropy": float(sums[0] / sums[1]),
        "objective/kl": float(sums[2] / n),
    }
    return token_kl, figures, float(sums[2] / sums[1])


@dataclass(frozen=True)
class _Targets:
    """Reference values for the passes of an update, [N, R] each."""

    logps: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor

    def at(self, rows: list[int], mask: Tensor) -> tuple[Tensor, ...]:
        """The targets at the tokens of some rows, [M] each; `mask` is that of the rows."""
        tensors = (self.logps, self.values, self.advantages, self.returns)
        return tuple(tensor[rows][mask] for tensor in tensors)


def _targets(engine: Engine, batch: Batch, rewards: Tensor, scored: Tensor) -> _Targets:
    ppo = engine.settings.ppo
    if ppo.whiten_rewards:
        rewards = whiten(rewards, scored, engine.sum_over_ranks, shift_mean=False)
    advantage, returns = advantages(rewards, batch.values, batch.mask, ppo.gamma, ppo.lam)
    if ppo.whiten_advantages:
        advantage = whiten(advantage, scored, engine.sum_over_ranks)
    return _Targets(batch.logps, batch.values, advantage, returns)


class _Epochs:
    """The optimizer's passes over one batch.

    Args:
        engine: Model and optimizer.
        batch: The batch.
        targets: Reference values for the passes.
        scored: True at the tokens of scored completions, [N, R].
        rows: Rows of scored completions.
    """

    def __init__(
        self, engine: Engine, batch: Batch, targets: _Targets, scored: Tensor, rows: Sequence[int]
    ) -> None:
        import torch

        self.engine, self.batch, self.targets = engine, batch, targets
        self.scored, self.rows = scored, frozenset(rows)
        self.tally = torch.zeros(6, dtype=torch.float64, device=engine.device)
        """Sums over tokens and passes; see `run` for their names."""

    def run(self, step: int, seed: int) -> dict[str, float]:
        """Make all passes; mean losses, clipped shares and the last gradient norm."""
        ppo, rank = self.engine.settings.ppo, self.engine.accelerator.process_index
        norm = 0.0
        for epoch in range(ppo.epochs):
            order = list(range(len(self.batch.samples)))
            if ppo.minibatches > 1:
                random.Random(f"mpo:ppo:{seed}:{step}:{epoch}:{rank}").shuffle(order)
            size = len(order) // ppo.minibatches
            for start in range(0, len(order), size):
                norm = self._minibatch(order[start : start + size])
        tokens, *sums = self.engine.sum_over_ranks(self.tally).tolist()
        names = (
            "loss/policy",
            "loss/value",
            "policy/clipfrac",
            "value/clipfrac",
            "policy/approx_kl",
        )
        means = {name: s / max(tokens, 1.0) for name, s in zip(names, sums, strict=True)}
        return {**means, "grad_norm": norm}

    def _minibatch(self, part: list[int]) -> float:
        """Make one optimizer step on the rows of a mini-batch; the gradient norm."""
        engine, batch = self.engine, self.batch
        tokens = float(engine.sum_over_ranks(self.scored[part].sum().double()[None]))
        if tokens == 0:
            return 0.0
        if batch.cached_graphs:
            passes, weights = list(batch.cached_graphs), Weights()
        else:
            # A sharded model's ranks make the same number of passes, whatever was scored.
            used = part if engine.sharded else [row for row in part if row in self.rows]
            passes, weights = _split(engine, batch.samples, used), engine.ac.folding.begin()
        for number, rows in enumerate(passes, 1):
            engine.backward(self._loss(rows, weights, tokens), last=number == len(passes))
        batch.cached_graphs.clear()
        engine.ac.folding.finish()
        return engine.step()

    def _loss(self, rows: Rows, weights: Weights, tokens: float) -> Tensor:
        """Loss of a micro-batch: its part of the mean over the mini-batch's `tokens` tokens."""
        import torch

        engine, ppo, index = self.engine, self.engine.settings.ppo, list(rows)
        mask = self.batch.mask[index]
        graph = self.batch.cached_graphs.get(rows)
        logps, values = graph or engine.evaluate(self.batch.micro_batch(rows), weights)
        old_logps, old_values, advantage, returns = self.targets.at(index, mask)
        policy, clipped = clipped_policy_loss(logps, old_logps, advantage, ppo.clip)
        value, value_clipped = clipped_value_loss(values, old_values, returns, ppo.value_clip)
        weight = self.scored[index][mask].float()  # 0 for tokens of unscored completions
        policy_sum, value_sum = (policy * weight).sum(), (value * weight).sum()
        with torch.no_grad():
            approx_kl = 0.5 * ((logps - old_logps) ** 2 * weight).sum()
            sums = [weight.sum(), policy_sum, value_sum, (clipped * weight).sum()]
            self.tally += torch.stack([*sums, (value_clipped * weight).sum(), approx_kl]).double()
        loss: Tensor = (policy_sum + ppo.value_coef * value_sum) / tokens
        return loss
