"""Policy, reference and critic of PPO, with no more computation than PPO needs:

- Logits only at positions that predict a token of a completion, never for prompts or padding.
- Sequences are padded on the right, so that a causal model needs no attention mask.
- The critic has no language-model head. `shared`: a value head on the policy's own states.
- With LoRA the reference is the policy with adapters off; no second copy is held.
- Adapters of a high rank are folded, see `Folding`; small models take a faster path through their
  layers, see `fast`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..model import lora_config, unknown_model
from ..settings import TrainerSettings
from .fast import FastBody, fast_body
from .language_model import Folding, LanguageModel, Weights

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["ActorCritic", "load_actor_critic"]


class ActorCritic:
    """The policy that is trained, its critic, and the reference that it must not leave.

    Args:
        policy: A causal language model, or its PEFT model.
        lora: True if the policy is a PEFT model.
        critic: The body of the separate critic; None for a shared one.
        reference: Frozen copy of the policy; None with LoRA, or without a KL term.
        settings: The run's settings.
        half: True for arithmetic in bfloat16.
    """

    def __init__(
        self,
        policy: Any,
        *,
        lora: bool,
        critic: Any,
        reference: Any,
        settings: TrainerSettings,
        half: bool,
    ) -> None:
        from torch import nn

        self.policy = policy
        inner = policy.get_base_model() if lora else policy
        self.lora = lora
        self.lm = LanguageModel(inner)
        self.folding = Folding(self.lm, enabled=not settings.gradient_checkpointing)
        self.reference = LanguageModel(reference) if reference is not None else None
        self.fast_critic: FastBody | None = None
        self.half, self.checkpointing = half, settings.gradient_checkpointing
        self.temperature = settings.temperature
        device = next(inner.parameters()).device
        self.value_head = nn.Linear(_width(inner.config), 1, device=device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.critic = critic
        parts = {"policy": policy, "value_head": self.value_head}
        self.modules = nn.ModuleDict(parts if critic is None else {**parts, "critic": critic})
        for module in (self.modules, reference):
            if module is not None:
                _no_dropout(module)
                module.eval()
        if settings.gradient_checkpointing:
            _checkpoint(inner, critic)
            self.lm.checkpoint_head = True

    def enable_fast_path(self) -> None:
        """Use the fast paths that there are. Call it only where weights are not sharded."""
        if self.half or self.checkpointing:
            return
        for lm in (self.lm, self.reference):
            if lm is not None:
                lm.enable_fast_path()
        if self.critic is not None:
            self.fast_critic = fast_body(self.critic)

    @property
    def device(self) -> Any:
        return self.value_head.weight.device

    def groups(self) -> list[list[nn.Parameter]]:
        """Trained weights: the policy's, and apart from them those of a separate critic."""
        policy = [p for p in self.policy.parameters() if p.requires_grad]
        values = list(self.value_head.parameters())
        if self.critic is None:
            return [policy + values]
        return [policy, [*(p for p in self.critic.parameters() if p.requires_grad), *values]]

    def precision(self) -> AbstractContextManager[None]:
        """Context of every pass: the arithmetic's type. Weights are never cast in place."""
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)

    def evaluate(
        self, ids: Tensor, logit_positions: Tensor, tokens: Tensor, weights: Weights
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities of `tokens` and values of the states before them, [M] each.

        Args:
            ids: [B, T], padded on the right.
            logit_positions: [M], ascending positions in the flattened `ids` that predict `tokens`.
            tokens: [M].
            weights: Weights that replace the policy's own.
        """
        with self.precision():
            logps, states = self.lm.logprobs_at(
                ids, logit_positions, tokens, self.temperature, weights
            )
            if self.fast_critic is not None:
                states = self.fast_critic.states_at(ids, logit_positions, {})
            elif self.critic is not None:
                out = self.critic(input_ids=ids, use_cache=False)
                states = out.last_hidden_state.flatten(0, 1)[logit_positions]
        return logps, self.value_head(states.float())[:, 0]

    def reference_log_probs(self, ids: Tensor, logit_positions: Tensor, tokens: Tensor) -> Tensor:
        """Log-probabilities of the same tokens under the policy before training, [M]."""
        import torch

        temperature = self.temperature
        with torch.no_grad(), self.precision():
            if self.reference is not None:
                return self.reference.logprobs_at(ids, logit_positions, tokens, temperature)[0]
            with _adapters_off(self.folding.unfolded):
                return self.lm.logprobs_at(ids, logit_positions, tokens, temperature)[0]

    @contextmanager
    def generation_mode(self) -> Iterator[None]:
        """Context of generation. In transformers 4, layers with checkpointing have no cache in
        training mode: each token would see only itself."""
        self.policy.eval()
        try:
            with self.precision():
                yield
        finally:
            self.policy.train(self.checkpointing)

    def generation_weights(self) -> Weights:
        """Weights for generation: folded, and bfloat16 copies where that is the arithmetic."""
        import torch

        weights = self.folding.weights()
        if not (self.half and self.lm.separable):
            return weights

        def copies(module: Any) -> dict[str, Tensor]:
            return {
                name: p.detach().to(torch.bfloat16)
                for name, p in module.named_parameters(remove_duplicate=False)
                if p.dtype == torch.float32
            }

        body = {**copies(self.lm.body), **weights.body}
        head = {**copies(self.lm.head), **weights.head}
        return Weights(body, head)


def _width(config: Any) -> int:
    text = config.get_text_config()
    return int(text.hidden_size)


def _no_dropout(module: Any) -> None:
    from torch import nn

    for part in module.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("attention_dropout", "activation_dropout", "dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)


def _checkpoint(inner: Any, critic: Any) -> None:
    for module in (inner, critic):
        if module is not None:
            module.gradient_checkpointing_enable({"use_reentrant": False})
            module.train()  # transformers checkpoints in training mode only; there is no dropout


@contextmanager
def _adapters_off(layers: Sequence[Any]) -> Iterator[None]:
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)


# ---------------------------------------------------------------------- loading


def load_actor_critic(
    model: str, settings: TrainerSettings, device: Any, seed: int, checkpoint: Path | None = None
) -> ActorCritic:
    """Load policy, critic and reference; the policy from a checkpoint, if there is one.

    New weights (adapters, value head) follow from the seed, so that all ranks have the same.

    Raises:
        ConfigError: The model cannot be loaded.
    """
    import torch

    half = settings.dtype == "bfloat16" or (settings.dtype == "auto" and _capable(device))
    frozen = torch.bfloat16 if half else torch.float32
    lora = settings.lora is not None
    torch.manual_seed(seed)
    full = checkpoint is not None and not lora
    policy = _causal(str(checkpoint) if full else model, frozen if lora else torch.float32)
    reference = None
    if not lora and settings.beta:
        reference = _causal(model, frozen) if full else copy.deepcopy(policy).to(frozen)
        reference.requires_grad_(False).to(device)
    if lora:
        policy = _adapted(policy, settings, checkpoint)
    critic = None
    if settings.ppo.critic == "separate":
        critic = _causal(model, torch.float32).base_model.to(device)  # without its head
    return ActorCritic(
        policy.to(device),
        lora=lora,
        critic=critic,
        reference=reference,
        settings=settings,
        half=half,
    )


def _capable(device: Any) -> bool:
    import torch

    return bool(device.type == "cuda" and torch.cuda.is_bf16_supported())


def _causal(model: str, dtype: Any) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    except (OSError, ValueError) as error:
        raise unknown_model(model, error) from error


def _adapted(policy: Any, settings: TrainerSettings, checkpoint: Path | None) -> Any:
    from peft import PeftModel, get_peft_model

    if checkpoint is not None:
        return PeftModel.from_pretrained(policy, str(checkpoint), is_trainable=True)
    try:
        return get_peft_model(policy, lora_config(settings))
    except ValueError as error:  # no module of that name
        raise ConfigError(f"lora: {error}") from error
