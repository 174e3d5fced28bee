"""Settings of our PPO. Defaults suit a model of some billion weights on GPUs."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from ...errors import ConfigError
from ..settings import LoraSettings

__all__ = ["PPOSettings"]


class PPOSettings(BaseModel):
    """How PPO updates policy and critic. `paper §` marks what the paper or its code uses."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    algorithm: Literal["ppo"] = "ppo"
    steps: int = Field(400, gt=0)
    """Batches of completions; each is learned from in `epochs` passes."""
    batch_size: int = Field(64, gt=0)
    """Completions per step, over all processes."""
    num_generations: int = Field(1, gt=0)
    """Completions per prompt."""
    micro_batch_size: int | None = Field(None, gt=0)
    """Completions per backward pass and process. None: memory is no concern, and the forward pass
    that gives the old log-probabilities also serves the first epoch."""
    learning_rate: float = Field(3e-6, gt=0)
    lr_schedule: str = "linear"
    """A name that transformers knows: `linear`, `cosine`, `constant`, …"""
    warmup_steps: int = Field(0, ge=0)
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float | None = Field(1.0, gt=0)
    """Of policy and separate critic each, of both together where FSDP or DeepSpeed shard them; None
    leaves gradients as they are (the paper's code)."""

    epochs: int = Field(4, gt=0)
    """Passes over each batch."""
    minibatches: int = Field(1, gt=0)
    """Optimizer steps per pass."""
    gamma: float = Field(1.0, gt=0, le=1)
    lam: float = Field(0.95, ge=0, le=1)
    """λ of generalized advantage estimation."""
    clip: float = Field(0.2, gt=0)
    """Furthest that a probability ratio is followed from 1."""
    value_clip: float = Field(0.2, gt=0)
    """Furthest that a value is followed from the value before the update."""
    value_coef: float = Field(0.1, ge=0)
    """Weight of the value loss."""
    critic: Literal["shared", "separate"] = "shared"
    """`shared`: a value head on the policy's trunk; `separate`: a full copy, trained in full
    (paper)."""
    whiten_rewards: bool = False
    """Scale rewards to variance 1 over the whole batch; their mean stays."""
    whiten_advantages: bool = True

    kl_coef: float = Field(0.05, ge=0)
    """Weight of the divergence from the policy before training, taken off each token's reward."""
    kl_estimator: Literal["k1", "k3"] = "k1"
    kl_target: float | None = Field(None, gt=0)
    """Divergence per completion that `kl_coef` is adapted to reach; None keeps it fixed."""
    kl_horizon: int = Field(10_000, gt=0)
    """Completions over which the adaptation acts."""
    missing_eos_penalty: float | None = Field(0.2, ge=0)
    """Taken off the reward of a completion that was cut before its end token."""
    missing_eos: Literal["relative", "absolute"] = "relative"
    """`relative`: in shares of the rubric's reward range; `absolute`: as it is (paper)."""

    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)

    save_every: int = Field(50, ge=0)
    """Steps between checkpoints; 0 for one at the end only. There is always one at the end."""
    report_to: list[str] = []
    """Trackers that transformers knows: `wandb`, `tensorboard`, `trackio`, …"""
    lora: LoraSettings | None = None
    """Dropout is never active: the ratio of probabilities would be noise."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of arithmetic; `auto`: bfloat16 where the GPU has it. Trained weights are always float32."""
    gradient_checkpointing: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.batch_size % self.num_generations:
            raise ValueError(
                f"batch_size={self.batch_size} is not a multiple of "
                f"num_generations={self.num_generations}: a group would be cut"
            )
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("kl_target adapts kl_coef by factors: kl_coef=0 would stay 0")
        return self

    @property
    def prompts(self) -> int:
        """Prompts per step."""
        return self.batch_size // self.num_generations

    def share(self, processes: int) -> int:
        """Completions per step and process.

        Raises:
            ConfigError: The batch cannot be divided over the processes and mini-batches.
        """
        share, rest = divmod(self.batch_size, processes)
        if rest or share % self.minibatches:
            raise ConfigError(
                f"batch_size={self.batch_size} cannot be divided into {self.minibatches} "
                f"mini-batch(es) on {processes} process(es): choose a multiple of "
                f"{self.minibatches * processes}"
            )
        return share
