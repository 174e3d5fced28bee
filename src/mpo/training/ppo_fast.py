"""A shorter way through decoders of the Llama kind (Llama, Mistral, Qwen2, Qwen3, …), in float32.

The layers are those of transformers, with their weights; what differs is what is left out:

- In the last layer queries, MLP and norms are computed only at the positions that are asked for;
  all others are needed there for their keys and values alone.
- RMSNorm and rotary positions have backward passes of their own, with half the work in memory.
- On a CPU attention does not compute what the causal mask hides.
- Generation writes keys and values in place, with one matrix for q, k and v, and one for both
  halves of the MLP.

Small models on a CPU gain most. A model is taken only if it is built that way and gives the same
states as its own code, see `fast_body`; any other, and all arithmetic in bfloat16, goes through
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FastBody", "FastDecoder", "fast_body", "queries_at", "sees_everything"]

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}
BLOCK = 56
"""Queries of a block of attention on a CPU."""


def fast_body(body: Any) -> FastBody | None:
    """The short way through `body`; None if it is not of that kind."""
    import torch

    if not _built_that_way(body):
        return None
    found = FastBody(body)
    ids = torch.arange(14, device=next(body.parameters()).device).view(2, 7) % 11
    where = torch.tensor([2, 3, 4, 10], device=ids.device)
    with torch.no_grad():
        own = body(input_ids=ids, use_cache=False).last_hidden_state
        mine = found.at(ids, where, {})
        decoder = FastDecoder(found, {}, rows=2, length=7)
        keep = torch.ones_like(ids)
        positions = torch.arange(7, device=ids.device)[None]
        decoder.next_states(ids[:, :5], keep[:, :5], positions[:, :5].expand(2, -1))
        cached = [
            decoder.next_states(ids[:, t : t + 1], keep[:, : t + 1], positions[:, t : t + 1])
            for t in (5, 6)
        ]
        halves = [part.chunk(2, -1) for part in found._turn(own, positions)]
    if not all(torch.equal(first, second) for first, second in halves):
        return None  # `Rotate` turns back by the same angles
    pairs = [(mine, own.flatten(0, 1)[where]), (torch.stack(cached, 1), own[:, 5:])]
    same = all(torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in pairs)
    return found if same else None


def sees_everything(config: Any) -> bool:
    """Whether every layer sees all earlier tokens, and not a window of them."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None


def _built_that_way(body: Any) -> bool:
    import torch

    parts = {name for name, _ in body.named_children()}
    if parts != {"embed_tokens", "layers", "norm", "rotary_emb"} or not len(body.layers):
        return False
    if not sees_everything(body.config):
        return False
    if any(p.dtype != torch.float32 for p in body.parameters()):
        return False
    return all(_layer_built_that_way(layer) for layer in body.layers)


def _layer_built_that_way(layer: Any) -> bool:
    def names(module: Any) -> set[str]:
        return {name for name, _ in module.named_children()}

    if names(layer) != LAYER or names(layer.mlp) != MLP:
        return False
    attention = names(layer.self_attn)
    norms = [layer.input_layernorm, layer.post_attention_layernorm]
    if attention == ATTENTION | HEAD_NORMS:
        norms += [layer.self_attn.q_norm, layer.self_attn.k_norm]
    elif attention != ATTENTION:
        return False
    known = all(hasattr(norm, "variance_epsilon") for norm in norms)
    return known and hasattr(layer.self_attn, "head_dim")


