"""What an engine gets that cannot take "unscored": the mean of the group, else of the run.

A mean is a guess, so it is flagged, and never stored. It is of rewards that were given: where there
is none yet there is no fallback either, and 0 is none.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean

from ..records import Judgement, Mode, Rollout
from ..store import Store

__all__ = ["Mean", "Means"]

_GROUPS = 1024
_RECENT = 1024
"""Rewards that make the run's mean: rubrics change, and with them what a usual reward is."""
_STEPS = 5
"""Last steps of the store that stand for the run after a restart."""


@dataclass(frozen=True)
class Mean:
    """What was given, or the mean of several."""

    reward: float
    """In the scale of the run."""
    share: float
    """0 to 1."""


class Means:
    """Means of the rewards that were given."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reset()

    def reset(self) -> None:
        """Forget, and read from the store how the run did; after a start or a restore."""
        self._groups: OrderedDict[tuple[str, int, str, Mode], dict[str, Mean]] = OrderedDict()
        self._recent: deque[Mean] = deque(maxlen=_RECENT)
        for summary in self._store.steps()[-_STEPS:]:
            if summary.mean_reward is not None and summary.mean_normalized is not None:
                mean = Mean(summary.mean_reward, summary.mean_normalized)
                self._recent.extend([mean] * min(summary.scored, 64))

    def add(self, rollout: Rollout, judgement: Judgement) -> None:
        """Take in a judgement; an unscored one changes nothing (DESIGN law 3)."""
        if judgement.reward is None or judgement.normalized_reward is None:
            return
        given = Mean(judgement.reward, judgement.normalized_reward)
        place = _place(rollout)
        rewards = self._groups.setdefault(place, {})
        if rollout.id not in rewards:
            self._recent.append(given)
        rewards[rollout.id] = given
        self._groups.move_to_end(place)
        if len(self._groups) > _GROUPS:
            self._groups.popitem(last=False)

    def of(self, rollout: Rollout) -> Mean | None:
        """The mean of its group, else of the run; None where nothing was scored yet."""
        rewards = self._groups.get(_place(rollout)) or {}
        others = [reward for id, reward in rewards.items() if id != rollout.id]
        if others:
            return _mean(others)
        return _mean(self._recent) if self._recent else None


def _mean(given: Iterable[Mean]) -> Mean:
    rewards, shares = zip(*((one.reward, one.share) for one in given), strict=True)
    return Mean(fmean(rewards), fmean(shares))


def _place(rollout: Rollout) -> tuple[str, int, str, Mode]:
    return rollout.group, rollout.step, rollout.cohort, rollout.mode
