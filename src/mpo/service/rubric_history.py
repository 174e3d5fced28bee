"""The rubrics of a run and their decisions, as engines, people and dashboards read them."""

from __future__ import annotations

from typing import Any

from ..errors import StoreError
from ..records import Decision
from ..store import Store
from .wire import Refusal

__all__ = ["RubricHistory"]


class RubricHistory:
    """The accepted rubrics of each cohort, in order, with version numbers.

    Engines log numbers, and a rubric's id is none. The seed rubric of a cohort has version 0; each
    accepted decision adds one, a rollback too.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self.reset()

    def reset(self) -> None:
        """Read the lineage, after a meta step or a restore."""
        by_cohort: dict[str, list[str]] = {}
        for decision in self._store.lineage():
            if decision.accepted and decision.proposed is not None:
                by_cohort.setdefault(decision.cohort, []).append(decision.proposed)
        self._ids = by_cohort

    def head(self, cohort: str = "") -> tuple[int, str]:
        """Version and id of the rubric in effect."""
        ids = self._ids.get(cohort, [])
        return len(ids) - 1, ids[-1] if ids else ""

    def version(self, id: str, cohort: str = "") -> int:
        """Version of an accepted rubric, the last one if it has several; -1 if it is unknown."""
        if id not in self._ids.get(cohort, []):
            self.reset()  # another process may have decided
        ids = self._ids.get(cohort, [])
        return len(ids) - 1 - ids[::-1].index(id) if id in ids else -1

    def id(self, version: int, cohort: str = "") -> str:
        """The id of a version.

        Raises:
            Refusal: There is no such version.
        """
        ids = self._ids.get(cohort, [])
        if not 0 <= version < len(ids):
            raise Refusal(
                404, f"there is no rubric version {version}; the newest is {len(ids) - 1}"
            )
        return ids[version]

    def rubrics(self) -> list[dict[str, Any]]:
        """The rubrics that are or were in effect, oldest first."""
        heads = self._store.heads()
        rows = []
        for decision in self._store.lineage():
            if decision.accepted and decision.proposed is not None:
                rubric = self._store.rubric(decision.proposed)
                rows.append(
                    {
                        "id": rubric.id,
                        "version": self.version(rubric.id, decision.cohort),
                        "cohort": decision.cohort,
                        "step": decision.step,
                        "kind": decision.kind,
                        "title": rubric.title,
                        "in_force": heads[decision.cohort] == rubric.id,
                    }
                )
        return rows

    def rubric(self, name: str, cohort: str = "") -> dict[str, Any]:
        """A rubric with the decisions about it.

        Args:
            name: `head`, a version (`v3`), an id or the beginning of one.
            cohort: The cohort whose head or version is meant.

        Raises:
            Refusal: There is no such rubric.
        """
        if name == "head":
            name = self.head(cohort)[1]
        elif name.startswith("v") and name[1:].isascii() and name[1:].isdecimal():
            # Cut off: a longer number is no version, and may be slow to parse.
            name = self.id(int(name[1:12]), cohort)
        try:
            rubric = self._store.rubric(name)
        except StoreError as error:
            raise Refusal(404, str(error)) from None
        return {
            "id": rubric.id,
            "version": self.version(rubric.id, cohort),
            "markdown": rubric.to_markdown(),
            "decisions": [_edge(d) for d in self._store.lineage() if d.proposed == rubric.id],
        }

    def lineage(self, cohort: str | None = None) -> list[dict[str, Any]]:
        """All decisions, oldest first."""
        return [_edge(decision) for decision in self._store.lineage(cohort)]


def _edge(decision: Decision) -> dict[str, Any]:
    """A decision with its reasons, but without its refinement, which may be long."""
    edge = decision.model_dump(mode="json", exclude={"refinement"})
    refinement = decision.refinement
    edge["reasons"] = refinement.reasons if refinement is not None else ""
    edge["evidence"] = list(refinement.evidence) if refinement is not None else []
    return edge
