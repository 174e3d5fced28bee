"""A causal language model that computes no more than PPO needs.

Tensor shapes: B sequences of T tokens; M completion tokens in all of them; H hidden; V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .fast import FastBody, FastDecoder, fast_body, sees_everything
from .math import log_probs

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Decoder", "Folding", "LanguageModel", "Weights"]

HEAD_ROWS = 512
"""Positions whose logits exist at once under gradient checkpointing."""


@dataclass
class Weights:
    """Tensors that replace a model's own weights during a call, by their names."""

    body: dict[str, Tensor] = field(default_factory=dict)
    """Names within the body."""
    head: dict[str, Tensor] = field(default_factory=dict)
    """Names within the output head."""


NONE = Weights()


def _call(module: Any, weights: Mapping[str, Tensor], *args: Any, **kwargs: Any) -> Any:
    if not weights:
        return module(*args, **kwargs)
    from torch.func import functional_call

    # Not tied: an adapter on the output head must not change the input embeddings.
    return functional_call(module, dict(weights), args, kwargs, tie_weights=False)


class LanguageModel:
    """A causal language model of transformers that computes logits at chosen positions only.

    Its body and its head are called separately. Where that would not give the model's own logits
    (a model with an unusual head), the whole model is called and most logits are thrown away.

    Args:
        model: The model; its LoRA layers, if any, are inside.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.body = model.base_model
        self.head = model.get_output_embeddings()
        parameters = inspect.signature(self.body.forward).parameters
        self.cache_name = "cache" if "cache" in parameters else "past_key_values"
        # Layers that see only a window make masks of their own from the mask of tokens.
        sdpa = getattr(model.config, "_attn_implementation", None) == "sdpa"
        self.accepts_full_masks = sdpa and sees_everything(model.config)
        self.checkpoint_head = False
        self.separable = self._is_separable()
        self.fast: FastBody | None = None

    def enable_fast_path(self) -> None:
        """Use the faster code for the layers, if the model has one; not in bfloat16."""
        if self.separable:
            self.fast = fast_body(self.body)

    def _is_separable(self) -> bool:
        import torch

        if self.body is self.model or self.head is None:
            return False
        if getattr(self.model.config, "final_logit_softcapping", None) is not None:
            return False  # it bends large logits only, which four tokens would not show
        device = next(self.body.parameters()).device
        ids = torch.arange(1, 5, device=device)[None]
        with torch.no_grad():
            logits = self.head(self.body(input_ids=ids, use_cache=False).last_hidden_state)
            own = self.model(input_ids=ids, use_cache=False).logits
        return logits.shape == own.shape and bool(torch.allclose(logits, own, atol=1e-4, rtol=1e-3))

    def logprobs_at(
        self,
        ids: Tensor,
        logit_positions: Tensor,
        tokens: Tensor,
        temperature: float,
        weights: Weights = NONE,
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of `tokens` [M], and the states [M, H] that predict them.

        Args:
            ids: [B, T], padded on the right.
            logit_positions: [M], ascending positions in the flattened `ids` that predict `tokens`.
            tokens: [M].
            temperature: The sampling temperature.
            weights: Weights that replace the model's own.
        """
        if not self.separable:
            out = self.model(input_ids=ids, use_cache=False, output_hidden_states=True)
            states = out.hidden_states[-1].flatten(0, 1)[logit_positions]
            logits = out.logits.flatten(0, 1)[logit_positions]
            return log_probs(logits / temperature, tokens), states
        if self.fast is not None:
            states = self.fast.states_at(ids, logit_positions, weights.body)
        else:
            out = _call(self.body, weights.body, input_ids=ids, use_cache=False)
            states = out.last_hidden_state.flatten(0, 1)[logit_positions]
        return self._head_log_probs(states, tokens, temperature, weights.head), states

    def _head_log_probs(
        self, states: Tensor, tokens: Tensor, temperature: float, weights: Mapping[str, Tensor]
    ) -> Tensor:
        import torch
        from torch.utils.checkpoint import checkpoint

        def compute(rows: Tensor, tokens: Tensor) -> Tensor:
            if getattr(self.head, "bias", None) is None:  # [M, H] is cheaper to divide than [M, V]
                return log_probs(_call(self.head, weights, rows / temperature), tokens)
            return log_probs(_call(self.head, weights, rows) / temperature, tokens)

        if not (self.checkpoint_head and torch.is_grad_enabled()):
            return compute(states, tokens)
        parts = zip(torch.split(states, HEAD_ROWS), torch.split(tokens, HEAD_ROWS), strict=True)
        return torch.cat([checkpoint(compute, a, b, use_reentrant=False) for a, b in parts])

    def next_logits(
        self, ids: Tensor, mask: Tensor | None, positions: Tensor, cache: Any, weights: Weights
    ) -> Tensor:
        """Logits of the token after the last one, [B, V]; adds `ids` [B, T] to the cache."""
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "use_cache": True,
            self.cache_name: cache,
        }
        if not self.separable:
            logits: Tensor = self.model(**inputs).logits
            return logits[:, -1]
        out = _call(self.body, weights.body, **inputs)
        last: Tensor = _call(self.head, weights.head, out.last_hidden_state[:, -1])
        return last

    def decoder(self, weights: Weights | None, rows: int, length: int) -> Decoder:
        """A decoder for `rows` sequences of at most `length` tokens, padding included."""
        weights = weights or NONE
        if self.fast is not None:
            return Decoder(self, weights, FastDecoder(self.body, weights.body, rows, length))
        return Decoder(self, weights)


