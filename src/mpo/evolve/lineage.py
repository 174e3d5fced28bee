"""Numbers of the rubrics of a run, and the return to an earlier one: a decision that no meta step
leads to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import ConfigError
from ..records import Decision
from ..store import Store

__all__ = ["number_rubrics", "roll_back"]


def number_rubrics(decisions: Sequence[Decision]) -> dict[tuple[str, str], int]:
    """Numbers of the rubrics that took effect, by cohort and id: from 0 (the seed) in the order in
    which they first took effect in their cohort. Every screen shows these numbers."""
    numbers: dict[tuple[str, str], int] = {}
    counts: dict[str, int] = {}
    for decision in decisions:
        key = (decision.cohort, decision.proposed or "")
        if decision.accepted and decision.proposed and key not in numbers:
            numbers[key] = counts.get(decision.cohort, 0)
            counts[decision.cohort] = numbers[key] + 1
    return numbers


def roll_back(
    store: Store,
    rubric_id: str,
    n: int,
    reason: str,
    cohort: str = "",
    figures: Mapping[str, float] | None = None,
    canary_failed: bool = False,
) -> Decision:
    """Put an earlier rubric of the lineage back into effect, as a decision of its own.

    Args:
        store: The run's store.
        rubric_id: Id of the earlier rubric, or a unique beginning of it.
        n: Updates made so far.
        reason: Reason for the record.
        cohort: The cohort whose rubric changes.
        figures: Measurements for the record.
        canary_failed: Canaries failed under the head; it must not come back.

    Raises:
        StoreError: The store knows no such rubric.
        ConfigError: The rubric never was in effect for this cohort, or is in effect now.
    """
    rubric = store.rubric(rubric_id)
    head = store.head(cohort)
    before = [d for d in store.lineage(cohort) if d.accepted and d.proposed == rubric.id]
    if not before or head is None or rubric == head:
        why = "is in effect already" if rubric == head else "never was in effect"
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
