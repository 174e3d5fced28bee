"""Settings of the trainer: what a config says about how the policy is updated."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..errors import ConfigError

__all__ = ["LoraSettings", "TrainerSettings"]

OWN = {
    "output_dir": "the run folder",
    "max_steps": "steps",
    "num_train_epochs": "steps",
    "num_generations": "num_generations",
    "generation_batch_size": "batch_size",
    "per_device_train_batch_size": "micro_batch_size",
    "gradient_accumulation_steps": "batch_size and micro_batch_size",
    "learning_rate": "learning_rate",
    "lr_scheduler_type": "lr_schedule",
    "beta": "beta",
    "temperature": "temperature",
    "top_p": "top_p",
    "max_completion_length": "response.max_tokens of the task",
    "save_strategy": "save_every",
    "save_steps": "save_every",
    "report_to": "report_to",
    "seed": "seed",
    "use_cpu": "CUDA_VISIBLE_DEVICES",
    "bf16": "dtype",
    "fp16": "dtype",
    "model_init_kwargs": "dtype",
    "gradient_checkpointing": "gradient_checkpointing",
}
"""Arguments of GRPOConfig that have a place of their own, and where it is."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraSettings(_Settings):
    """Train low-rank adapters instead of all weights."""

    r: int = Field(16, gt=0)
    """Rank."""
    alpha: int = Field(32, gt=0)
    """Scale of the adapters: their output is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in the adapters. PPO never applies it: probability ratios would be noise."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get adapters."""


class TrainerSettings(_Settings):
    """How the policy is updated. Defaults suit a model of some billion weights on GPUs."""

    algorithm: Literal["grpo", "rloo", "ppo"] = "grpo"
    """`grpo` and `rloo` through TRL, `ppo` through our own trainer."""
    steps: int = Field(400, gt=0)
    """Optimizer updates."""
    batch_size: int = Field(64, gt=0)
    """Completions per update, over all processes; a multiple of `num_generations`."""
    num_generations: int = Field(8, ge=1)
    """Completions per prompt: GRPO compares them with each other."""
    micro_batch_size: int | None = Field(None, gt=0)
    """Completions per backward pass and process; all of an update's at once if None."""
    learning_rate: float = Field(1e-6, gt=0)
    """Learning rate at its highest."""
    lr_schedule: str = "linear"
    """A name that transformers knows: `linear`, `cosine`, `constant`, …"""
    beta: float = Field(0.04, ge=0)
    """Weight of the KL divergence from the policy before training."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of rollouts."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus of sampling: 1 keeps every token."""
    save_every: int = Field(50, ge=0)
    """Updates between checkpoints; 0 for one at the end only. There is always one at the end."""
    report_to: list[str] = []
    """Trackers that transformers knows: `wandb`, `tensorboard`, `trackio`, …"""
    lora: LoraSettings | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of weights and arithmetic. `auto`: weights in float32 (a small learning rate would be lost in
    bfloat16), arithmetic in bfloat16 where the GPU has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, more time."""
    extra: dict[str, Any] = {}
    """Further arguments of TRL's GRPOConfig or RLOOConfig as they are; for PPO, the fields of
    `PPOSettings` that have no key here."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.num_generations:
            raise ValueError(
                f"batch_size={self.batch_size} is not a multiple of "
                f"num_generations={self.num_generations}: a group would be cut"
            )
        if self.num_generations < 2 and self.algorithm != "ppo":
            raise ValueError(
                f"{self.algorithm} compares completions of a group: at least 2 of them"
            )
        for key in self.extra:
            if key in OWN:
                raise ValueError(f"extra.{key}: set it through {OWN[key]}")
        return self

    @property
    def prompts(self) -> int:
        """Prompts per update."""
        return self.batch_size // self.num_generations

    def per_process(self, processes: int) -> tuple[int, int]:
        """Completions per backward pass and process, and backward passes per update.

        Raises:
            ConfigError: The batch cannot be divided over that many processes.
        """
        share, rest = divmod(self.batch_size, processes)
        micro = self.micro_batch_size or share
        if rest or share % micro:
            raise ConfigError(
                f"batch_size={self.batch_size} cannot be divided into micro-batches of "
                f"micro_batch_size={micro} on {processes} process(es): choose a multiple of "
                f"{micro * processes}"
            )
        return micro, share // micro
