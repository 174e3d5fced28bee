"""From items to rollouts: which step an item belongs to, which group, and whether it is new.

An engine that knows its step says so with each item. One that does not (OpenRLHF, verifiers) gets
the step that the run has reached: as told by `POST /v1/meta_step`, or by the count of its items
where the service holds the meta steps itself. Then every `every_items` items make as many steps as
lie between two meta steps.

A rollout's id is the hash of what the engine sent, and not of what was found out here: a resent
item is the same rollout, whenever it comes, also after a restart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from ..errors import StoreError
from ..records import Mode, Rollout, content_hash
from ..store import Store
from .wire import Item, flatten

__all__ = ["Placer"]

_RECENT = 2048
"""Items that are remembered; others are looked up in the store."""
_GROUPS = 4096


class Placer:
    """Turns items into rollouts.

    Args:
        store: Knows the items of before a restart.
        every_items: Training items between two meta steps; None where the engine holds them.
        every_steps: Steps between two meta steps.

    Attributes:
        clock: The latest step that is known.
        count: Training items so far that came without a step.
    """

    def __init__(self, store: Store, *, every_items: int | None, every_steps: int) -> None:
        self._store = store
        self._every_items = every_items
        self._every_steps = every_steps
        self.reset()

    def reset(self) -> None:
        """Read from the store where the run stands; after a start or a restore."""
        self._recent: OrderedDict[str, Rollout] = OrderedDict()
        self._groups: OrderedDict[tuple[str, str], int] = OrderedDict()
        evolved = [d.step for d in self._store.lineage() if d.kind == "evolve"]
        self.clock = max([self._store.last_step() or 0, *evolved])
        self.count = 0
        if self._every_items:
            counted = self._store.count(cohort=None, scored=None)
            # Never back below the step that was reached: a meta step was held there.
            per_step = self._every_items / self._every_steps
            self.count = max(counted, round(self.clock * per_step))
        self._remember_groups()

    def place(self, items: Sequence[Item], mode: Mode) -> list[Rollout]:
        """A rollout for each item, in order."""
        rollouts = [self._place(item, mode) for item in items]
        while len(self._recent) > _RECENT:
            self._recent.popitem(last=False)
        while len(self._groups) > _GROUPS:
            self._groups.popitem(last=False)
        return rollouts

    @property
    def progress(self) -> int:
        """Updates that were made, as far as steps and count tell."""
        if not self._every_items:
            return self.clock
        return max(self.clock, self.count * self._every_steps // self._every_items)

    def reached(self, step: int) -> None:
        """The engine has told its step."""
        self.clock = max(self.clock, step)

    def _place(self, item: Item, mode: Mode) -> Rollout:
        prompt, completion = flatten(item.prompt), flatten(item.completion)
        group = item.group_id or content_hash(prompt)
        sent = [item.id, group, item.step, prompt, completion, item.columns, mode, item.cohort]
        id = content_hash(sent)
        known = self._recent.get(id)
        if known is not None:
            self._recent.move_to_end(id)
            return known
        if item.step is None and (stored := self._stored(id)) is not None:
            self._recent[id] = stored
            return stored
        if item.step is not None:
            step = item.step
            if mode == "train":
                self.reached(step)
        else:
            step = self._step_of((group, item.cohort), mode)
        rollout = Rollout(
            id=id,
            prompt=prompt,
            completion=completion,
            columns=item.columns,
            step=step,
            group=group,
            cohort=item.cohort,
            mode=mode,
            # `index` stays 0: the order within a step is that of the ids, whoever came first.
        )
        self._recent[id] = rollout
        return rollout

    def _stored(self, id: str) -> Rollout | None:
        try:
            return self._store.rollout(id)
        except StoreError:
            return None

    def _step_of(self, group: tuple[str, str], mode: Mode) -> int:
        """Step of a new item that came without one."""
        if mode == "eval":
            return self.clock
        if self._every_items:
            self.reached(self.count * self._every_steps // self._every_items)
            self.count += 1
        # The count may pass into the next step while a group's completions come in one by one;
        # they keep together, and so keep their rubric (DESIGN law 11).
        step = self._groups.get(group)
        if step is None or step < self.clock - 1:
            step = self._groups[group] = self.clock
        return step

    def _remember_groups(self) -> None:
        """Groups of before a restart of which more may come."""
        recent = self._store.window(after_step=self.clock - 2, cohort=None, scored=None)
        for case in recent[-_GROUPS:]:
            place = (case.rollout.group, case.rollout.cohort)
            self._groups.setdefault(place, case.rollout.step)
