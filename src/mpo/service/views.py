"""Rubrics and decisions as people and dashboards read them."""

from __future__ import annotations

import math
from typing import Any

from ..errors import StoreError
from ..records import Decision
from ..store import Store
from .versions import Versions
from .wire import Refusal

__all__ = ["lineage", "rubric", "rubrics"]


def rubrics(store: Store, versions: Versions) -> list[dict[str, Any]]:
    """The rubrics that are or were in force, oldest first."""
    heads = store.heads()
    listed = []
    for decision in store.lineage():
        if decision.accepted and decision.proposed is not None:
            found = store.rubric(decision.proposed)
            listed.append(
                {
                    "id": found.id,
                    "version": versions.number(found.id, decision.cohort),
                    "cohort": decision.cohort,
                    "step": decision.step,
                    "kind": decision.kind,
                    "title": found.title,
                    "in_force": heads[decision.cohort] == found.id,
                }
            )
    return listed


def rubric(store: Store, versions: Versions, name: str, cohort: str = "") -> dict[str, Any]:
    """A rubric with the decisions about it.

    Args:
        store: Has it.
        versions: Numbers of the rubrics.
        name: `head`, `v3` (a version number), an id or the beginning of one.
        cohort: Whose head or versions.

    Raises:
        Refusal: There is none.
    """
    try:
        if name == "head":
            found = store.rubric(versions.head(cohort)[1])
        elif name.startswith("v") and name[1:].isascii() and name[1:].isdecimal():
            # Cut: a longer number is no version, and may be slow to read.
            found = store.rubric(versions.id(int(name[1:12]), cohort))
        else:
            found = store.rubric(name)
    except StoreError as error:
        raise Refusal(404, str(error)) from None
    return {
        "id": found.id,
        "version": versions.number(found.id, cohort),
        "markdown": found.to_markdown(),
        "decisions": [_edge(d) for d in store.lineage() if d.proposed == found.id],
    }


def lineage(store: Store, cohort: str | None = None) -> list[dict[str, Any]]:
    """All decisions, oldest first."""
    return [_edge(decision) for decision in store.lineage(cohort)]


def _edge(decision: Decision) -> dict[str, Any]:
    """A decision without its refinement, which may be long; its reasons stay."""
    edge = decision.model_dump(mode="json", exclude={"refinement"})
    # A gate may have measured nothing: JSON has no NaN.
    figures = decision.figures.items()
    edge["figures"] = {k: v if math.isfinite(v) else None for k, v in figures}
    refinement = decision.refinement
    edge["reasons"] = refinement.reasons if refinement is not None else ""
    edge["evidence"] = list(refinement.evidence) if refinement is not None else []
    return edge
