"""Rows with a completion and what it should have come to: from a file, or from a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import DataError, StoreError
from ..records import Case
from ..store import Store
from .outputs import COMPLETION
from .rows import Row, text_column

__all__ = ["LAST", "Share", "completed_rows", "rows_of_run"]

LAST = 10
"""Steps at a run's end that count, where it has no evaluation rollouts."""


@dataclass(frozen=True)
class Share:
    """Right ones of a part of the rows."""

    n: int
    correct: int

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return self.correct / self.n

    def to_json(self) -> dict[str, float]:
        """JSON values."""
        return {"accuracy": self.accuracy, "n": self.n, "correct": self.correct}


def completed_rows(rows: Sequence[Row], where: str) -> list[Row]:
    """The rows, each with its completion under `completion`.

    Raises:
        DataError: No rows, or one without a completion.
    """
    if not rows:
        raise DataError(f"{where} is empty: it has no row with a completion")
    return [
        {**row, "completion": text_column(row, COMPLETION, f"{where}, row {number}")}
        for number, row in enumerate(rows, start=1)
    ]


def rows_of_run(store: Store, mode: Literal["auto", "train", "eval"] = "auto") -> list[Row]:
    """The rollouts of a run as rows: prompt, completion, step, and the dataset's other columns.

    Args:
        store: Of the run.
        mode: `eval`: the rollouts of the last evaluation. `train`: those of the last 10 training
            steps. `auto`: the former where there are any, else the latter.

    Raises:
        StoreError: There are none.
    """
    last = store.last_step()
    evaluated = [] if mode == "train" else store.window(cohort=None, mode="eval", scored=None)
    if evaluated:
        newest = max(case.rollout.step for case in evaluated)
        return _rows([case for case in evaluated if case.rollout.step == newest])
    trained = []
    if mode != "eval" and last is not None:
        steps = [summary.step for summary in store.steps()][-LAST:]
        after = steps[0] - 1 if steps else last
        trained = store.window(after_step=after, cohort=None, scored=None)
    if not trained:
        raise StoreError(f"{store.path} has no {'' if mode == 'auto' else mode + ' '}rollouts yet")
    return _rows(trained)


def _rows(cases: Sequence[Case]) -> list[Row]:
    # Once per rollout: it may have been scored under several rubrics.
    rollouts = {case.rollout.id: case.rollout for case in cases}
    return [
        {**r.columns, "prompt": r.prompt, "completion": r.completion, "step": r.step}
        for r in rollouts.values()
    ]
