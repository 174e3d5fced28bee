"""One look per step: monitors with canaries and audit, and what they call for."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ..records import Decision
from ..store import Store
from .canaries import Canaries
from .gap import Canary
from .monitors import observe
from .second_judge import SecondJudge
from .state import MonitorState, StepSummary

__all__ = ["ALARM", "MONITOR", "Watch"]

_log = logging.getLogger(__name__)

MONITOR, ALARM = "monitor", "alarm"
"""Names under which the store keeps what the monitors saw, and when they called for a meta step."""


class Watch:
    """Watches a run.

    Args:
        store: Of the run.
        seed: Logged with each reading.
        on_alarm: An alarm calls for a meta step.
        min_distance: Updates that must lie between such a meta step and the one before.
        canaries: Read after each switch; None without.
        audit: The second RM; None without.
    """

    def __init__(
        self,
        store: Store,
        seed: int,
        *,
        on_alarm: bool = False,
        min_distance: int = 1,
        canaries: Canaries | None = None,
        audit: SecondJudge | None = None,
    ) -> None:
        self.store, self.seed = store, seed
        self.on_alarm, self.min_distance = on_alarm, min_distance
        self.canaries, self.audit = canaries, audit
        self._state = MonitorState()

    async def look(self, n: int, begun: int = 0) -> None:
        """See the last update's rollouts; an alarm may call for a meta step.

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
        canaries, earlier = await self._canaries(n)
        audit = await self.audit.of(cases) if self.audit is not None else None
        lineage = self.store.lineage()  # a large read: it holds every analysis
        before = self._state.recent[-1:]
        self._state, reading = observe(
            self._state, n, cases, canaries=canaries, canaries_before=earlier, audit=audit
        )
        figures = reading.figures | self._jump(n, lineage, before, self._state.recent[-1])
        alarms = [alarm.to_dict() for alarm in reading.alarms]
        seen = {"figures": figures, "alarms": alarms, "hint": reading.hint}
        self.store.log_event(MONITOR, n, self.seed, seen)
        for alarm in reading.alarms:
            if alarm.new:
                _log.warning("monitor: %s", alarm)
        decided = [d.due or 0 for d in lineage if d.kind == "evolve"]
        last = max([begun, *self.called(), *decided])  # what was begun may not be decided yet
        if self.on_alarm and reading.alarms and n - last >= self.min_distance:
            self.store.log_event(ALARM, n, self.seed, [alarm.monitor for alarm in reading.alarms])

    async def _canaries(self, n: int) -> tuple[list[Canary], list[Canary]]:
        now: list[Canary] = []
        before: list[Canary] = []
        if self.canaries is not None:
            for cohort in list(self.store.heads()):
                one, other = await self.canaries.reading(n, cohort)
                now += one
                before += other
        return now, before

    def called(self) -> set[int]:
        """Updates after which an alarm called for a meta step."""
        if not self.on_alarm:
            return set()
        return {choice.step for choice in self.store.events(ALARM)}

    def hint(self, due: int) -> str:
        """What the monitors said at an update, in words; also after a resume."""
        said = [choice for choice in self.store.events(MONITOR) if choice.step == due]
        return str(said[-1].result["hint"]) if said else ""

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
        """Whether update n was looked at before: a trainer may call again after a crash."""
        recent = self._state.recent
        return bool(recent) and recent[-1].step >= n

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint."""
        return self._state.to_json()

    def restore(self, saved: Mapping[str, Any] | None) -> None:
        """Go on from what `to_json` gave; from nothing if None."""
        self._state = MonitorState.from_json(saved) if saved else MonitorState()
        if self.canaries is not None:
            self.canaries.forget()
