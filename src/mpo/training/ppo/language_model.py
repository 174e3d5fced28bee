"""A causal language model that is asked for no more than PPO needs of it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .decode import FastDecoder
from .fast import FastBody, fast_body, sees_everything
from .math import log_probs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Decoder", "Folding", "LanguageModel", "Weights"]

HEAD_ROWS = 512
"""Positions whose logits exist at once under gradient checkpointing."""


@dataclass
class Weights:
    """Tensors that stand in for a model's own weights during a call, by their names."""

    body: dict[str, Tensor] = field(default_factory=dict)
    head: dict[str, Tensor] = field(default_factory=dict)


NONE = Weights()


def _call(module: Any, weights: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    if not weights:
        return module(*args, **kwargs)
    from torch.func import functional_call

    # Not tied: an adapter on the output head must not change the input embeddings.
    return functional_call(module, dict(weights), args, kwargs, tie_weights=False)


class LanguageModel:
    """A causal language model of transformers that is asked for logits at chosen positions.

    Its body and its head are called apart. Where that would not give the model's own logits (a
    model with an unusual head), the whole model is called and most of its logits are thrown away.

    Args:
        model: The model; its LoRA layers, if any, are inside.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.body = model.base_model
        self.head = model.get_output_embeddings()
        parameters = inspect.signature(self.body.forward).parameters
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"
        # Layers that see only a window make their own masks, from the tokens' mask.
        sdpa = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self.masks_as_given = sdpa and sees_everything(model.config)
        self.checkpoint_head = False
        self.apart = self._agrees()
        self.fast: FastBody | None = None

    def shorten(self) -> None:
        """Take the short way through the layers, if the model has one; not in bfloat16."""
        if self.apart:
            self.fast = fast_body(self.body)

    def _agrees(self) -> bool:
        import torch

        if self.body is self.model or self.head is None:
            return False
        if getattr(self.model.config, "final_logit_softcapping", None) is not None:
            return False  # bends large logits only, which a short look would not show
        device = next(self.body.parameters()).device
        ids = torch.arange(1, 5, device=device)[None]
        with torch.no_grad():
            mine = self.head(self.body(input_ids=ids, use_cache=False).last_hidden_state)
            own = self.model(input_ids=ids, use_cache=False).logits
        return mine.shape == own.shape and bool(torch.allclose(mine, own, atol=1e-4, rtol=1e-3))

    def at(
        self,
        ids: Tensor,
        where: Tensor,
        tokens: Tensor,
        temperature: float,
        weights: Weights = NONE,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of `tokens` [M], and the states [M, H] that predict them.

        Args:
            ids: [B, T], padded on the right.
            where: [M], ascending positions in the flattened `ids` that predict `tokens`.
            tokens: [M].
            temperature: Of sampling.
            weights: Used instead of the model's own.
        """
        if not self.apart:
            out = self.model(input_ids=ids, use_cache=False, output_hidden_states=True)
            states = out.hidden_states[-1].flatten(0, 1)[where]
            return log_probs(out.logits.flatten(0, 1)[where] / temperature, tokens), states
        if self.fast is not None:
            states = self.fast.at(ids, where, weights.body)
        else:
            out = _call(self.body, weights.body, input_ids=ids, use_cache=False)
            states = out.last_hidden_state.flatten(0, 1)[where]
        return self._head(states, tokens, temperature, weights.head), states

    def _head(
        self, states: Tensor, tokens: Tensor, temperature: float, weights: Mapping[str, Tensor]
    ) -> Tensor:
        import torch
        from torch.utils.checkpoint import checkpoint

        def found(rows: Tensor, wanted: Tensor) -> Tensor:
            if getattr(self.head, "bias", None) is None:  # one small tensor less to divide
                return log_probs(_call(self.head, weights, rows / temperature), wanted)
            return log_probs(_call(self.head, weights, rows) / temperature, wanted)

        if not (self.checkpoint_head and torch.is_grad_enabled()):
            return found(states, tokens)
        parts = zip(torch.split(states, HEAD_ROWS), torch.split(tokens, HEAD_ROWS), strict=True)
        return torch.cat([checkpoint(found, a, b, use_reentrant=False) for a, b in parts])

    def next_logits(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any, weights: Weights
    ) -> Tensor:
        """Logits of the token after the last one, [B, V]; adds `ids` to the cache."""
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": True,
            self.cache_name: cache,
        }
        if not self.apart:
            logits: Tensor = self.model(**inputs).logits
            return logits[:, -1]
        out = _call(self.body, weights.body, **inputs)
        found: Tensor = _call(self.head, weights.head, out.last_hidden_state[:, -1])
        return found

    def decoder(self, weights: Weights, rows: int, length: int) -> Decoder:
        """For `rows` sequences of at most `length` tokens, padding included."""
        if self.fast is not None:
            return Decoder(self, weights, FastDecoder(self.body, weights.body, rows, length))
        return Decoder(self, weights)


