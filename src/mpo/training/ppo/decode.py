"""Generation with decoders of the Llama kind, in float32.

Keys and values are written in place; q, k and v come from one matrix, and so do both halves of the
MLP; adapters are added to the matrices once for all tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .ops import attend, norm, rotate, turn_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FastDecoder"]


@dataclass(frozen=True)
class _Matrices:
    """Weights of a layer as generation uses them."""

    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


class FastDecoder:
    """Goes through a body token by token.

    Args:
        body: Of a model that `ppo_fast` takes.
        weights: Used instead of its own, by name.
        rows: Sequences.
        length: Most tokens of a sequence, padding included.
    """

    def __init__(self, body: Any, weights: Mapping[str, Tensor], rows: int, length: int) -> None:
        self.body = body
        self.width = int(body.layers[0].self_attn.head_dim)
        self.layers = [self._matrices(n, weights) for n in range(len(self.body.layers))]
        attention = self.body.layers[0].self_attn
        width = self.width
        total = self.layers[0].qkv.shape[0] // width
        queries = self.layers[0].out.shape[1] // width
        self.heads, self.groups = queries, (total - queries) // 2
        self.head_norms = hasattr(attention, "q_norm")
        shape = (2, rows, self.groups, length, width)
        self.caches = [self.layers[0].qkv.new_empty(shape) for _ in self.layers]
        self.seen = 0

    def _matrices(self, number: int, weights: Mapping[str, Tensor]) -> _Matrices:
        import torch

        path, layer = f"layers.{number}.", self.body.layers[number]

        def joined(*names: str) -> tuple[Tensor, Tensor | None]:
            pairs = [_plain(layer.get_submodule(name), f"{path}{name}", weights) for name in names]
            whole = torch.cat([w for w, _ in pairs]) if len(pairs) > 1 else pairs[0][0]
            if all(bias is None for _, bias in pairs):
                return whole, None
            biases = [w.new_zeros(len(w)) if bias is None else bias for w, bias in pairs]
            return whole, torch.cat(biases)

        return _Matrices(
            *joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
            *joined("self_attn.o_proj"),
            *joined("mlp.gate_proj", "mlp.up_proj"),
            *joined("mlp.down_proj"),
        )

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.caches = [cache[:, rows] for cache in self.caches]

    def next_states(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """State of the last position, [B, H], after adding `ids` [B, T] to what was seen.

        Args:
            ids: Padded on the left.
            mask: [B, seen + T]; 0 for padding.
            positions: [B or 1, T], of `ids` in their sequences.
        """
        x = self.body.embed_tokens(ids)
        turn = turn_of(self.body, x, positions)
        before, self.seen = self.seen, self.seen + ids.shape[1]
        hidden = _hidden(mask, ids.shape[1])
        for number, m in enumerate(self.layers):
            layer = self.body.layers[number]
            last = number + 1 == len(self.layers)
            q, keys, values = self._heads(x, layer, m, turn, number, before)
            if last and q.shape[2] > 1:  # of the last layer only the last state is asked for
                q, x = q[:, :, -1:], x[:, -1:]
                hidden = hidden[:, :, -1:] if hidden is not None else None
            mixed = self._mix(q, keys, values, hidden)
            x = self._mlp(x + _apply(mixed, m.out, m.out_bias), layer, m)
        return norm(x[:, -1], self.body.norm)

    def _heads(
        self,
        x: Tensor,
        layer: Any,
        m: _Matrices,
        turn: tuple[Tensor, Tensor],
        number: int,
        before: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        normed = norm(x, layer.input_layernorm)
        both = _apply(normed, m.qkv, m.qkv_bias).view(*x.shape[:2], -1, self.width)
        n, g = self.heads, self.groups
        if self.head_norms:
            q = norm(both[:, :, :n], layer.self_attn.q_norm)
            k = norm(both[:, :, n : n + g], layer.self_attn.k_norm)
            q, k = rotate(q, *turn), rotate(k, *turn)
        else:
            turned = rotate(both[:, :, : n + g], *turn)
            q, k = turned[:, :, :n], turned[:, :, n:]
        cache = self.caches[number]
        cache[0, :, :, before : self.seen] = k.transpose(1, 2)
        cache[1, :, :, before : self.seen] = both[:, :, n + g :].transpose(1, 2)
        return q.transpose(1, 2), cache[0, :, :, : self.seen], cache[1, :, :, : self.seen]

    def _mix(self, q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
        from torch.nn.functional import scaled_dot_product_attention

        if q.shape[2] > 1:
            return attend(q, keys, values, mask=hidden)
        # One query per head: the heads of a group are as many queries of one head.
        grouped = q.reshape(len(q), self.groups, -1, self.width)
        mixed = scaled_dot_product_attention(grouped, keys, values, attn_mask=hidden)
        return mixed.reshape(len(q), 1, -1)

    def _mlp(self, x: Tensor, layer: Any, m: _Matrices) -> Tensor:
        normed = norm(x, layer.post_attention_layernorm)
        gate, up = _apply(normed, m.gate_up, m.gate_up_bias).chunk(2, -1)
        return x + _apply(layer.mlp.act_fn(gate) * up, m.down, m.down_bias)


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from torch.nn.functional import linear

    return linear(x, weight, bias)


def _plain(module: Any, path: str, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer, its adapter added."""
    base = getattr(module, "base_layer", module)
    weight = weights.get(f"{path}.base_layer.weight")
    if weight is None:
        weight = base.weight
        if base is not module:
            for adapter in module.active_adapters:
                weight = weight + module.get_delta_weight(adapter)
    return weight, base.bias


def _hidden(mask: Tensor, new: int) -> Tensor | None:
    """What is added to attention scores, [B, 1, new, seen]: -inf for padding and the future."""
    import torch

    seen = mask.shape[1]
    if new == 1 and bool(mask.all()):
        return None
    queries = torch.arange(seen - new, seen, device=mask.device)[:, None]
    visible = (torch.arange(seen, device=mask.device) <= queries) & mask[:, None, None, :].bool()
    # A padded query sees itself, so that there is something to weigh.
    visible = visible | (torch.arange(seen, device=mask.device) == queries)
    found = torch.zeros(visible.shape, device=mask.device)
    return found.masked_fill(~visible, float("-inf"))
