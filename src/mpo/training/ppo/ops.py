"""The operations of `ppo_fast` and `ppo_decode`, some with backward passes of their own."""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attend", "attend_causal", "norm", "rotate", "turn_of"]

BLOCK = 56
"""Queries of a block of attention on a CPU."""


def turn_of(body: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, for heads in the third place."""
    cos, sin = body.rotary_emb(x, positions)
    return cos.unsqueeze(2), sin.unsqueeze(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """[B, R, heads * width]."""
    from torch.nn.functional import scaled_dot_product_attention

    grouped = q.shape[1] != k.shape[1]
    found = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return found.transpose(1, 2).flatten(2)


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to all earlier tokens. On a CPU its kernel also computes what the mask hides:
    so it is given blocks of queries, each with the keys that the block can see."""
    import torch

    if q.device.type != "cpu" or q.shape[2] < 2 * BLOCK:
        return attend(q, k, v, causal=True)
    blocks = [
        attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask=hidden)
        for start, end, hidden in _blocks(q.shape[2])
    ]
    return torch.cat(blocks, 1)


@lru_cache(maxsize=32)
def _blocks(length: int) -> list[tuple[int, int, Tensor]]:
    """First query, the one after the last, and what is added to the scores of a block."""
    import torch

    parts = length // BLOCK
    found = []
    for start, end in pairwise(length * i // parts for i in range(parts + 1)):
        later = torch.arange(end) > torch.arange(start, end)[:, None]
        found.append((start, end, torch.zeros(later.shape).masked_fill(later, float("-inf"))))
    return found


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    import torch

    if not torch.is_grad_enabled():
        return _turned(x, cos, sin)
    found: Tensor = _rotate_function().apply(x, cos, sin)
    return found


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    import torch

    half = x.shape[-1] // 2
    return torch.addcmul(x * cos, torch.cat((-x[..., half:], x[..., :half]), -1), sin)


@cache
def _rotate_function() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class Rotate(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
            ctx.save_for_backward(cos, sin)
            return _turned(x, cos, sin)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
            cos, sin = ctx.saved_tensors
            return _turned(gradient, cos, -sin), None, None  # turned back

    return Rotate


def _scale(x: Tensor, eps: float) -> Tensor:
    """One over the root of the mean square, per row."""
    import torch

    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()


def norm(x: Tensor, module: Any) -> Tensor:
    import torch

    if not torch.is_grad_enabled():
        return (x * _scale(x, module.variance_epsilon)).mul_(module.weight)
    found: Tensor = _norm_function().apply(x, module.weight, module.variance_epsilon)
    return found


@cache
def _norm_function() -> Any:
    import torch
    from torch.autograd.function import once_differentiable

    class RMSNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
            scale = _scale(x, eps)
            normed = x * scale
            ctx.save_for_backward(normed, scale, weight)
            found: Tensor = normed * weight
            return found

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
            normed, scale, weight = ctx.saved_tensors
            back = grown = None
            if ctx.needs_input_grad[1]:
                grown = (gradient * normed).flatten(0, -2).sum(0)
            if ctx.needs_input_grad[0]:
                weighted = gradient * weight
                along = torch.linalg.vecdot(weighted, normed).unsqueeze_(-1)
                back = torch.addcmul(weighted, normed, along.mul_(-1 / normed.shape[-1]))
                back.mul_(scale)
            return back, grown, None

    return RMSNorm
