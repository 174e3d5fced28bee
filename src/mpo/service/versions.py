"""Version numbers of rubrics: what engines put into their logs, since an id is no number.

The seed rubric of a cohort is 0; each decision that is accepted adds one, a rollback too.
"""

from __future__ import annotations

from ..errors import StoreError
from ..store import Store

__all__ = ["Versions"]


class Versions:
    """The accepted rubrics of each cohort, in order.

    Another process may decide too, so an unknown id is looked up anew.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reset()

    def reset(self) -> None:
        """Read the lineage; after a meta step or a restore."""
        by_cohort: dict[str, list[str]] = {}
        for decision in self._store.lineage():
            if decision.accepted and decision.proposed is not None:
                by_cohort.setdefault(decision.cohort, []).append(decision.proposed)
        self._ids = by_cohort

    def head(self, cohort: str = "") -> tuple[int, str]:
        """Number and id of the rubric in force."""
        ids = self._ids.get(cohort, [])
        return len(ids) - 1, ids[-1] if ids else ""

    def number(self, id: str, cohort: str = "") -> int:
        """Number of a rubric that was in force; the last one where it was so more than once."""
        for attempt in (0, 1):
            ids = self._ids.get(cohort, [])
            if id in ids:
                return len(ids) - 1 - ids[::-1].index(id)
            if not attempt:
                self.reset()
        return -1

    def id(self, number: int, cohort: str = "") -> str:
        """The rubric's id.

        Raises:
            StoreError: No such version.
        """
        ids = self._ids.get(cohort, [])
        if not 0 <= number < len(ids):
            raise StoreError(f"there is no rubric version {number}; the newest is {len(ids) - 1}")
        return ids[number]
