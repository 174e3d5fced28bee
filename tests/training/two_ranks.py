"""A program for torchrun: one PPO update on the share of a fixed batch that each rank has.

    torchrun --nproc-per-node 2 tests/training/two_ranks.py FOLDER MODEL SETTINGS [whole|sharded]

Writes the weights after it, the figures, and a greedy completion to FOLDER/weights-RANK.pt; the
checkpoint that it makes is read again first.

`sharded`: with accelerate's own FSDP2. It asks for GPUs before it uses it, and works without.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType, FullyShardedDataParallelPlugin

from mpo.training.files import Checkpoint
from mpo.training.generation import Sample, Sampling
from mpo.training.model import load_tokenizer
from mpo.training.ppo.checkpoint import Position, load_checkpoint, save_checkpoint
from mpo.training.ppo.engine import Engine, make_accelerator
from mpo.training.ppo.math import AdaptiveKL
from mpo.training.ppo.update import forward_pass, ppo_update
from training.tiny_ppo import ppo

SAMPLES = [
    Sample([3, 4, 5], [6, 7, 8, 9, 1], True),
    Sample([10, 11, 12, 13, 14], [15], False),
    Sample([5, 6], [7, 7, 7, 7, 7, 7, 7], False),
    Sample([16], [17, 18, 3], False),
    Sample([4, 4, 4, 9], [12, 1], True),
    Sample([4, 9], [12, 12, 13, 1], True),
]
SCORES = [0.2, 1.0, 0.7, 0.4, None, None]
"""With two ranks: the second has one scored completion, the first three."""


def main() -> None:
    folder, model, changes = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    torch.set_num_threads(1)
    accelerator = make_accelerator()
    if sys.argv[4:] == ["sharded"]:
        shard(accelerator)
    rank, share = accelerator.process_index, len(SAMPLES) // accelerator.num_processes
    mine = slice(rank * share, (rank + 1) * share)
    # Unlike seeds, where new weights are sent round; shards are kept where they are made.
    seed = 0 if sys.argv[4:] else rank
    engine = Engine(model, ppo(max_grad_norm=None, **changes), accelerator, seed=seed)
    batch = forward_pass(engine, SAMPLES[mine], pad=0)
    update = ppo_update(engine, batch, SCORES[mine], AdaptiveKL(0.05), step=0, seed=0)
    engine.advance_schedule()
    if engine.sharded:  # something in between has looked at the hardware again
        accelerator.state.distributed_type = DistributedType.FSDP
    save_checkpoint(folder, engine, Position(1, 0.05, {}), load_tokenizer(model))
    load_checkpoint(Checkpoint(1, folder / "checkpoint-1"), engine)
    limits = Sampling(5, frozenset({1}), 0, top_p=1e-6)
    greedy = engine.generate([[3, 4, 5], [6]], limits, torch.Generator())
    found = {"figures": update.figures, "greedy": [one.completion for one in greedy]}
    if not engine.sharded:
        found["weights"] = {n: p.detach() for n, p in engine.ac.modules.named_parameters()}
    torch.save(found, folder / f"weights-{rank}.pt")


def shard(accelerator: Any) -> None:
    """Have the accelerator do on CPUs what it does on GPUs."""
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_offload=False,
        state_dict_type="FULL_STATE_DICT",
        cpu_ram_efficient_loading=False,
    )
    accelerator.state.distributed_type = DistributedType.FSDP


if __name__ == "__main__":
    main()
