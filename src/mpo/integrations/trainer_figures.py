"""Figures of the trainer (loss, KL, entropy, learning rate) in the store, for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ..store import Store

__all__ = ["FIGURES", "TRAINER", "keep_figures"]

TRAINER = "trainer"
"""Name of the store's events that hold them; an event's step is the update, 1-based."""

FIGURES: Mapping[str, tuple[str, ...]] = {
    "loss": ("loss", "loss/policy"),
    "kl": ("kl",),
    "entropy": ("entropy", "objective/entropy"),
    "learning_rate": ("learning_rate",),
}
"""Names in the logs of TRL and of our own loop, by the name under which a figure is kept."""


def keep_figures(store: Store, step: int, logs: Mapping[str, Any]) -> None:
    """Store the figures of update `step` (1-based) that the trainer's logs have.

    Logs without a loss are those of an evaluation or of the run's end, and are left alone. A value
    that is no finite number is kept as null.
    """
    figures = {
        name: _finite(logs[key]) for name, keys in FIGURES.items() for key in keys if key in logs
    }
    if "loss" in figures:
        store.log_event(TRAINER, step, None, figures)


def _finite(value: Any) -> float | None:
    number = float(value) if isinstance(value, int | float) else math.nan
    return number if math.isfinite(number) else None