class Decoder:
    """Goes on with sequences token by token.

    Args:
        lm: The model; its `next_logits` is called where there is no short way.
        weights: Used instead of the model's own.
        fast: The short way.
    """

    def __init__(self, lm: Any, weights: Weights, fast: FastDecoder | None = None) -> None:
        self.lm, self.weights, self.fast = lm, weights, fast
        self.cache: Any = None
        if fast is None:
            from transformers import DynamicCache

            self.cache = DynamicCache(config=lm.model.config)

    def next_logits(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Logits of the token after the last one, [B, V].

        Args:
            ids: [B, T], padded on the left.
            mask: [B, all tokens so far]; 0 for padding.
            positions: [B, T].
        """
        if self.fast is not None:
            states = self.fast.next_states(ids, mask, positions)
            found: Tensor = _call(self.lm.head, self.weights.head, states)
            return found
        given: Tensor | None = mask
        if bool(mask[:, 0].all()):
            given = None
        elif ids.shape[1] == 1 and self.lm.masks_as_given:
            given = mask[:, None, None, :].bool()
        logits: Tensor = self.lm.next_logits(ids, given, positions, self.cache, self.weights)
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        if self.fast is not None:
            self.fast.keep(rows)
        else:
            self.cache.batch_select_indices(rows)


class Folding:
    """LoRA layers that are computed as one matrix, W + s·B·A.

    A LoRA layer costs 2 + 3ρ matrix products a pass (forward and backward), with
    ρ = r(in + out) / (in·out); one matrix that is trained costs 3. So layers with ρ > 1/3 (a high
    rank on a small matrix) are folded before each optimizer step and the gradient of the matrix is
    carried over to A and B after it. The result is the same up to rounding, and W gets no gradient.
    """

    def __init__(self, lm: LanguageModel, *, enabled: bool = True) -> None:
        self.rest: list[Any] = []
        """LoRA layers that are not folded."""
        self._body: dict[str, Any] = {}
        self._head: dict[str, Any] = {}
        self._whole: Weights = NONE
        self._leaves: Weights = NONE
        for name, module in lm.body.named_modules():
            self._add(self._body, f"{name}.base_layer.weight", module, enabled and lm.apart)
        if lm.head is not None:
            self._add(self._head, "base_layer.weight", lm.head, enabled and lm.apart)

    def _add(self, found: dict[str, Any], name: str, module: Any, enabled: bool) -> None:
        if not hasattr(module, "lora_A"):
            return
        if not (enabled and _foldable(module)):
            self.rest.append(module)
            return
        module.enable_adapters(False)  # its forward then is that of the base layer alone
        for part in (module.lora_A, module.lora_B):
            part.requires_grad_(True)
        found[name] = module

    def weights(self) -> Weights:
        """The folded matrices, without gradients."""
        import torch

        with torch.no_grad():
            return self._folded()

    def begin(self) -> Weights:
        """The folded matrices for the passes up to the next `finish`."""
        self._whole = self._folded()
        self._leaves = Weights(
            {name: w.detach().requires_grad_() for name, w in self._whole.body.items()},
            {name: w.detach().requires_grad_() for name, w in self._whole.head.items()},
        )
        return self._leaves

    def finish(self) -> None:
        """Carry the gradients that the folded matrices have gathered over to the adapters."""
        import torch

        whole = [*self._whole.body.values(), *self._whole.head.values()]
        leaves = [*self._leaves.body.values(), *self._leaves.head.values()]
        pairs = [(w, leaf.grad) for w, leaf in zip(whole, leaves, strict=True)]
        known = [(w, gradient) for w, gradient in pairs if gradient is not None]
        if known:
            torch.autograd.backward([w for w, _ in known], [gradient for _, gradient in known])
        self._whole = self._leaves = NONE

    def _folded(self) -> Weights:
        return Weights(
            {name: _folded(layer) for name, layer in self._body.items()},
            {name: _folded(layer) for name, layer in self._head.items()},
        )


def _folded(layer: Any) -> Tensor:
    (adapter,) = layer.active_adapters
    found: Tensor = layer.base_layer.weight + layer.get_delta_weight(adapter)
    return found


def _foldable(module: Any) -> bool:
    from torch import nn

    plain = len(module.active_adapters) == 1 and not getattr(module, "lora_variant", None)
    base = getattr(module, "base_layer", None)
    if not plain or type(base) is not nn.Linear:
        return False
    (adapter,) = module.active_adapters
    if module.lora_B[adapter].bias is not None:
        return False
    inside, outside = base.in_features, base.out_features
    # A frozen base in bfloat16 would round the sum.
    same: bool = base.weight.dtype == module.lora_A[adapter].weight.dtype
    high: bool = 3 * module.r[adapter] * (inside + outside) > inside * outside
    return same and high
