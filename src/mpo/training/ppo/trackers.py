"""Trackers that transformers knows (wandb, tensorboard, trackio, …), for a loop of our own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...store import Store
from ..trackers import guarded

__all__ = ["Trackers"]


class Trackers:
    """Calls transformers' tracker callbacks as its trainer would. A failing one stops nothing.

    Args:
        report_to: Names of trackers; empty for none.
        folder: Of the run.
        settings: Shown by the trackers as the run's config.
        callbacks: Callbacks of your own, called like a tracker's.
        store: Of the run; its rubrics are shown as text.
    """

    def __init__(
        self,
        report_to: Sequence[str],
        folder: Path,
        settings: Mapping[str, Any],
        callbacks: Sequence[Any] = (),
        store: Store | None = None,
    ) -> None:
        self.callbacks = [guarded(callback, store) for callback in callbacks]
        self.state: Any = None
        if report_to:
            from transformers.integrations.integration_utils import (
                get_reporting_integration_callbacks,
            )

            made = get_reporting_integration_callbacks(list(report_to))  # type: ignore[no-untyped-call]
            self.callbacks += [guarded(make(), store) for make in made]
        if self.callbacks:
            self._prepare(report_to, folder, settings)

    def _prepare(self, report_to: Sequence[str], folder: Path, settings: Mapping[str, Any]) -> None:
        import torch
        from transformers import TrainerControl, TrainerState, TrainingArguments

        self.arguments = TrainingArguments(
            output_dir=str(folder),
            report_to=list(report_to) or "none",
            use_cpu=not torch.accelerator.is_available(),
            max_steps=int(settings["steps"]),
            learning_rate=float(settings["learning_rate"]),
        )
        self.control = TrainerControl()
        self.state = TrainerState(is_local_process_zero=True, is_world_process_zero=True)
        self.state.max_steps = int(settings["steps"])

    def begin(self, model: Any) -> None:
        self._tell("on_train_begin", model=model)

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        if self.state is not None:
            self.state.global_step = step
            self.state.log_history.append({**figures, "step": step})
        self._tell("on_log", logs=dict(figures))

    def end(self) -> None:
        self._tell("on_train_end")

    def _tell(self, event: str, **details: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.arguments, self.state, self.control, **details)
