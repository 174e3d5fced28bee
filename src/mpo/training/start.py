"""Start a run with the trainer that its settings name."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from ..errors import ConfigError
from .ppo.settings import PPOSettings
from .ppo.trainer import train_ppo
from .settings import TrainerSettings
from .trl_trainer import train

__all__ = ["ppo_settings", "start"]

SHARED = (
    "steps",
    "batch_size",
    "num_generations",
    "micro_batch_size",
    "learning_rate",
    "lr_schedule",
    "temperature",
    "top_p",
    "save_every",
    "report_to",
    "lora",
    "dtype",
    "gradient_checkpointing",
)
"""Keys that mean the same for every algorithm."""


def ppo_settings(settings: TrainerSettings) -> PPOSettings:
    """The settings of PPO in a config: shared keys, `beta` as the KL coefficient, and `extra`.

    Raises:
        ConfigError: A key in `extra` that PPO does not know, or a value that it cannot use.
    """
    values = {name: getattr(settings, name) for name in SHARED}
    try:
        return PPOSettings(**{**values, "kl_coef": settings.beta, **settings.extra})
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise ConfigError(f"trainer.extra.{where}: {fault['msg']}") from error


def start(*, settings: TrainerSettings, **run: Any) -> dict[str, Any]:
    """Train with the algorithm that the settings name; arguments and result are `run.train`'s."""
    if settings.algorithm == "ppo":
        return train_ppo(settings=ppo_settings(settings), **run)
    return train(settings=settings, **run)
