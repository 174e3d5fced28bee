"""One look per step: monitors with canaries and second judge, and the alarms that start a meta
step."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import Decision
from ..store import Store
from .canaries import Canaries, Canary
from .monitors import observe
from .second_judge import SecondJudge
from .state import MonitorState, StepSummary

__all__ = ["ALARM", "MONITOR", "Watch"]

_log = logging.getLogger(__name__)

MONITOR = "monitor"
"""Name of the readings in the store's log."""
ALARM = "alarm"
"""Name of the alarm events in the store's log: updates after which an alarm starts a meta step."""


class Watch:
    """Watches a run.

    Args:
        store: The run's store.
        seed: Logged with each reading.
        alarm_distance: An alarm starts a meta step, at least so many updates after the last one;
            alarms only inform if None.
        canaries: Read after each switch; none if None.
        second_judge: Grades a few rollouts of each step; none if None.
    """

    def __init__(
        self,
        store: Store,
        seed: int,
        *,
        alarm_distance: int | None = None,
        canaries: Canaries | None = None,
        second_judge: SecondJudge | None = None,
    ) -> None:
        self.store, self.seed = store, seed
        self.alarm_distance = alarm_distance
        self.canaries, self.second_judge = canaries, second_judge
        self._state = MonitorState()

    async def look(self, n: int, begun: int = 0) -> None:
        """Look at the last update's rollouts; an alarm may start a meta step.

        Args:
            n: Updates made so far.
            begun: The last update before n after which the schedule had a meta step.

        Raises:
            StoreError: The store cannot be read or written.
            BudgetError: The budget is spent.
        """
        if self._seen(n):
            return
        cases = self.store.window(
            after_step=n - 2, up_to_step=n - 1, cohort=None, mode="train", scored=None
        )
        if not cases:
            return
        canaries, canaries_before = await self._read_canaries(n)
        gap = await self.second_judge.gap(cases) if self.second_judge is not None else None
        lineage = self.store.lineage()  # a large read: it holds every analysis
        before = self._state.recent[-1:]
        self._state, reading = observe(
            self._state, n, cases, canaries=canaries, canaries_before=canaries_before, gap=gap
        )
        figures = reading.figures | self._jump(n, lineage, before, self._state.recent[-1])
        alarms = [alarm.to_dict() for alarm in reading.alarms]
        entry = {"figures": figures, "alarms": alarms, "hint": reading.hint}
        self.store.log_event(MONITOR, n, self.seed, entry)
        for alarm in reading.alarms:
            if alarm.new:
                _log.warning("alarm after update %d: %s", n, alarm)
        if self.alarm_distance is None or not reading.alarms:
            return
        decided = [d.due or 0 for d in lineage if d.kind == "evolve"]
        last = max([begun, *self.alarm_steps(), *decided])  # what has begun may not be decided yet
        if n - last >= self.alarm_distance:
            self.store.log_event(ALARM, n, self.seed, [alarm.monitor for alarm in reading.alarms])

    async def _read_canaries(self, n: int) -> tuple[list[Canary], list[Canary]]:
        now: list[Canary] = []
        before: list[Canary] = []
        if self.canaries is not None:
            for cohort in list(self.store.heads()):
                one, other = await self.canaries.reading(n, cohort)
                now += one
                before += other
        return now, before

    def alarm_steps(self) -> set[int]:
        """Updates after which an alarm starts a meta step."""
        if self.alarm_distance is None:
            return set()
        return {choice.step for choice in self.store.events(ALARM)}

    def hint(self, due: int) -> str:
        """The alarms at an update, in words; also after a resume."""
        readings = [choice for choice in self.store.events(MONITOR) if choice.step == due]
        return str(readings[-1].result["hint"]) if readings else ""

    def _jump(
        self,
        n: int,
        lineage: Sequence[Decision],
        before: Sequence[StepSummary],
        now: StepSummary,
    ) -> dict[str, float]:
        """How far the mean reward moved with a new rubric, from one update to the next."""
        changed = any(d.accepted and d.step == n - 1 for d in lineage)
        if not changed or not before or not before[0].scored or not now.scored:
            return {}
        jump = now.reward_sum / now.scored - before[0].reward_sum / before[0].scored
        _log.info("new rubric: the mean normalized reward moved by %+.3f at update %d", jump, n)
        return {"scale_jump": jump}

    def _seen(self, n: int) -> bool:
        """True where update n was looked at before: a trainer may call again after a crash."""
        recent = self._state.recent
        return bool(recent) and recent[-1].step >= n

    def to_json(self) -> dict[str, Any]:
        """State for a checkpoint."""
        return self._state.to_json()

    def restore(self, saved: Mapping[str, Any] | None) -> None:
        """Continue from the state that `to_json` gave; from the start if None."""
        self._state = MonitorState.from_json(saved) if saved else MonitorState()
        if self.canaries is not None:
            self.canaries.forget()
