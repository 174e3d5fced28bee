"""Trackers (W&B, TensorBoard, MLflow, Trackio, …): rubrics as text, and failures that stop nothing.

transformers' own tracker callbacks log the figures. A guarded one is called as before, and:

- it gets each rubric that takes effect, and the change, as text: under `mpo/rubric` and
  `mpo/rubric_diff`, at the update after which the rubric took effect;
- an exception in it becomes a warning. A tracker that fails three times in a row is not called
  again.

The rubrics are read from the store. `LoopTrackers` calls the trackers for a training loop that is
no trainer of transformers.
"""

from __future__ import annotations

import html
import importlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..records import Decision
from ..rubric import diff_rubrics
from ..store import Store
from .settings import TrainerSettings

__all__ = ["DIFF", "RUBRIC", "LoopTrackers", "guard_trackers"]

_log = logging.getLogger(__name__)

RUBRIC = "mpo/rubric"
DIFF = "mpo/rubric_diff"
PATIENCE = 3
"""Failures in a row after which a tracker is not called again: one without its server may wait for
a time-out at each update."""


class _RubricTexts:
    """The rubrics that took effect since the last call, as text."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._heads: dict[str, str] = {}
        self._seen: set[tuple[int, str, str | None]] = set()

    def fresh(self) -> Iterator[tuple[str, str, int]]:
        """Name, text and update of each new text, in order.

        The first call yields the texts of all rubrics so far: the trackers of a continued run
        know none of them.
        """
        heads = self._store.heads()
        # The lineage holds every analysis: it is read when a rubric changes, not at each update.
        if heads == self._heads:
            return
        self._heads = heads
        for decision in self._store.lineage():
            key = (decision.step, decision.cohort, decision.proposed)
            if decision.accepted and key not in self._seen:
                self._seen.add(key)
                yield from self._texts(decision)

    def _texts(self, decision: Decision) -> Iterator[tuple[str, str, int]]:
        assert decision.proposed is not None  # an accepted decision names its rubric
        rubric = self._store.rubric(decision.proposed)
        suffix = f"/{decision.cohort}" if decision.cohort else ""
        yield RUBRIC + suffix, rubric.to_markdown(), decision.step
        if decision.parent is not None:
            change = diff_rubrics(self._store.rubric(decision.parent), rubric)
            why = decision.refinement.reasons if decision.refinement is not None else ""
            parts = [f"{decision.kind}: {decision.reason}", why, change]
            yield DIFF + suffix, "\n\n".join(part for part in parts if part), decision.step


# ---------------------------------------------------------------------- one writer per tracker


def _tensorboard(tracker: Any, name: str, text: str, step: int) -> None:
    if tracker.tb_writer is not None:
        tracker.tb_writer.add_text(name, _literal(text), step)
        tracker.tb_writer.flush()


def _wandb(tracker: Any, name: str, text: str, step: int) -> None:
    wandb = importlib.import_module("wandb")
    if wandb.run is not None:
        shown = wandb.Html(f"<pre>{html.escape(text)}</pre>", inject=False)
        # transformers' own axis: W&B's counts calls.
        wandb.log({name: shown, "train/global_step": step})


def _mlflow(tracker: Any, name: str, text: str, step: int) -> None:
    mlflow = importlib.import_module("mlflow")
    if mlflow.active_run() is not None:
        mlflow.log_text(text, f"{name}/step-{step:06d}.txt")


def _trackio(tracker: Any, name: str, text: str, step: int) -> None:
    trackio = importlib.import_module("trackio")
    trackio.log({name: trackio.Markdown(_literal(text)), "train/global_step": step})


def _own(tracker: Any, name: str, text: str, step: int) -> None:
    tracker.log_text(name, text, step)


_WRITERS: dict[str, Callable[[Any, str, str, int], None]] = {
    "TensorBoardCallback": _tensorboard,
    "WandbCallback": _wandb,
    "MLflowCallback": _mlflow,
    "TrackioCallback": _trackio,
}
"""By name of transformers' class: none of them is imported for its name."""


def _writer(tracker: Any) -> Callable[[Any, str, str, int], None] | None:
    """Function that logs text with the tracker; None where it takes no text."""
    if hasattr(tracker, "log_text"):
        return _own
    names = (base.__name__ for base in type(tracker).__mro__)
    return next((_WRITERS[name] for name in names if name in _WRITERS), None)


def _literal(text: str) -> str:
    """Markdown that shows the text as it is: a model's text could close a fence."""
    return "\n".join(f"    {line}" for line in text.splitlines())


# ---------------------------------------------------------------------- the guard


class _Guard:
    """A callback that calls a tracker's callback; see the module."""

    def __init__(self, tracker: Any, store: Store | None) -> None:
        self.tracker = tracker
        self._texts = _RubricTexts(store) if store is not None else None
        self._write = _writer(tracker)
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
        if event in ("on_train_begin", "on_log") and state.is_world_process_zero:
            self._show()

    def _show(self) -> None:
        if self._texts is None or self._write is None:
            return
        try:
            for name, text, step in self._texts.fresh():
                self._write(self.tracker, name, text, step)
        except StoreError:
            raise
        except Exception as error:
            self._texts = None
            self._warn("showing a rubric, and gets no more rubrics", error)

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


def _guarded(tracker: Any, store: Store | None) -> Any:
    """A tracker's callback that cannot stop training, and gets the store's rubrics.

    Args:
        tracker: A transformers callback. One of your own gets rubrics if it has a method
            `log_text(name, text, step)`.
        store: The run's store; None for no rubrics.
    """
    return _class()(tracker, store)


def guard_trackers(trainer: Any, store: Store) -> None:
    """Put a guard around every tracker that a transformers trainer made from `report_to`."""
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    known = tuple(INTEGRATION_TO_CALLBACK.values())
    for callback in list(trainer.callback_handler.callbacks):
        if isinstance(callback, known):
            trainer.remove_callback(callback)
            trainer.add_callback(_guarded(callback, store))


class LoopTrackers:
    """Calls transformers' tracker callbacks as its trainer would.

    Args:
        settings: The run's settings; `report_to` names the trackers.
        folder: The run's folder.
        store: The run's store; its rubrics are shown as text. None for no rubrics.
        callbacks: Callbacks of your own, called like a tracker's.
    """

    def __init__(
        self,
        settings: TrainerSettings,
        folder: Path,
        store: Store | None = None,
        callbacks: Sequence[Any] = (),
    ) -> None:
        self.callbacks = [_guarded(callback, store) for callback in callbacks]
        self.state: Any = None
        if settings.report_to:
            from transformers.integrations.integration_utils import (
                get_reporting_integration_callbacks,
            )

            names = list(settings.report_to)
            made = get_reporting_integration_callbacks(names)  # type: ignore[no-untyped-call]
            self.callbacks += [_guarded(callback(), store) for callback in made]
        if self.callbacks:
            self._prepare(settings, folder)

    def _prepare(self, settings: TrainerSettings, folder: Path) -> None:
        import torch
        from transformers import TrainerControl, TrainerState, TrainingArguments

        self.arguments = TrainingArguments(
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

    def log(self, step: int, figures: Mapping[str, float]) -> None:
        """Log the figures of update `step`, 1-based."""
        if self.state is not None:
            self.state.global_step = step
            self.state.log_history.append({**figures, "step": step})
        self._call("on_log", logs=dict(figures))

    def end(self) -> None:
        """Finish the trackers."""
        self._call("on_train_end")

    def _call(self, event: str, **details: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self.arguments, self.state, self.control, **details)
