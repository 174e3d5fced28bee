"""Items of requests: the rollout that an item becomes, and the result that its engine gets."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..errors import StoreError
from ..records import Judgement, Mode, Rollout, content_hash
from ..store import Store
from .in_flight import Outcome
from .rubric_history import RubricHistory
from .wire import METRICS, Info, InvalidItem, Item, OnFailure, Refusal, Result, flatten

__all__ = ["FallbackRewards", "RolloutAssigner", "item_result"]

_RECENT_ITEMS = 2048
"""Number of items kept in memory; others are looked up in the store."""
_RECENT_GROUPS = 4096
_FALLBACK_GROUPS = 1024
_RECENT_REWARDS = 1024
"""Number of rewards in the run's mean: rubrics change, and with them the usual reward."""
_RESTART_STEPS = 5
"""Number of last steps in the store that make the run's mean after a restart."""


class RolloutAssigner:
    """Turns items into rollouts: decides the step and the group of each.

    An engine that knows its step sends it with each item. The items of an engine that does not
    (OpenRLHF, verifiers) get the step that the run has reached: the one of the last
    `POST /v1/meta_step`, or the count of the items if the service runs the meta steps itself. Then
    every `every_items` items make as many steps as lie between two meta steps.

    A rollout's id is the hash of what the engine sent, not of what is decided here. So a resent
    item is the same rollout at any time, also after a restart.

    Args:
        store: Holds the items from before a restart.
        every_items: Training items between two meta steps; None if the engine asks for them.
        every_steps: Steps between two meta steps.

    Attributes:
        clock: Latest step that is known.
        count: Number of training items so far that came without a step.
    """

    def __init__(self, store: Store, *, every_items: int | None, every_steps: int) -> None:
        self._store = store
        self._every_items = every_items
        self._every_steps = every_steps
        self.reset()

    def reset(self) -> None:
        """Read the run's position from the store, after a start or a restore."""
        self._items: OrderedDict[str, Rollout] = OrderedDict()
        evolved = [d.step for d in self._store.lineage() if d.kind == "evolve"]
        self.clock = max([self._store.last_step() or 0, *evolved])
        self.count = 0
        if self._every_items:
            stored = self._store.count(cohort=None, scored=None)
            # Never below the step that was reached: a meta step was decided there.
            self.count = max(stored, round(self.clock * self._every_items / self._every_steps))
        # More completions may come for the groups from before a restart.
        recent = self._store.window(after_step=self.clock - 2, cohort=None, scored=None)
        self._groups: OrderedDict[tuple[str, str], int] = OrderedDict()
        for case in recent[-_RECENT_GROUPS:]:
            self._groups.setdefault((case.rollout.group, case.rollout.cohort), case.rollout.step)

    def assign(self, items: Sequence[Item], mode: Mode) -> list[Rollout]:
        """A rollout for each item, in order."""
        rollouts = [self._assign(item, mode) for item in items]
        while len(self._items) > _RECENT_ITEMS:
            self._items.popitem(last=False)
        while len(self._groups) > _RECENT_GROUPS:
            self._groups.popitem(last=False)
        return rollouts

    @property
    def progress(self) -> int:
        """Number of updates so far, as far as steps and count show."""
        return max(self.clock, self._counted_step())

    def advance_to(self, step: int) -> None:
        """Note a step that the engine has reached."""
        self.clock = max(self.clock, step)

    def _counted_step(self) -> int:
        return self.count * self._every_steps // self._every_items if self._every_items else 0

    def _assign(self, item: Item, mode: Mode) -> Rollout:
        prompt, completion = flatten(item.prompt), flatten(item.completion)
        group = item.group_id or content_hash(prompt)
        sent = [item.id, group, item.step, prompt, completion, item.columns, mode, item.cohort]
        id = content_hash(sent)
        if id in self._items:
            self._items.move_to_end(id)
            return self._items[id]
        rollout = self._stored(id) if item.step is None else None
        if rollout is None:
            # `index` stays 0: the order within a step is by id, in any order of arrival.
            rollout = Rollout(
                id=id,
                prompt=prompt,
                completion=completion,
                columns=item.columns,
                step=self._step(item.step, (group, item.cohort), mode),
                group=group,
                cohort=item.cohort,
                mode=mode,
            )
        self._items[id] = rollout
        return rollout

    def _stored(self, id: str) -> Rollout | None:
        try:
            return self._store.rollout(id)
        except StoreError:
            return None

    def _step(self, sent: int | None, group: tuple[str, str], mode: Mode) -> int:
        """Step of a new item."""
        if sent is not None:
            if mode == "train":
                self.advance_to(sent)
            return sent
        if mode == "eval":
            return self.clock
        if self._every_items:
            self.advance_to(self._counted_step())
            self.count += 1
        # The count may enter the next step while a group's completions arrive one by one; they
        # keep the group's step, and so its rubric (law 11 in docs/design.md).
        step = self._groups.get(group)
        if step is None or step < self.clock - 1:
            step = self._groups[group] = self.clock
        return step


