"""One optimizer for actor and critic, on one process, on several, or on a sharded model.

Several processes without a wrapper (gloo on CPUs, NCCL on GPUs): losses are sums divided by what
is counted over all ranks, so gradients are summed over ranks, and micro-batches may differ in
number. FSDP and DeepSpeed (from an accelerate config) shard the weights: every pass then is a
collective call, all ranks make the same number of them, and layers are not folded.
"""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import ConfigError
from ..generation import Sample, Sampling, generate
from ..settings import TrainerSettings
from .batch import MicroBatch
from .language_model import Decoder, Folding, Weights
from .model import ActorCritic, load_actor_critic

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Engine", "make_accelerator"]


def make_accelerator() -> Any:
    """The accelerator as `accelerate launch`, `torchrun` or neither of them sets it up."""
    import torch
    from accelerate import Accelerator

    if torch.accelerator.is_available():
        return Accelerator()
    atexit.register(_leave)
    return Accelerator(cpu=True)


def _leave() -> None:
    """Leave the gloo group before the interpreter ends: its threads would abort the process when
    another rank was faster. NCCL is left alone: it may wait there for a rank that has died."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class Engine:
    """Passes, gradients and updates of an `ActorCritic`, over all ranks.

    Args:
        model: Folder or hub id of a causal language model.
        settings: The run's settings.
        accelerator: Result of `make_accelerator`.
        seed: Random seed for new weights.
        checkpoint: Folder to load the policy from; None for `model`.

    Raises:
        ConfigError: The model or the learning rate's schedule cannot be used.
    """

    def __init__(
        self,
        model: str,
        settings: TrainerSettings,
        accelerator: Any,
        seed: int,
        checkpoint: Path | None = None,
    ) -> None:
        self.settings = settings
        self.accelerator = accelerator
        self.sharded = str(accelerator.distributed_type).endswith(("FSDP", "DEEPSPEED"))
        self.ac = load_actor_critic(model, settings, accelerator.device, seed, checkpoint)
        if self.sharded:
            self.ac.folding = Folding(self.ac.lm, enabled=False)
        else:
            self.ac.enable_fast_path()
        self.groups = self.ac.groups()
        self.optimizer = self._optimizer()
        self.schedule = self._schedule()
        self.wrapped = self.ac.modules
        if self.sharded:
            self._shard()
        elif self.world > 1:
            self._broadcast_weights()

    @property
    def device(self) -> Any:
        return self.accelerator.device

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    def _optimizer(self) -> Any:
        import torch

        decay, rate = self.settings.ppo.weight_decay, self.settings.learning_rate
        groups = [{"params": group} for group in self.groups]
        # One pass over the weights instead of one per operation.
        fused = self.device.type in ("cpu", "cuda") and not self.sharded
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=fused)

    def _schedule(self) -> Any:
        from transformers import get_scheduler

        try:
            return get_scheduler(
                self.settings.lr_schedule,
                self.optimizer,
                num_warmup_steps=self.settings.ppo.warmup_steps,
                num_training_steps=self.settings.steps,
            )
        except ValueError as error:
            raise ConfigError(f"lr_schedule={self.settings.lr_schedule!r}: {error}") from error

    def _shard(self) -> None:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if plugin is not None:  # it would otherwise read this off a data loader
            size = self.settings.micro_batch_size or self.settings.per_rank_batch_size(self.world)
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = size
        self.wrapped, self.optimizer = self.accelerator.prepare(
            _collective(self.ac), self.optimizer
        )
        # A prepared schedule would step once per process.
        self.accelerator.register_for_checkpointing(self.schedule)

    def _broadcast_weights(self) -> None:
        import torch.distributed as dist

        for group in self.groups:
            for parameter in group:
                dist.broadcast(parameter.data, src=0)

    # ------------------------------------------------------------------ over all ranks

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all ranks."""
        if self.world > 1:
            import torch.distributed as dist

            value = value.clone()
            dist.all_reduce(value)
        return value

    def all_done(self, done: bool) -> bool:
        """True if every rank is done."""
        import torch

        waiting = torch.tensor([0.0 if done else 1.0], device=self.device)
        return float(self.sum_over_ranks(waiting)) == 0

    # ------------------------------------------------------------------ passes

    def generate(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, generator: Generator
    ) -> list[Sample]:
        """One completion of the policy per prompt; see `generation.generate`."""
        with self.ac.generation_mode():
            return generate(
                ShardedPolicy(self) if self.sharded else self.ac.lm,
                prompts,
                sampling,
                device=self.device,
                generator=generator,
                weights=Weights() if self.sharded else self.ac.generation_weights(),
                all_done=self.all_done if self.sharded else None,
            )

    def evaluate(self, micro: MicroBatch, weights: Weights) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values at the M tokens of a micro-batch, [M] each.

        Args:
            micro: The micro-batch.
            weights: Weights that replace the model's own.
        """
        inputs = (micro.ids, micro.logit_positions, micro.tokens, weights)
        if self.sharded:
            logps, values = self.wrapped("evaluate", *inputs)
            return logps, values
        return self.ac.evaluate(*inputs)

    def reference_log_probs(self, micro: MicroBatch) -> Tensor:
        """Log-probabilities of a micro-batch's tokens before training, [M]."""
        inputs = (micro.ids, micro.logit_positions, micro.tokens)
        if self.sharded and self.ac.lora:
            logps: Tensor = self.wrapped("reference_log_probs", *inputs)
            return logps
        return self.ac.reference_log_probs(*inputs)

    # ------------------------------------------------------------------ update

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add the loss's gradients; `last` marks the last micro-batch of a mini-batch."""
        if not self.sharded:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        self.accelerator.sync_gradients = last
        with nullcontext() if last else self.accelerator.no_sync(self.wrapped):
            # The wrapper takes the mean over ranks of what is a sum.
            self.accelerator.backward(loss * self.world)

    def step(self) -> float:
        """Update the weights from the gradients, and return the policy's gradient norm."""
        import torch

        limit = self.settings.ppo.max_grad_norm
        if self.sharded:
            norm = self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit or 1e9)
        else:
            self._sum_gradients()
            norms = [
                torch.nn.utils.clip_grad_norm_(group, limit if limit is not None else 1e9)
                for group in self.groups
            ]
            norm = norms[0]
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(norm) if norm is not None else 0.0

    def _sum_gradients(self) -> None:
        if self.world == 1:
            return
        import torch
        import torch.distributed as dist

        parameters = [p for group in self.groups for p in group]
        for p in parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
        for bucket in _buckets(parameters):
            flat = torch.cat([p.grad.flatten() for p in bucket])
            dist.all_reduce(flat)
            for p, part in zip(bucket, torch.split(flat, [p.numel() for p in bucket]), strict=True):
                p.grad.copy_(part.view_as(p))

    def advance_schedule(self) -> None:
        """Go to the learning rate of the next step; also after a step without an update."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*`lr_scheduler.step\\(\\)` before", UserWarning)
            self.schedule.step()

    @property
    def learning_rate(self) -> float:
        """The current learning rate."""
        return float(self.schedule.get_last_lr()[0])


def _buckets(parameters: Sequence[Any], most: int = 1 << 25) -> list[list[Any]]:
    """Parameters in groups of at most `most` numbers, where one alone has no more; in order."""
    buckets: list[list[Any]] = []
    size = most
    for p in parameters:
        if size + p.numel() > most:
            buckets.append([])
            size = 0
        buckets[-1].append(p)
        size += p.numel()
    return buckets


def _collective(ac: ActorCritic) -> Any:
    """One module whose call names the method: wrappers hook into calls of a module."""
    from torch import nn

    class Collective(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = ac.modules

        def forward(self, method: str, *inputs: Any) -> Any:
            target = ac.lm if method == "next_logits" else ac
            return getattr(target, method)(*inputs)

    return Collective()


@dataclass(frozen=True)
class ShardedPolicy:
    """The policy as a language model whose calls go through the wrapper of FSDP or DeepSpeed."""

    engine: Engine

    @property
    def model(self) -> Any:
        return self.engine.ac.lm.model

    @property
    def accepts_full_masks(self) -> bool:
        return self.engine.ac.lm.accepts_full_masks

    def decoder(self, weights: Weights, rows: int, length: int) -> Decoder:
        return Decoder(self, weights)

    def next_logits(self, *inputs: Any) -> Any:
        return self.engine.wrapped("next_logits", *inputs)
