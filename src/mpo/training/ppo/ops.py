"""Operations of the fast path, some with backward passes of their own.

Tensor shapes: B sequences of T tokens; R queries per sequence; W width of a head.
"""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["attend", "attend_causal", "norm", "rotary_embedding", "rotate"]

BLOCK = 56
"""Queries in a block of attention on a CPU."""


def rotary_embedding(body: Any, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of rotary positions, [B or 1, T, 1, W] each: for `rotate`."""
    cos, sin = body.rotary_emb(x, positions)
    return cos.unsqueeze(2), sin.unsqueeze(2)


def attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """Scaled dot-product attention: [B, R, heads · W].

    Args:
        q: Queries, [B, heads, R, W].
        k: Keys, [B, groups, T, W]; as many heads share a group's keys as divide evenly.
        v: Values, [B, groups, T, W].
        causal: True hides later keys; R = T.
        mask: Added to the scores, [B or 1, 1, R, T].
    """
    from torch.nn.functional import scaled_dot_product_attention

    grouped = q.shape[1] != k.shape[1]
    mixed = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return mixed.transpose(1, 2).flatten(2)


def attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to all earlier tokens: q [B, heads, T, W] -> [B, T, heads · W].

    On a CPU the kernel also computes what a mask hides, so it gets blocks of queries, each with the
    keys that the block can see.
    """
    import torch

    if q.device.type != "cpu" or q.shape[2] < 2 * BLOCK:
        return attend(q, k, v, causal=True)
    blocks = [
        attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask=bias)
        for start, end, bias in _blocks(q.shape[2])
    ]
    return torch.cat(blocks, 1)


@lru_cache(maxsize=32)
def _blocks(length: int) -> list[tuple[int, int, Tensor]]:
    """Per block: the first query, the one after the last, and the mask added to its scores."""
    import torch

    parts = length // BLOCK
    blocks = []
    for start, end in pairwise(length * i // parts for i in range(parts + 1)):
        later = torch.arange(end) > torch.arange(start, end)[:, None]
        blocks.append((start, end, torch.zeros(later.shape).masked_fill(later, float("-inf"))))
    return blocks


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions: x [B, T, heads, W] -> the same shape.

    A rotation's gradient is the gradient rotated back, so the backward pass saves the angles and
    no activations. Angles must be equal in both halves of W, and get no gradient.

    Args:
        x: Queries or keys.
        cos: Cosines, from `rotary_embedding`.
        sin: Sines, from `rotary_embedding`.
    """
    import torch

    if not torch.is_grad_enabled():
        return _rotated(x, cos, sin)
    rotated: Tensor = _rotate_function().apply(x, cos, sin)
    return rotated


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
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
            return _rotated(x, cos, sin)

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
            cos, sin = ctx.saved_tensors
            return _rotated(gradient, cos, -sin), None, None  # rotated back

    return Rotate


def _scale(x: Tensor, eps: float) -> Tensor:
    """One over the root of the mean square, per row: [..., H] -> [..., 1]."""
    import torch

    length: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return length.square_().mul_(1 / x.shape[-1]).add_(eps).rsqrt_()


def norm(x: Tensor, module: Any) -> Tensor:
    """RMSNorm over the last dimension, [..., H] -> [..., H].

    The backward pass uses the normed values that the forward pass made anyway: with n = x · scale,
    dx = scale · (g - n · mean(g · n)), where g is the gradient times the weight.

    Args:
        x: Input.
        module: RMSNorm of transformers, with `weight` [H] and `variance_epsilon`.
    """
    import torch

    if not torch.is_grad_enabled():
        return (x * _scale(x, module.variance_epsilon)).mul_(module.weight)
    normed: Tensor = _norm_function().apply(x, module.weight, module.variance_epsilon)
    return normed


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
            output: Tensor = normed * weight
            return output

        @staticmethod
        @once_differentiable
        def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
            normed, scale, weight = ctx.saved_tensors
            x_gradient = weight_gradient = None
            if ctx.needs_input_grad[1]:
                weight_gradient = (gradient * normed).flatten(0, -2).sum(0)
            if ctx.needs_input_grad[0]:
                weighted = gradient * weight
                dot = torch.linalg.vecdot(weighted, normed).unsqueeze_(-1)
                x_gradient = torch.addcmul(weighted, normed, dot.mul_(-1 / normed.shape[-1]))
                x_gradient.mul_(scale)
            return x_gradient, weight_gradient, None

    return RMSNorm
