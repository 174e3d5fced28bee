"""A shorter way through decoders of the Llama kind (Llama, Mistral, Qwen2, Qwen3, …), in float32.

The layers are those of transformers, with their weights; what differs is what is left out:

- In the last layer queries, MLP and norms are computed only at the positions that are asked for;
  all others are needed there for their keys and values alone.
- RMSNorm and rotary positions have backward passes of their own, with half the work in memory.
- On a CPU attention does not compute what the causal mask hides.
- Generation has a way of its own, see `ppo_decode`.

Small models on a CPU gain most. A model is taken only if it is built that way and gives the same
states as its own code, see `fast_body`; any other, and all arithmetic in bfloat16, goes through
transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .decode import FastDecoder
from .ops import attend, attend_causal, norm, rotate, turn_of

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["FastBody", "fast_body", "queries_at", "sees_everything"]

LAYER = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
HEAD_NORMS = {"q_norm", "k_norm"}
MLP = {"gate_proj", "up_proj", "down_proj", "act_fn"}


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
        decoder = FastDecoder(body, {}, rows=2, length=7)
        keep = torch.ones_like(ids)
        positions = torch.arange(7, device=ids.device)[None]
        decoder.next_states(ids[:, :5], keep[:, :5], positions[:, :5].expand(2, -1))
        cached = [
            decoder.next_states(ids[:, t : t + 1], keep[:, : t + 1], positions[:, t : t + 1])
            for t in (5, 6)
        ]
        halves = [part.chunk(2, -1) for part in turn_of(body, own, positions)]
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
    known = all(hasattr(each, "variance_epsilon") for each in norms)
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
        turn = turn_of(self.body, x, torch.arange(length, device=ids.device)[None])
        *layers, last = range(len(self.body.layers))
        for number in layers:
            one = _Layer(self, number, weights)
            q, k, v = one.qkv(one.norm_in(x), turn)
            x = one.rest(x, attend_causal(q, k, v))
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
        mixed = attend(q, k, v, mask=hidden).flatten(0, 1)[place]
        return norm(one.rest(x.flatten(0, 1)[where], mixed), self.body.norm)

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
        return norm(x, self.layer.input_layernorm)

    def _heads(self, name: str, x: Tensor) -> Tensor:
        found = self.linear(f"self_attn.{name}_proj", x)
        found = found.view(*x.shape[:2], -1, self.width)
        of_heads = getattr(self.layer.self_attn, f"{name}_norm", None)
        return found if of_heads is None else norm(found, of_heads)

    def q(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        return rotate(self._heads("q", x), *turn).transpose(1, 2)

    def kv(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        k = rotate(self._heads("k", x), *turn).transpose(1, 2)
        return k, self._heads("v", x).transpose(1, 2)

    def qkv(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        return (self.q(x, turn), *self.kv(x, turn))

    def rest(self, x: Tensor, mixed: Tensor) -> Tensor:
        """What follows attention; rows of `x` and of `mixed` go together."""
        x = x + self.linear("self_attn.o_proj", mixed)
        normed = norm(x, self.layer.post_attention_layernorm)
        gate = self.layer.mlp.act_fn(self.linear("mlp.gate_proj", normed))
        return x + self.linear("mlp.down_proj", gate * self.linear("mlp.up_proj", normed))
