"""veRL 0.9: its synchronous trainer, with a meta step after each update.

    VERL_USE_EXTERNAL_MODULES=mpo.integrations.verl_trainer
    trainer.v1.trainer_mode=mpo_sync

The rubric then changes between two updates, as in the paper. veRL trains on GPUs only: this class
follows veRL's source, and its registration is tested on a CPU. Without it, let the service count
(`service.every_items`).

It is a module of its own because it imports veRL's trainer, which the reward's worker processes
do without.
"""

from __future__ import annotations

from typing import Any

from verl.trainer.ppo.v1.trainer_base import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    register_trainer,
)
from verl.trainer.ppo.v1.trainer_sync import (  # type: ignore[import-not-found, import-untyped, unused-ignore]
    PPOTrainerSync,
)

from .verl import client_for

__all__ = ["MPOTrainerSync"]


@register_trainer("mpo_sync")
class MPOTrainerSync(PPOTrainerSync):  # type: ignore[misc, unused-ignore]
    """veRL's `sync` trainer with meta steps. It runs on the driver, so no ranks have to agree."""

    def on_step_end(self) -> Any:
        super().on_step_end()
        client_for(self.config).meta_step_now(self.global_steps)
