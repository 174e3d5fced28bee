"""Trackers (W&B, TensorBoard, MLflow, Trackio, …) of a run, whose failures stop nothing.

transformers' own tracker callbacks log metrics and texts. A guarded one is called as before, and an
exception in it becomes a warning; one that fails three times in a row is not called again.

TensorBoard writes into the run's folder. `LoopTrackers` calls the trackers for a training loop that
is no trainer of transformers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..integrations.run_log import RunLog
from ..integrations.tracker_texts import TrackerTexts, text_writer
from .settings import TrainerSettings

__all__ = ["LoopTrackers", "guard_trackers", "tensorboard_folder"]

_log = logging.getLogger(__name__)

PATIENCE = 3
"""Failures in a row after which a tracker is not called again: one without its server may wait for
a time-out at each update."""


def tensorboard_folder(settings: TrainerSettings, folder: Path) -> Path | None:
    """Folder of a run's TensorBoard files; None where `report_to` has no TensorBoard.

    Args:
        settings: The run's settings.
        folder: The run's folder.
    """
    used = "tensorboard" in settings.report_to or "all" in settings.report_to
    return folder / "tensorboard" if used else None


def _keep_inside(tracker: Any, folder: Path) -> None:
    """Have TensorBoard write into the run's folder.

    It would write into a subfolder named after time and host at each start, or wherever
    TENSORBOARD_LOGGING_DIR points, which may be the same for two runs.
    """
    if any(base.__name__ == "TensorBoardCallback" for base in type(tracker).__mro__):
        tracker.logging_dir = str(folder / "tensorboard")


# ---------------------------------------------------------------------- the guard


class _Guard:
    """A callback that calls a tracker's callback; see the module."""

    def __init__(self, tracker: Any) -> None:
        self.tracker = tracker
        self._failures = 0

    def forward(self, event: str, args: Any, state: Any, control: Any, **details: Any) -> None:
        if self._failures >= PATIENCE:
            return
        try:
            getattr(self.tracker, event)(args, state, control, **details)
        except Exception as error:  # of any package: a tracker is never worth a run
            self._failures += 1
            last = self._failures == PATIENCE
            self._warn(f"{event}{', and is not called again' if last else ''}", error)
            return
        if event == "on_log":  # most trackers do nothing at most other events
            self._failures = 0

    def log_text(self, name: str, text: str, step: int) -> None:
        """Log text with the tracker, where it takes text."""
        write = text_writer(self.tracker)
        if write is not None and self._failures < PATIENCE:
            write(name, text, step)

    def _warn(self, where: str, error: Exception) -> None:
        name, what = type(self.tracker).__name__, " ".join(str(error).split())
        reason = f"{type(error).__name__}: {what:.300}"
        _log.warning("training goes on: tracker %s failed in %s: %s", name, where, reason)


@cache
def _class() -> type:
    """`_Guard` as a callback of transformers, whose import takes seconds."""
    from transformers import TrainerCallback

    def forwarding(event: str) -> Callable[..., None]:
        def call(self: _Guard, args: Any, state: Any, control: Any, **details: Any) -> None:
            self.forward(event, args, state, control, **details)

        return call

    events = [name for name in dir(TrainerCallback) if name.startswith("on_")]
    return type("Guarded", (_Guard, TrainerCallback), {e: forwarding(e) for e in events})


def _guarded(tracker: Any) -> Any:
    """A tracker's callback that cannot stop training."""
    return _class()(tracker)


def guard_trackers(trainer: Any, folder: Path) -> None:
    """Put a guard around every tracker that a transformers trainer made from `report_to`.

    Args:
        trainer: The trainer.
        folder: The run's folder.
    """
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    known = tuple(INTEGRATION_TO_CALLBACK.values())
    for callback in list(trainer.callback_handler.callbacks):
        if isinstance(callback, known):
            trainer.remove_callback(callback)
            _keep_inside(callback, folder)
            trainer.add_callback(_guarded(callback))


class LoopTrackers:
    """Calls transformers' tracker callbacks as its trainer would.

    Args:
        settings: The run's settings; `report_to` names the trackers.
        folder: The run's folder.
        log: The run's log; its texts are shown. None for no texts.
        callbacks: Callbacks of your own, called like a tracker's.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        folder: Path,
        log: RunLog | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.callbacks = [_guarded(callback) for callback in callbacks]
        self._texts = None if log is None else TrackerTexts(log)
        self.state: Any = None
        if settings.report_to:
            from transformers.integrations.integration_utils import (
                get_reporting_integration_callbacks,
            )

            names = list(settings.report_to)
            made = get_reporting_integration_callbacks(names)  # type: ignore[no-untyped-call]
            for tracker in [callback() for callback in made]:
                _keep_inside(tracker, folder)
                self.callbacks.append(_guarded(tracker))
        if self.callbacks:
            self._prepare(settings, folder)

    def _prepare(self, settings: TrainerSettings, folder: Path) -> None:
        import torch
        from transformers import TrainerControl, TrainerState, TrainingArguments

        class Arguments(TrainingArguments):
            """Arguments that set up no device: the loop's accelerator would lose its state."""

            @property
            def device(self) -> Any:
                return torch.device("cpu")

            @property
            def n_gpu(self) -> int:
                return 1

        self.arguments = Arguments(
            output_dir=str(folder),
            report_to=list(settings.report_to) or "none",
            use_cpu=not torch.accelerator.is_available(),
            max_steps=settings.steps,
            learning_rate=settings.learning_rate,
        )
        self.control = TrainerControl()
        self.state = TrainerState(is_local_process_zero=True, is_world_process_zero=True)
        self.state.max_steps = settings.steps

    def begin(self, model: Any) -> None:
        """Start the trackers."""
        self._call("on_train_begin", model=model)
        self._show_texts()

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of update `step`, 1-based."""
        if self.state is not None:
            self.state.global_step = step
            self.state.log_history.append({**figures, "step": step})
        self._call("on_log", logs=dict(figures))
        self._show_texts()

    def end(self) -> None:
        """Finish the trackers."""
        self._call("on_train_end")

    def _show_texts(self) -> None:
        if self._texts is not None and self.callbacks:
            self._texts.show(self.callbacks)

    def _call(self, event: str, **details: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.arguments, self.state, self.control, **details)