@dataclass(frozen=True)
class Mean:
    """A reward, or the mean of several."""

    reward: float
    """On the run's scale."""
    normalized_reward: float
    """Share of the rubric's points, 0 to 1."""


class FallbackRewards:
    """Rewards for engines that cannot take "unscored": the mean of the group, else of the run.

    A mean is a guess, so it is flagged and never stored. It needs rewards: without any there is no
    fallback, and 0 is none.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reset()

    def reset(self) -> None:
        """Forget all rewards and read recent means from the store, after a start or a restore."""
        self._groups: OrderedDict[tuple[str, int, str, Mode], dict[str, Mean]] = OrderedDict()
        self._recent: deque[Mean] = deque(maxlen=_RECENT_REWARDS)
        for step in self._store.steps()[-_RESTART_STEPS:]:
            if step.mean_reward is not None and step.mean_normalized is not None:
                mean = Mean(step.mean_reward, step.mean_normalized)
                self._recent.extend([mean] * min(step.scored, 64))

    def add(self, rollout: Rollout, judgement: Judgement) -> None:
        """Take in a judgement; an unscored one changes nothing (law 3 in docs/design.md)."""
        if judgement.reward is None or judgement.normalized_reward is None:
            return
        reward = Mean(judgement.reward, judgement.normalized_reward)
        key = _group_key(rollout)
        rewards = self._groups.setdefault(key, {})
        if rollout.id not in rewards:
            self._recent.append(reward)
        rewards[rollout.id] = reward
        self._groups.move_to_end(key)
        if len(self._groups) > _FALLBACK_GROUPS:
            self._groups.popitem(last=False)

    def mean(self, rollout: Rollout | None) -> Mean | None:
        """The mean of its group, else of the run; None if nothing is scored yet."""
        if rollout is not None:
            group = self._groups.get(_group_key(rollout)) or {}
            others = [reward for id, reward in group.items() if id != rollout.id]
            if others:
                return _mean(others)
        return _mean(self._recent) if self._recent else None


def _group_key(rollout: Rollout) -> tuple[str, int, str, Mode]:
    return rollout.group, rollout.step, rollout.cohort, rollout.mode


def _mean(rewards: Iterable[Mean]) -> Mean:
    pairs = [(mean.reward, mean.normalized_reward) for mean in rewards]
    return Mean(*map(fmean, zip(*pairs, strict=True)))


def item_result(
    item: Item | InvalidItem,
    outcome: Outcome,
    on_failure: OnFailure,
    fallbacks: FallbackRewards,
    history: RubricHistory,
) -> Result:
    """The result of one item.

    Raises:
        Refusal: It is unscored, and the engine takes no null and there is no mean to give.
    """
    rollout, judgement = outcome.rollout, outcome.judgement
    reward = judgement.reward if judgement is not None else None
    normalized = judgement.normalized_reward if judgement is not None else None
    fallback = fallbacks.mean(rollout) if reward is None and on_failure == "group_mean" else None
    if rollout is None and on_failure == "error":
        raise Refusal(422, f"item {item.id!r}: {outcome.error}")
    name = item.id or (rollout.id if rollout is not None else "")
    if reward is None and fallback is None and on_failure != "null":
        why = ", and there is no reward yet to fall back on" if on_failure == "group_mean" else ""
        raise Refusal(424, f"item {name!r} is unscored ({outcome.error}){why}: send it again")
    if judgement is not None:
        rubric = judgement.rubric_id
        version = history.version(rubric, judgement.cohort)
    else:
        version, rubric = history.head(rollout.cohort if rollout is not None else "")
    values = (
        reward is None,
        fallback is not None,
        outcome.late,
        judgement is not None and judgement.rule is not None,
        sum(judgement.injection_flags.values()) if judgement is not None else 0,
        version,
    )
    return Result(
        id=name,
        status="ok" if reward is not None else "fallback" if fallback is not None else "failed",
        reward=reward if fallback is None else fallback.reward,
        score=normalized if fallback is None else fallback.normalized_reward,
        rubric_version=version,
        rubric_id=rubric,
        metrics={key: float(value) for key, value in zip(METRICS, values, strict=True)},
        info=_info(judgement),
        error=outcome.error if reward is None else None,
    )


def _info(judgement: Judgement | None) -> Info:
    if judgement is None:
        return Info()
    return Info(
        rule=judgement.rule,
        scores={score.criterion: score.score for score in judgement.scores},
        rationales={score.criterion: score.rationale for score in judgement.scores},
    )
