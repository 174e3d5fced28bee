"""Progress of a run while it trains, and its result; the same for every trainer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chat.event_loop import run_in_loop
from ..integrations.trainer_rollouts import GOLD
from ..records import Case, Decision
from ..reward import EvolvingReward
from ..store import Store
from ..watch import MONITOR
from ..watch.second_judge import AUDIT
from .files import Checkpoint, newest_checkpoint, write_rubrics

__all__ = ["Progress", "StepReport", "StepReporter", "closing", "finish_run"]


@dataclass(frozen=True)
class StepReport:
    """Result of one update. Means are over known values; None where there are none (law 3)."""

    step: int
    """1 to `steps`."""
    steps: int
    """Updates of the run."""
    reward: float | None
    """Mean normalized reward, 0 to 1, of the completions of this update."""
    gold: float | None
    """Mean gold score of the same completions."""
    audit: float | None
    """Mean reward that the second judge gave some of them; None where it graded none."""
    unscored: int
    """Completions without a reward."""
    words: float
    """Mean words of a completion."""
    rubric_id: str
    """Rubric in effect after the update."""
    kl: float | None
    """KL divergence from the policy before training; None where `beta` is 0."""
    decision: Decision | None
    """Decision of the meta step after this update, if there was one."""
    alarms: tuple[str, ...]
    """Alarms that the monitors raised after this update and not after the one before."""
    seconds: float
    """Time since the update before."""


Progress = Callable[[StepReport], None]
"""Called on the main process after each update."""


class StepReporter:
    """Reports each update, and writes each accepted rubric to a file.

    Args:
        reward: The reward, whose store has the figures.
        steps: Updates of the run.
        folder: The run's folder; rubrics go to `rubrics`.
        progress: Takes the reports; None for no reports.
    """

    def __init__(
        self, reward: EvolvingReward, steps: int, folder: Path, progress: Progress | None
    ) -> None:
        self._reward = reward
        self._steps = steps
        self._rubrics = folder / "rubrics"
        self._progress = progress
        self._decision: Decision | None = None
        self._last = time.monotonic()

    def begin(self) -> None:
        """Write the rubrics so far, and start the clock."""
        write_rubrics(self._rubrics, self._reward.store)
        self._last = time.monotonic()

    def note_decision(self, step: int, decision: Decision | None) -> None:
        """Keep the decision for the next report; `on_step` of the meta steps."""
        self._decision = decision
        if decision is not None and decision.accepted:
            write_rubrics(self._rubrics, self._reward.store)

    def report(self, step: int, kl: float | None) -> None:
        """Report update `step` (1-based) from what the store has of it."""
        if self._progress is None:
            return
        store = self._reward.store
        first, last = step - 2, step - 1  # an update learns from what was sampled before it
        cases = store.window(after_step=first, up_to_step=last, cohort=None, scored=None)
        rewards = [
            case.judgement.normalized_reward
            for case in cases
            if case.judgement.normalized_reward is not None
        ]

        def external(name: str) -> float | None:
            scores = store.external_scores(name, after_step=first, up_to_step=last).values()
            return _mean([score.value for score in scores if score.value is not None])

        now = time.monotonic()
        self._progress(
            StepReport(
                step=step,
                steps=self._steps,
                reward=_mean(rewards),
                gold=external(GOLD),
                audit=external(AUDIT),
                unscored=len(cases) - len(rewards),
                words=_mean_words(cases),
                rubric_id=next(iter(store.heads().values())),
                kl=kl,
                decision=self._decision,
                alarms=tuple(
                    f"{alarm['monitor']}: {alarm['message']}"
                    for event in store.events(MONITOR, after_step=last)
                    for alarm in event.result["alarms"]
                    if alarm["new"]
                ),
                seconds=now - self._last,
            )
        )
        self._last = now


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _mean_words(cases: Sequence[Case]) -> float:
    return _mean([len(case.rollout.completion.split()) for case in cases]) or 0.0


def finish_run(
    folder: Path, store: Store, *, steps: int, resumed_from: Checkpoint | None, started: float
) -> dict[str, Any]:
    """Write the rubrics and return the run's result as JSON values.

    Args:
        folder: The run's folder.
        store: The run's store.
        steps: Updates that the policy has had.
        resumed_from: Checkpoint that the run continued from.
        started: `time.monotonic()` at the start.
    """
    write_rubrics(folder / "rubrics", store)
    last = newest_checkpoint(folder / "checkpoints")
    return {
        "steps": steps,
        "resumed_from": resumed_from.step if resumed_from else None,
        "seconds": round(time.monotonic() - started, 3),
        "checkpoint": str(last.folder) if last else None,
        "rubrics": len({d.proposed for d in store.lineage() if d.accepted}),
        "head": store.heads(),
        "usage": {role: usage.model_dump() for role, usage in store.usage().items()},
    }


@contextmanager
def closing(reward: EvolvingReward) -> Iterator[None]:
    """Close the reward's connections at the end, also after an error."""
    try:
        yield
    finally:
        run_in_loop(reward.aclose())
