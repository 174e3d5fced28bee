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
from .language_model import Decoder, Folding, Weights
from .model import ActorCritic, load_actor_critic
from .rollout import Chunk
from .settings import PPOSettings

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Engine", "make_accelerator"]


def make_accelerator() -> Any:
    """As `accelerate launch`, `torchrun` or neither of them set it up."""
    import torch
    from accelerate import Accelerator

    if torch.accelerator.is_available():
        return Accelerator()
    atexit.register(_leave)
    return Accelerator(cpu=True)


def _leave() -> None:
    """Leave the gloo group before the interpreter ends: its threads would abort the process, when
    another rank was faster. NCCL is left alone, which may wait there for a rank that has died."""
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


class Engine:
    """Passes, gradients and updates of an `ActorCritic`.

    Args:
        model: Folder or hub id.
        settings: The run's.
        accelerator: From `make_accelerator`.
        seed: Of new weights.
        checkpoint: Folder to take the policy from.

    Raises:
        ConfigError: The model or the learning rate's schedule cannot be used.
    """

    def __init__(
        self,
        model: str,
        settings: PPOSettings,
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
            self.ac.shorten()
        self.groups = self.ac.groups()
        self.optimizer = self._optimizer()
        self.schedule = self._schedule()
        self.whole = self.ac.modules
        if self.sharded:
            self._shard()
        elif self.world > 1:
            self._same_weights()

    @property
    def device(self) -> Any:
        return self.accelerator.device

    @property
    def world(self) -> int:
        return int(self.accelerator.num_processes)

    def _optimizer(self) -> Any:
        import torch

        decay, rate = self.settings.weight_decay, self.settings.learning_rate
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
                num_warmup_steps=self.settings.warmup_steps,
                num_training_steps=self.settings.steps,
            )
        except ValueError as error:
            raise ConfigError(f"lr_schedule={self.settings.lr_schedule!r}: {error}") from error

    def _shard(self) -> None:
        plugin = getattr(self.accelerator.state, "deepspeed_plugin", None)
        if plugin is not None:  # which otherwise wants to read it off a data loader
            size = self.settings.micro_batch_size or self.settings.share(self.world)
            plugin.deepspeed_config["train_micro_batch_size_per_gpu"] = size
        self.whole, self.optimizer = self.accelerator.prepare(_collective(self.ac), self.optimizer)
        # A prepared schedule would step once per process.
        self.accelerator.register_for_checkpointing(self.schedule)

    def _same_weights(self) -> None:
        import torch.distributed as dist

        for group in self.groups:
            for parameter in group:
                dist.broadcast(parameter.data, src=0)

    # ------------------------------------------------------------------ over all ranks

    def total(self, value: Tensor) -> Tensor:
        """Sum over all ranks."""
        if self.world > 1:
            import torch.distributed as dist

            value = value.clone()
            dist.all_reduce(value)
        return value

    def all_done(self, done: bool) -> bool:
        """Whether every rank is done."""
        import torch

        waiting = torch.tensor([0.0 if done else 1.0], device=self.device)
        return float(self.total(waiting)) == 0

    # ------------------------------------------------------------------ passes

    def sampler(self) -> Any:
        """What `sample` asks for the next token."""
        return _Through(self) if self.sharded else self.ac.lm

    def sampling_weights(self) -> Weights:
        return Weights() if self.sharded else self.ac.sampling_weights()

    def evaluate(self, chunk: Chunk, weights: Weights) -> tuple[Tensor, Tensor]:
        """Log-probabilities and values at the tokens of a micro-batch."""
        inputs = (chunk.ids, chunk.where, chunk.tokens, weights)
        if self.sharded:
            logps, values = self.whole("evaluate", *inputs)
            return logps, values
        return self.ac.evaluate(*inputs)

    def reference(self, chunk: Chunk) -> Tensor:
        inputs = (chunk.ids, chunk.where, chunk.tokens)
        if self.sharded and self.ac.lora:
            logps: Tensor = self.whole("reference_log_probs", *inputs)
            return logps
        return self.ac.reference_log_probs(*inputs)

    # ------------------------------------------------------------------ update

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """Add to the gradients; `last` closes the mini-batch."""
        if not self.sharded:
            loss.backward()  # type: ignore[no-untyped-call]
            return
        self.accelerator.sync_gradients = last
        waiting = nullcontext() if last else self.accelerator.no_sync(self.whole)
        with waiting:
            # The wrapper takes the mean over ranks of what is a sum.
            self.accelerator.backward(loss * self.world)

    def step(self) -> float:
        """Update the weights from the gradients; the policy's gradient norm."""
        import torch

        limit = self.settings.max_grad_norm
        if self.sharded:
            norm = self.accelerator.clip_grad_norm_(self.whole.parameters(), limit or 1e9)
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

    def advance(self) -> None:
        """The learning rate of the next step; also after one that nothing was learned from."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*`lr_scheduler.step\\(\\)` before", UserWarning)
            self.schedule.step()

    def rate(self) -> float:
        """The learning rate in force."""
        return float(self.schedule.get_last_lr()[0])


def _buckets(parameters: Sequence[Any], most: int = 1 << 25) -> list[list[Any]]:
    """Parameters in groups of at most `most` numbers, in order."""
    found: list[list[Any]] = []
    size = most
    for p in parameters:
        if size + p.numel() > most:
            found.append([])
            size = 0
        found[-1].append(p)
        size += p.numel()
    return found


def _collective(ac: ActorCritic) -> Any:
    """One module whose call names the method: wrappers hook into calls of a module."""
    from torch import nn

    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = ac.modules

        def forward(self, method: str, *inputs: Any) -> Any:
            target = ac.lm if method == "next_logits" else ac
            return getattr(target, method)(*inputs)

    return Whole()


@dataclass(frozen=True)
class _Through:
    """A language model whose calls go through the wrapper."""

    engine: Engine

    @property
    def model(self) -> Any:
        return self.engine.ac.lm.model

    @property
    def masks_as_given(self) -> bool:
        return self.engine.ac.lm.masks_as_given

    def decoder(self, weights: Weights, rows: int, length: int) -> Decoder:
        return Decoder(self, weights)

    def next_logits(self, *inputs: Any) -> Any:
        return self.engine.whole("next_logits", *inputs)
