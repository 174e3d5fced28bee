"""A faster path through decoders of the Llama kind (Llama, Mistral, Qwen2, Qwen3, …), in float32.

The layers are those of transformers, with their weights; what differs is what is left out:

- In the last layer queries, MLP and norms are computed only at the positions that predict a token;
  all others are needed there for their keys and values alone.
- RMSNorm and rotary positions have backward passes of their own, with half the work in memory.
- On a CPU attention does not compute what the causal mask hides.
- In generation keys and values are written in place; q, k and v come from one matrix, and so do
  both halves of the MLP; adapters are added to the matrices once for all tokens.

Small models on a CPU gain most. A model is accepted only if it has this structure and gives the
same states as its own code, see `fast_body`; any other model, and all arithmetic in bfloat16, goes
through transformers.

Tensor shapes: B sequences of T tokens; M positions in all of them; R positions per sequence; H
hidden; W width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .ops import attend, attend_causal, norm, rotary_embedding, rotate

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FastBody", "FastDecoder", "fast_body", "queries_at", "sees_everything"]

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


def fast_body(body: Any) -> FastBody | None:
    """The fast path through `body`; None if the body is not of that kind."""
    import torch

    if not _has_structure(body):
        return None
    fast = FastBody(body)
    ids = torch.arange(14, device=next(body.parameters()).device).view(2, 7) % 11
    logit_positions = torch.tensor([2, 3, 4, 10], device=ids.device)
    with torch.no_grad():
        own = body(input_ids=ids, use_cache=False).last_hidden_state
        states = fast.states_at(ids, logit_positions, {})
        decoder = FastDecoder(body, {}, rows=2, length=7)
        mask = torch.ones_like(ids)
        positions = torch.arange(7, device=ids.device)[None]
        decoder.next_states(ids[:, :5], mask[:, :5], positions[:, :5].expand(2, -1))
        cached = [
            decoder.next_states(ids[:, t : t + 1], mask[:, : t + 1], positions[:, t : t + 1])
            for t in (5, 6)
        ]
        halves = [part.chunk(2, -1) for part in rotary_embedding(body, own, positions)]
    if not all(torch.equal(first, second) for first, second in halves):
        return None  # the backward pass of `rotate` needs equal angles in both halves
    pairs = [(states, own.flatten(0, 1)[logit_positions]), (torch.stack(cached, 1), own[:, 5:])]
    same = all(torch.allclose(a, b, atol=1e-4, rtol=1e-3) for a, b in pairs)
    return fast if same else None


def sees_everything(config: Any) -> bool:
    """True if every layer sees all earlier tokens, and not a window of them."""
    kinds = getattr(config, "layer_types", None)
    if kinds:
        return set(kinds) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None


def _has_structure(body: Any) -> bool:
    import torch

    parts = {name for name, _ in body.named_children()}
    if parts != {"embed_tokens", "layers", "norm", "rotary_emb"} or not len(body.layers):
        return False
    if not sees_everything(body.config):
        return False
    if any(p.dtype != torch.float32 for p in body.parameters()):
        return False
    return all(_layer_has_structure(layer) for layer in body.layers)


def _layer_has_structure(layer: Any) -> bool:
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
    rms_norms = all(hasattr(each, "variance_epsilon") for each in norms)
    return rms_norms and hasattr(layer.self_attn, "head_dim")


def queries_at(logit_positions: Tensor, rows: int, length: int) -> tuple[Tensor, Tensor]:
    """Positions [M] of a flattened [rows, length], as one row of queries per sequence.

    Returns:
        Positions in the flattened sequences [rows, R], where shorter rows are filled up with
        position 0 of their sequence; and the places [M] of `logit_positions` in it, flattened.
    """
    import torch

    row = logit_positions // length
    counts = torch.bincount(row, minlength=rows)
    longest = int(counts.max())
    before = counts.cumsum(0) - counts
    order = torch.arange(len(row), device=row.device)
    place = row * longest + order - before[row]
    filled = torch.arange(rows, device=row.device).repeat_interleave(longest) * length
    return filled.scatter(0, place, logit_positions).view(rows, longest), place


class FastBody:
    """The body of a causal model without its output head.

    Args:
        body: The body of a transformers model.
    """

    def __init__(self, body: Any) -> None:
        self.body = body
        attention = body.layers[0].self_attn
        self.width = int(attention.head_dim)

    def states_at(
        self, ids: Tensor, logit_positions: Tensor, weights: Mapping[str, Tensor]
    ) -> Tensor:
        """States after the last norm, [M, H], at some positions of the flattened `ids`.

        Args:
            ids: [B, T], padded on the right.
            logit_positions: [M], ascending.
            weights: Weights that replace the body's own, by name.
        """
        import torch

        rows, length = ids.shape
        x = self.body.embed_tokens(ids)
        rotary = rotary_embedding(self.body, x, torch.arange(length, device=ids.device)[None])
        *layers, last = range(len(self.body.layers))
        for number in layers:
            layer = _Layer(self, number, weights)
            q, k, v = layer.qkv(layer.norm_in(x), rotary)
            x = layer.after_attention(x, attend_causal(q, k, v))
        # The last layer: keys and values everywhere, queries at [B, R] positions only.
        layer = _Layer(self, last, weights)
        normed = layer.norm_in(x)
        queries, place = queries_at(logit_positions, rows, length)
        k, v = layer.kv(normed, rotary)
        flat = normed.flatten(0, 1)
        columns = (queries % length)[..., None]  # position within its own sequence
        cos, sin = (part[0][columns[..., 0]] for part in rotary)
        q = layer.q(flat[queries.flatten()].view(rows, -1, flat.shape[-1]), (cos, sin))
        keys = torch.arange(length, device=ids.device)
        bias = torch.zeros((*columns.shape[:2], length), device=ids.device)
        bias = bias.masked_fill(keys > columns, float("-inf"))[:, None]
        mixed = attend(q, k, v, mask=bias).flatten(0, 1)[place]
        return norm(layer.after_attention(x.flatten(0, 1)[logit_positions], mixed), self.body.norm)


class _Layer:
    """One layer during one pass."""

    def __init__(self, fast: FastBody, number: int, weights: Mapping[str, Tensor]) -> None:
        self.layer = fast.body.layers[number]
        self.width = fast.width
        self.path = f"layers.{number}."
        self.weights = weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        """The output of a linear layer, with the weight that replaces its own."""
        from torch.nn.functional import linear

        module = self.layer.get_submodule(name)
        weight = self.weights.get(f"{self.path}{name}.base_layer.weight")
        if weight is None:
            output: Tensor = module(x)
            return output
        return linear(x, weight, module.base_layer.bias)

    def norm_in(self, x: Tensor) -> Tensor:
        return norm(x, self.layer.input_layernorm)

    def _heads(self, name: str, x: Tensor) -> Tensor:
        """Projection to heads: [B, T, H] -> [B, T, heads, W]."""
        heads = self.linear(f"self_attn.{name}_proj", x).view(*x.shape[:2], -1, self.width)
        head_norm = getattr(self.layer.self_attn, f"{name}_norm", None)
        return heads if head_norm is None else norm(heads, head_norm)

    def q(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        """Queries, [B, heads, T, W]."""
        return rotate(self._heads("q", x), *rotary).transpose(1, 2)

    def kv(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values, [B, groups, T, W] each."""
        k = rotate(self._heads("k", x), *rotary).transpose(1, 2)
        return k, self._heads("v", x).transpose(1, 2)

    def qkv(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return (self.q(x, rotary), *self.kv(x, rotary))

    def after_attention(self, x: Tensor, mixed: Tensor) -> Tensor:
        """The layer's output from its input `x` and attention's output `mixed`, row by row."""
        x = x + self.linear("self_attn.o_proj", mixed)
        normed = norm(x, self.layer.post_attention_layernorm)
        gate = self.layer.mlp.act_fn(self.linear("mlp.gate_proj", normed))
        return x + self.linear("mlp.down_proj", gate * self.linear("mlp.up_proj", normed))


# ---------------------------------------------------------------------- generation


@dataclass(frozen=True)
class _Matrices:
    """Weights and biases of a layer as generation uses them."""

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
        body: A body that `fast_body` accepts.
        weights: Weights that replace its own, by name.
        rows: Number of sequences.
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
        """Continue with these rows only."""
        self.caches = [cache[:, rows] for cache in self.caches]

    def next_states(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """State of the last position, [B, H], after adding `ids` to the cache.

        Args:
            ids: [B, T], padded on the left.
            mask: [B, seen + T]; 0 for padding.
            positions: [B or 1, T], positions of `ids` in their sequences.
        """
        x = self.body.embed_tokens(ids)
        rotary = rotary_embedding(self.body, x, positions)
        start, self.seen = self.seen, self.seen + ids.shape[1]
        bias = _attention_bias(mask, ids.shape[1])
        for number, m in enumerate(self.layers):
            layer = self.body.layers[number]
            last = number + 1 == len(self.layers)
            q, keys, values = self._heads(x, layer, m, rotary, number, start)
            if last and q.shape[2] > 1:  # only the last state of the last layer is needed
                q, x = q[:, :, -1:], x[:, -1:]
                bias = bias[:, :, -1:] if bias is not None else None
            mixed = self._mix(q, keys, values, bias)
            x = self._mlp(x + _apply(mixed, m.out, m.out_bias), layer, m)
        return norm(x[:, -1], self.body.norm)

    def _heads(
        self,
        x: Tensor,
        layer: Any,
        m: _Matrices,
        rotary: tuple[Tensor, Tensor],
        number: int,
        start: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, heads, T, W]; keys and values of all tokens, [B, groups, seen, W] each."""
        normed = norm(x, layer.input_layernorm)
        both = _apply(normed, m.qkv, m.qkv_bias).view(*x.shape[:2], -1, self.width)
        n, g = self.heads, self.groups
        if self.head_norms:
            q = norm(both[:, :, :n], layer.self_attn.q_norm)
            k = norm(both[:, :, n : n + g], layer.self_attn.k_norm)
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        else:
            rotated = rotate(both[:, :, : n + g], *rotary)
            q, k = rotated[:, :, :n], rotated[:, :, n:]
        cache = self.caches[number]
        cache[0, :, :, start : self.seen] = k.transpose(1, 2)
        cache[1, :, :, start : self.seen] = both[:, :, n + g :].transpose(1, 2)
        return q.transpose(1, 2), cache[0, :, :, : self.seen], cache[1, :, :, : self.seen]

    def _mix(self, q: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        from torch.nn.functional import scaled_dot_product_attention

        if q.shape[2] > 1:
            return attend(q, keys, values, mask=bias)
        # One query per head: the heads of a group are as many queries of one head.
        grouped = q.reshape(len(q), self.groups, -1, self.width)
        mixed = scaled_dot_product_attention(grouped, keys, values, attn_mask=bias)
        return mixed.reshape(len(q), 1, -1)

    def _mlp(self, x: Tensor, layer: Any, m: _Matrices) -> Tensor:
        normed = norm(x, layer.post_attention_layernorm)
        gate, up = _apply(normed, m.gate_up, m.gate_up_bias).chunk(2, -1)
        return x + _apply(layer.mlp.act_fn(gate) * up, m.down, m.down_bias)


def _apply(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    from torch.nn.functional import linear

    return linear(x, weight, bias)


def _plain(module: Any, path: str, weights: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer, with its adapter added."""
    base = getattr(module, "base_layer", module)
    weight = weights.get(f"{path}.base_layer.weight")
    if weight is None:
        weight = base.weight
        if base is not module:
            for adapter in module.active_adapters:
                weight = weight + module.get_delta_weight(adapter)
    return weight, base.bias


def _attention_bias(mask: Tensor, new: int) -> Tensor | None:
    """Added to attention scores, [B, 1, new, seen]: -inf for padding and the future, else 0."""
    import torch

    seen = mask.shape[1]
    if new == 1 and bool(mask.all()):
        return None
    queries = torch.arange(seen - new, seen, device=mask.device)[:, None]
    visible = (torch.arange(seen, device=mask.device) <= queries) & mask[:, None, None, :].bool()
    # A padded query sees itself: a softmax over nothing would be NaN.
    visible = visible | (torch.arange(seen, device=mask.device) == queries)
    bias = torch.zeros(visible.shape, device=mask.device)
    return bias.masked_fill(~visible, float("-inf"))