def queries_at(where: Tensor, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Positions `where` [M] of a flattened [rows, length], as one row of queries per sequence.

    Returns:
        Positions within the flattened sequences [rows, R], filled up with positions that nobody
        asked for; and where the M wanted ones lie in it when it is flattened.
    """
    import torch

    row = where // length
    counts = torch.bincount(row, minlength=rows)
    longest = int(counts.max())
    before = counts.cumsum(0) - counts
    place = row * longest + torch.arange(len(where), device=where.device) - before[row]
    filled = torch.arange(rows, device=where.device).repeat_interleave(longest) * length
    return filled.scatter(0, place, where).view(rows, longest), place


class FastBody:
    """The body of a causal model without its output head.

    Args:
        body: The model of transformers.
    """

    def __init__(self, body: Any) -> None:
        self.body = body
        attention = body.layers[0].self_attn
        self.width = int(attention.head_dim)

    def at(self, ids: Tensor, where: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        """States after the last norm, [M, H], at positions `where` of the flattened `ids`.

        Args:
            ids: [B, T], padded on the right.
            where: [M], ascending.
            weights: Used instead of the body's own, by name.
        """
        import torch

        rows, length = ids.shape
        x = self.body.embed_tokens(ids)
        turn = self._turn(x, torch.arange(length, device=ids.device)[None])
        *layers, last = range(len(self.body.layers))
        for number in layers:
            one = _Layer(self, number, weights)
            q, k, v = one.qkv(one.norm_in(x), turn)
            x = one.rest(x, _attend_causal(q, k, v))
        one = _Layer(self, last, weights)
        normed = one.norm_in(x)
        queries, place = queries_at(where, rows, length)
        k, v = one.kv(normed, turn)
        flat, asked = normed.flatten(0, 1), queries.flatten()
        at = (queries % length)[..., None]
        q = one.q(flat[asked].view(rows, -1, flat.shape[-1]), self._at(turn, at[..., 0]))
        keys = torch.arange(length, device=ids.device)
        hidden = torch.zeros((*at.shape[:2], length), device=ids.device)
        hidden = hidden.masked_fill(keys > at, float("-inf"))[:, None]
        mixed = _attend(q, k, v, mask=hidden).flatten(0, 1)[place]
        return _norm(one.rest(x.flatten(0, 1)[where], mixed), self.body.norm)

    def _turn(self, x: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines per position, for heads in the third place."""
        cos, sin = self.body.rotary_emb(x, positions)
        return cos.unsqueeze(2), sin.unsqueeze(2)

    def _at(self, turn: tuple[Tensor, Tensor], positions: Tensor) -> tuple[Tensor, Tensor]:
        cos, sin = turn
        return cos[0][positions], sin[0][positions]


class _Layer:
    """One layer during one pass."""

    def __init__(self, fast: FastBody, number: int, weights: Mapping[str, Tensor]) -> None:
        self.layer = fast.body.layers[number]
        self.width = fast.width
        self.path = f"layers.{number}."
        self.weights = weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        """A linear layer, with the weight that stands in for its own."""
        from torch.nn.functional import linear

        module = self.layer.get_submodule(name)
        weight = self.weights.get(f"{self.path}{name}.base_layer.weight")
        if weight is None:
            found: Tensor = module(x)
            return found
        return linear(x, weight, module.base_layer.bias)

    def norm_in(self, x: Tensor) -> Tensor:
        return _norm(x, self.layer.input_layernorm)

    def _heads(self, name: str, x: Tensor) -> Tensor:
        found = self.linear(f"self_attn.{name}_proj", x)
        found = found.view(*x.shape[:2], -1, self.width)
        norm = getattr(self.layer.self_attn, f"{name}_norm", None)
        return found if norm is None else _norm(found, norm)

    def q(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        return _rotate(self._heads("q", x), *turn).transpose(1, 2)

    def kv(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        k = _rotate(self._heads("k", x), *turn).transpose(1, 2)
        return k, self._heads("v", x).transpose(1, 2)

    def qkv(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return (self.q(x, turn), *self.kv(x, turn))

    def rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention; rows of `x` and of `mixed` go together."""
        x = x + self.linear("self_attn.o_proj", mixed)
        normed = _norm(x, self.layer.post_attention_layernorm)
        gate = self.layer.mlp.act_fn(self.linear("mlp.gate_proj", normed))
        return x + self.linear("mlp.down_proj", gate * self.linear("mlp.up_proj", normed))


def _attend(
    q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, mask: Tensor | None = None
) -> Tensor:
    """[B, R, heads * width]."""
    from torch.nn.functional import scaled_dot_product_attention

    grouped = q.shape[1] != k.shape[1]
    found = scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=grouped
    )
    return found.transpose(1, 2).flatten(2)


def _attend_causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention to all earlier tokens. On a CPU its kernel also computes what the mask hides:
    so it is given blocks of queries, each with the keys that the block can see."""
    import torch

    length = q.shape[2]
    parts = max(1, length // BLOCK)
    if q.device.type != "cpu" or parts == 1:
        return _attend(q, k, v, causal=True)
    cuts = [length * i // parts for i in range(parts + 1)]
    found = []
    for start, end in pairwise(cuts):
        queries = torch.arange(start, end)[:, None]
        hidden = torch.zeros(end - start, end).masked_fill_(
            torch.arange(end) > queries, float("-inf")
        )
        found.append(_attend(q[:, :, start:end], k[:, :, :end], v[:, :, :end], mask=hidden))
    return torch.cat(found, 1)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
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


def _norm(x: Tensor, norm: Any) -> Tensor:
    import torch

    if not torch.is_grad_enabled():
        return (x * _scale(x, norm.variance_epsilon)).mul_(norm.weight)
    found: Tensor = _norm_function().apply(x, norm.weight, norm.variance_epsilon)
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


# ---------------------------------------------------------------------- generation


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
        fast: The body.
        weights: Used instead of its own, by name.
        rows: Sequences.
        length: Most tokens of a sequence, padding included.
    """

    def __init__(
        self, fast: FastBody, weights: Mapping[str, Tensor], rows: int, length: int
    ) -> None:
        self.fast, self.body = fast, fast.body
        self.layers = [self._matrices(n, weights) for n in range(len(self.body.layers))]
        attention = self.body.layers[0].self_attn
        width = fast.width
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
        turn = self.fast._turn(x, positions)
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
        return _norm(x[:, -1], self.body.norm)

    def _heads(
        self,
        x: Tensor,
        layer: Any,
        m: _Matrices,
        turn: tuple[Tensor, Tensor],
        number: int,
        before: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        normed = _norm(x, layer.input_layernorm)
        both = _apply(normed, m.qkv, m.qkv_bias).view(*x.shape[:2], -1, self.fast.width)
        n, g = self.heads, self.groups
        if self.head_norms:
            q = _norm(both[:, :, :n], layer.self_attn.q_norm)
            k = _norm(both[:, :, n : n + g], layer.self_attn.k_norm)
            q, k = _rotate(q, *turn), _rotate(k, *turn)
        else:
            turned = _rotate(both[:, :, : n + g], *turn)
            q, k = turned[:, :, :n], turned[:, :, n:]
        cache = self.caches[number]
        cache[0, :, :, before : self.seen] = k.transpose(1, 2)
        cache[1, :, :, before : self.seen] = both[:, :, n + g :].transpose(1, 2)
        return q.transpose(1, 2), cache[0, :, :, : self.seen], cache[1, :, :, : self.seen]

    def _mix(self, q: Tensor, keys: Tensor, values: Tensor, hidden: Tensor | None) -> Tensor:
        from torch.nn.functional import scaled_dot_product_attention

        if q.shape[2] > 1:
            return _attend(q, keys, values, mask=hidden)
        # One query per head: the heads of a group are as many queries of one head.
        grouped = q.reshape(len(q), self.groups, -1, self.fast.width)
        mixed = scaled_dot_product_attention(grouped, keys, values, attn_mask=hidden)
        return mixed.reshape(len(q), 1, -1)

    def _mlp(self, x: Tensor, layer: Any, m: _Matrices) -> Tensor:
        normed = _norm(x, layer.post_attention_layernorm)
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
