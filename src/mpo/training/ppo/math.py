"""The arithmetic of PPO: pure functions on tensors.

Tensors named `[N, R]` hold one row per completion and one column per token of it; `mask` is true
where there is a token. What lies outside the mask never matters.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "AdaptiveKL",
    "Sum",
    "advantages",
    "clipped_policy_loss",
    "clipped_value_loss",
    "kl_estimate",
    "log_probs",
    "token_rewards",
    "whiten",
]

Sum = Callable[["Tensor"], "Tensor"]
"""Sum of a tensor over all ranks; the identity in a single process."""


def kl_estimate(logps: Tensor, reference: Tensor, estimator: Literal["k1", "k3"] = "k1") -> Tensor:
    """Estimate of KL(policy ‖ reference) per token, from tokens that the policy sampled.

    k1 = log p/q: unbiased, and negative for some tokens. k3 = q/p - 1 - log q/p: unbiased too,
    never negative, with less variance (Schulman 2020, "Approximating KL divergence").
    """
    if estimator == "k1":
        return logps - reference
    log_ratio = reference - logps
    return log_ratio.expm1() - log_ratio


def token_rewards(scores: Tensor, kl: Tensor | None, coefficient: float, mask: Tensor) -> Tensor:
    """Reward per token, [N, R]: minus the weighted KL divergence, and the score at the last token.

    Args:
        scores: Score of each completion, [N].
        kl: KL divergence per token, [N, R]; None for no KL term.
        coefficient: Weight of the KL divergence.
        mask: [N, R]; each row has a token.
    """
    rewards = mask.new_zeros(mask.shape, dtype=scores.dtype)
    if kl is not None:
        rewards = rewards - coefficient * kl.masked_fill(~mask, 0)
    last = mask.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None])


def advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation: advantages and returns, [N, R] each.

    A completion ends at its last token: the value after it is 0.
    """
    import torch

    rewards, values = rewards.masked_fill(~mask, 0), values.masked_fill(~mask, 0)
    after = torch.cat([values[:, 1:], values.new_zeros(len(values), 1)], 1)
    errors = rewards + gamma * after - values
    advantage = torch.zeros_like(errors)
    running = errors.new_zeros(len(errors))
    for t in range(errors.shape[1] - 1, -1, -1):
        running = errors[:, t] + gamma * lam * running
        advantage[:, t] = running
    return advantage, advantage + values


def whiten(values: Tensor, mask: Tensor, total: Sum, *, shift_mean: bool = True) -> Tensor:
    """Values with mean 0 and variance 1 over the masked entries of all ranks.

    Args:
        values: [N, R].
        mask: [N, R]; may be empty on some ranks.
        total: Sum over ranks.
        shift_mean: False leaves the mean as it is.
    """
    import torch

    inside = values[mask].double()
    sums = total(torch.stack([inside.sum(), inside.new_tensor(float(len(inside)))]))
    mean, n = sums[0] / sums[1].clamp(min=1), sums[1]
    squares = total(((inside - mean) ** 2).sum()[None])[0]
    variance = squares / (n - 1).clamp(min=1)
    scaled = (values.double() - mean) * torch.rsqrt(variance + 1e-8)
    return (scaled if shift_mean else scaled + mean).to(values.dtype)


def clipped_policy_loss(
    logps: Tensor, old: Tensor, advantage: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """PPO's policy loss per token, and a mask of tokens whose gradient is clipped: [M] each."""
    import torch

    ratio = (logps - old).exp()
    plain = -advantage * ratio
    bounded = -advantage * ratio.clamp(1 - clip, 1 + clip)
    return torch.maximum(plain, bounded), bounded > plain


def clipped_value_loss(
    values: Tensor, old: Tensor, returns: Tensor, clip: float
) -> tuple[Tensor, Tensor]:
    """Half the squared error per token, no smaller than that of the clipped value, and a mask of
    tokens whose gradient is clipped: [M] each."""
    import torch

    bounded = torch.minimum(torch.maximum(values, old - clip), old + clip)
    plain, clipped = (values - returns) ** 2, (bounded - returns) ** 2
    return 0.5 * torch.maximum(plain, clipped), clipped > plain


def log_probs(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of one token per row of `logits`, [M, V] and [M] -> [M].

    The gradient is formed in one pass; autograd on log_softmax and gather would make four.
    """
    logps: Tensor = _log_prob_function().apply(logits, tokens)
    return logps


@cache
def _log_prob_function() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class LogProb(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, logits: Tensor, tokens: Tensor) -> Tensor:
            scores = torch.log_softmax(logits, -1, dtype=torch.float32)
            ctx.save_for_backward(scores, tokens)
            ctx.dtype = logits.dtype
            return scores.gather(1, tokens[:, None])[:, 0]

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
            scores, tokens = ctx.saved_tensors
            column = gradient[:, None]
            back = scores.exp().mul_(-column).scatter_add_(1, tokens[:, None], column)
            return back.to(ctx.dtype), None

    return LogProb


@dataclass
class AdaptiveKL:
    """Coefficient of the KL term: fixed, or adapted to reach a target (Ziegler et al. 2019,
    arXiv 1909.08593)."""

    coefficient: float
    """Current coefficient."""
    target: float | None = None
    """KL divergence per completion to reach; None keeps the coefficient fixed."""
    horizon: int = 10_000
    """Completions over which the adaptation acts."""

    def update(self, kl: float, completions: int) -> None:
        """Adapt to `kl`, the mean KL divergence per completion over `completions`."""
        if self.target is not None:
            error = min(0.2, max(-0.2, kl / self.target - 1))
            self.coefficient *= 1 + error * completions / self.horizon