class Decoder:
    """Continues sequences token by token.

    Args:
        lm: The model; its `next_logits` is called where there is no fast decoder.
        weights: Weights that replace the model's own.
        fast: The fast decoder.
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
            fast: Tensor = _call(self.lm.head, self.weights.head, states)
            return fast
        attention: Tensor | None = mask
        if bool(mask[:, 0].all()):  # no padding: a causal model needs no mask
            attention = None
        elif ids.shape[1] == 1 and self.lm.accepts_full_masks:
            attention = mask[:, None, None, :].bool()
        logits: Tensor = self.lm.next_logits(ids, attention, positions, self.cache, self.weights)
        return logits

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only."""
        if self.fast is not None:
            self.fast.keep(rows)
        else:
            self.cache.batch_select_indices(rows)


class Folding:
    """LoRA layers that are computed as one matrix, W + s·B·A.

    A LoRA layer costs 2 + 3ρ matrix products per pass (forward and backward), with
    ρ = r(in + out) / (in·out); one trained matrix costs 3. So layers with ρ > 1/3 (a high rank on a
    small matrix) are folded before each optimizer step, and the gradient of the matrix is carried
    over to A and B after it. The result is the same up to rounding, and W gets no gradient.

    Args:
        lm: The policy.
        enabled: False folds no layer.
    """

    def __init__(self, lm: LanguageModel, *, enabled: bool = True) -> None:
        self.unfolded: list[Any] = []
        """LoRA layers that are not folded."""
        self._body: dict[str, Any] = {}
        self._head: dict[str, Any] = {}
        self._folds: Weights = NONE
        self._leaves: Weights = NONE
        for name, module in lm.body.named_modules():
            self._add(self._body, f"{name}.base_layer.weight", module, enabled and lm.separable)
        if lm.head is not None:
            self._add(self._head, "base_layer.weight", lm.head, enabled and lm.separable)

    def _add(self, folded: dict[str, Any], name: str, module: Any, enabled: bool) -> None:
        if not hasattr(module, "lora_A"):
            return
        if not (enabled and _foldable(module)):
            self.unfolded.append(module)
            return
        module.enable_adapters(False)  # its forward then is that of the base layer alone
        for part in (module.lora_A, module.lora_B):
            part.requires_grad_(True)  # which `enable_adapters(False)` has switched off
        folded[name] = module

    def weights(self) -> Weights:
        """The folded matrices, without gradients."""
        import torch

        with torch.no_grad():
            return self._folded()

    def begin(self) -> Weights:
        """The folded matrices for the passes up to the next `finish`."""
        self._folds = self._folded()
        self._leaves = Weights(
            {name: w.detach().requires_grad_() for name, w in self._folds.body.items()},
            {name: w.detach().requires_grad_() for name, w in self._folds.head.items()},
        )
        return self._leaves

    def finish(self) -> None:
        """Carry the gradients of the folded matrices over to the adapters."""
        import torch

        folds = [*self._folds.body.values(), *self._folds.head.values()]
        leaves = [*self._leaves.body.values(), *self._leaves.head.values()]
        pairs = [(fold, leaf.grad) for fold, leaf in zip(folds, leaves, strict=True)]
        used = [(fold, gradient) for fold, gradient in pairs if gradient is not None]
        if used:
            torch.autograd.backward([fold for fold, _ in used], [gradient for _, gradient in used])
        self._folds = self._leaves = NONE

    def _folded(self) -> Weights:
        return Weights(
            {name: _folded(layer) for name, layer in self._body.items()},
            {name: _folded(layer) for name, layer in self._head.items()},
        )


def _folded(layer: Any) -> Tensor:
    (adapter,) = layer.active_adapters
    matrix: Tensor = layer.base_layer.weight + layer.get_delta_weight(adapter)
    return matrix


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
