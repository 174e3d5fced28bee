"""Texts in trackers (TensorBoard, W&B, MLflow, Trackio), through transformers' own callbacks.

A tracker is written to where a trainer has its callback, and imported nowhere else. A callback of
your own gets texts if it has a method `log_text(name, text, step)`.
"""

from __future__ import annotations

import html
import importlib
import logging
from collections.abc import Callable, Iterable
from typing import Any

from .run_log import RunLog

__all__ = ["TrackerTexts", "text_writer"]

_log = logging.getLogger(__name__)

Writer = Callable[[str, str, int], None]


class TrackerTexts:
    """Shows a run's texts in trackers. One that takes no text is asked once, and costs no run.

    Args:
        log: The run's log.
    """

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._failed: list[Any] = []

    def show(self, callbacks: Iterable[Any]) -> None:
        """Show the texts since the last call to all trackers among a trainer's callbacks.

        Raises:
            StoreError: The store cannot be read.
        """
        texts = self._log.texts()
        for callback in callbacks:
            write = text_writer(callback)
            if texts and write is not None and callback not in self._failed:
                self._write(callback, write, texts)

    def _write(self, callback: Any, write: Writer, texts: list[tuple[str, str, int]]) -> None:
        try:
            for text in texts:
                write(*text)
        except Exception as error:  # of any package: a tracker is never worth a run
            self._failed.append(callback)
            name, what = type(callback).__name__, " ".join(str(error).split())
            _log.warning(
                "training goes on: tracker %s failed in showing a rubric, and gets no more texts: "
                "%s: %.300s",
                name,
                type(error).__name__,
                what,
            )


def text_writer(callback: Any) -> Writer | None:
    """Function that takes name, text and update; None where the callback takes no text."""
    if hasattr(callback, "log_text"):
        own: Writer = callback.log_text
        return own
    names = (base.__name__ for base in type(callback).__mro__)
    found = next((_WRITERS[name] for name in names if name in _WRITERS), None)
    return None if found is None else lambda *text: found(callback, *text)


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


_WRITERS: dict[str, Callable[[Any, str, str, int], None]] = {
    "TensorBoardCallback": _tensorboard,
    "WandbCallback": _wandb,
    "MLflowCallback": _mlflow,
    "TrackioCallback": _trackio,
}
"""By name of transformers' class: none of them is imported for its name."""


def _literal(text: str) -> str:
    """Markdown that shows the text as it is: a model's text could close a fence."""
    return "\n".join(f"    {line}" for line in text.splitlines())
