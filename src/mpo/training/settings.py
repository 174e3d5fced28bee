"""Settings of the trainers: the `trainer:` part of a config."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ..errors import ConfigError
from ..operational import Operational

__all__ = ["LoraSettings", "PPOSettings", "TrainerSettings"]

TRL_ARGUMENTS = {
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
"""Arguments of GRPOConfig that have a key of their own, and its name."""


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LoraSettings(_Settings):
    """Train low-rank adapters instead of all weights."""

    r: int = Field(16, gt=0)
    """Rank of the adapters."""
    alpha: int = Field(32, gt=0)
    """Scale of the adapters: their output is multiplied by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout in the adapters. PPO never applies it: probability ratios would be noise."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get adapters."""


class PPOSettings(_Settings):
    """Keys of PPO alone: `trainer.ppo`. `beta` is the KL coefficient, as for GRPO.

    "Paper" marks what the paper or its code uses (arXiv 2504.20157).
    """

    epochs: int = Field(4, gt=0)
    """Passes over each batch."""
    minibatches: int = Field(1, gt=0)
    """Optimizer steps per pass."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount per token."""
    lam: float = Field(0.95, ge=0, le=1)
    """λ of generalized advantage estimation."""
    clip: float = Field(0.2, gt=0)
    """Distance from 1 at which probability ratios are clipped."""
    value_clip: float = Field(0.2, gt=0)
    """Distance from the value before the update at which values are clipped."""
    value_coef: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    critic: Literal["shared", "separate"] = "shared"
    """`shared`: a value head on the policy's trunk; `separate`: a full copy, trained in full
    (paper)."""
    whiten_rewards: bool = False
    """Scale rewards to variance 1 over the whole batch; their mean stays."""
    whiten_advantages: bool = True
    """Scale advantages to mean 0 and variance 1 over the whole batch."""

    kl_estimator: Literal["k1", "k3"] = "k1"
    """Estimator of the KL divergence per token; k1 in the paper."""
    kl_target: float | None = Field(None, gt=0)
    """KL divergence per completion that `beta` is adapted to reach; None keeps it fixed."""
    kl_horizon: int = Field(10_000, gt=0)
    """Completions over which the adaptation acts."""
    missing_eos_penalty: float | None = Field(0.2, ge=0)
    """Taken off the reward of a completion that was cut before its end token."""
    missing_eos: Literal["relative", "absolute"] = "relative"
    """Unit of the penalty. `relative`: shares of the rubric's reward range; `absolute`: points of
    the reward (paper)."""

    warmup_steps: int = Field(0, ge=0)
    """Updates over which the learning rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of AdamW."""
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Limit of the gradient norm: of policy and separate critic each, and of both together where
    FSDP or DeepSpeed shard them. None leaves gradients as they are (paper)."""


class TrainerSettings(_Settings):
    """How the policy is updated. Defaults suit a model of some billion weights on GPUs."""

    algorithm: Literal["grpo", "rloo", "ppo"] = "grpo"
    """`grpo` and `rloo` through TRL, `ppo` through this package's own trainer."""
    steps: Operational[int] = Field(400, gt=0)
    """Updates: batches of completions that the policy learns from. A run can be given more of them,
    also after its end; a learning rate that falls with them then follows the new number."""
    batch_size: int = Field(64, gt=0)
    """Completions per update, over all processes; a multiple of `num_generations`."""
    num_generations: int = Field(8, ge=1)
    """Completions per prompt. GRPO and RLOO compare them with each other."""
    micro_batch_size: int | None = Field(None, gt=0)
    """Completions per backward pass and process; all of an update's at once if None."""
    learning_rate: float = Field(1e-6, gt=0)
    """Learning rate after the warm-up."""
    lr_schedule: str = "linear"
    """A name that transformers knows: `linear`, `cosine`, `constant`, …"""
    beta: float = Field(0.04, ge=0)
    """Weight of the KL divergence from the policy before training; 0 for none."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Probability mass that tokens are sampled from."""
    save_every: Operational[int] = Field(50, ge=0)
    """Updates between checkpoints; 0 for one at the end only. There is always one at the end."""
    report_to: Operational[list[str]] = []
    """Trackers that transformers knows: `wandb`, `tensorboard` (into the run's folder), …"""
    lora: LoraSettings | None = None
    """Adapters; None trains all weights."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of weights and arithmetic. `auto`: weights in float32 (a small learning rate would be
    lost in bfloat16), arithmetic in bfloat16 where the GPU has it. PPO's trained weights are always
    float32."""
    gradient_checkpointing: Operational[bool] = False
    """Compute activations twice instead of keeping them: less memory, more time."""
    ppo: PPOSettings = PPOSettings()
    """Keys of algorithm `ppo` alone."""
    extra: dict[str, Any] = {}
    """Further arguments of TRL's GRPOConfig or RLOOConfig; not for PPO."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.num_generations:
            raise ValueError(
                f"batch_size={self.batch_size} is not a multiple of "
                f"num_generations={self.num_generations}: a group would be cut"
            )
        if self.algorithm == "ppo":
            self._check_ppo()
        else:
            self._check_trl()
        return self

    def _check_ppo(self) -> None:
        if self.extra:
            names = ", ".join(sorted(self.extra))
            raise ValueError(
                f"extra holds arguments of TRL, which does not run PPO: move {names} to trainer.ppo"
            )
        if self.ppo.kl_target is not None and self.beta == 0:
            raise ValueError("ppo.kl_target adapts beta by factors: beta=0 would stay 0")

    def _check_trl(self) -> None:
        if self.num_generations < 2:
            raise ValueError(
                f"{self.algorithm} compares completions of a group: num_generations must be at "
                "least 2"
            )
        for key in self.extra:
            if key in TRL_ARGUMENTS:
                raise ValueError(f"extra.{key}: set it through {TRL_ARGUMENTS[key]}")

    @property
    def prompts(self) -> int:
        """Prompts per update."""
        return self.batch_size // self.num_generations

    def per_process(self, processes: int) -> tuple[int, int]:
        """Completions per backward pass and process, and backward passes per update, in TRL.

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

    def per_rank_batch_size(self, processes: int) -> int:
        """Completions per update and process in PPO.

        Raises:
            ConfigError: The batch cannot be divided over the processes and mini-batches.
        """
        share, rest = divmod(self.batch_size, processes)
        minibatches = self.ppo.minibatches
        if rest or share % minibatches:
            raise ConfigError(
                f"batch_size={self.batch_size} cannot be divided into {minibatches} "
                f"mini-batch(es) on {processes} process(es): choose a multiple of "
                f"{minibatches * processes}"
            )
        return share
