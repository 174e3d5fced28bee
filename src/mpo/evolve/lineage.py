"""Going back to an earlier rubric: a decision that no meta step leads to."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError
from ..records import Decision
from ..store import Store

__all__ = ["roll_back"]


def roll_back(
    store: Store,
    rubric_id: str,
    n: int,
    reason: str,
    cohort: str = "",
    figures: Mapping[str, float] | None = None,
    canary_failed: bool = False,
) -> Decision:
    """Put an earlier rubric of the lineage back in force, as a decision of its own.

    Args:
        store: Of the run.
        rubric_id: Of the rubric, or a unique beginning of it.
        n: Updates made so far.
        reason: For the record.
        figures: Measurements for the record.
        canary_failed: Canaries failed under the head; it must not come back.

    Raises:
        StoreError: The store knows no such rubric.
        ConfigError: It never was in force for this cohort, or is in force now.
    """
    rubric = store.rubric(rubric_id)
    head = store.head(cohort)
    before = [d for d in store.lineage(cohort) if d.accepted and d.proposed == rubric.id]
    if not before or head is None or rubric == head:
        why = "is in force already" if rubric == head else "never was in force"
        raise ConfigError(f"cannot roll back to {rubric.id}: it {why}")
    decision = Decision(
        step=n,
        cohort=cohort,
        kind="rollback",
        parent=head.id,
        proposed=rubric.id,
        accepted=True,
        reason=reason,
        figures=figures or {},
        scale_map=before[-1].scale_map,
        canary_failed=canary_failed,
    )
    store.decide(decision, rubric)
    return decision
