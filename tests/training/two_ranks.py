"""A program for torchrun: one PPO update on the share of a fixed batch that each rank has.

    torchrun --nproc-per-node 2 tests/training/two_ranks.py FOLDER MODEL SETTINGS

Writes the weights after it, and the figures, to FOLDER/weights-RANK.pt.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

from mpo.training.ppo_engine import Engine, make_accelerator
from mpo.training.ppo_math import AdaptiveKL
from mpo.training.ppo_rollout import Sample
from mpo.training.ppo_update import before, learn
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
    rank, share = accelerator.process_index, len(SAMPLES) // accelerator.num_processes
    mine = slice(rank * share, (rank + 1) * share)
    engine = Engine(model, ppo(max_grad_norm=None, **changes), accelerator, seed=rank)
    batch = before(engine, SAMPLES[mine], 0)
    update = learn(engine, batch, SCORES[mine], AdaptiveKL(0.05), 0, 0, 0)
    weights = {n: p.detach() for n, p in engine.ac.modules.named_parameters()}
    torch.save({"weights": weights, "figures": update.figures}, folder / f"weights-{rank}.pt")


if __name__ == "__main__":
    main()
