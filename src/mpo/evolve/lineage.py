"""Decisions that no meta step leads to: the seed rubric, and a return to an earlier rubric."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import ConfigError, StoreError
from ..records import Decision
from ..rubric import Rubric
from ..store import Store

__all__ = ["plant_seed", "roll_back"]


def plant_seed(store: Store, cohort: str, seed: Rubric) -> Rubric:
    """Make the seed rubric the head of a cohort that has none.

    Args:
        store: The run's store.
        cohort: The cohort; empty where the task has none.
        seed: The seed rubric.

    Returns:
        The head.

    Raises:
        ConfigError: The store's lineage starts from another rubric.
    """
    lineage = store.lineage(cohort)
    if not lineage:
        decision = Decision(
            cohort=cohort, kind="seed", proposed=seed.id, accepted=True, reason="seed rubric"
        )
        try:
            store.decide(decision, seed)
        except StoreError:
            # Another rank may have planted it first; only then is there a lineage now.
            if not store.lineage(cohort):
                raise
        lineage = store.lineage(cohort)
    if lineage[0].proposed != seed.id:
        raise ConfigError(
            f"{store.path} continues seed rubric {lineage[0].proposed}, not {seed.id} "
            f"({seed.title!r}): use another store, or the rubric that it began with "
            "(mpo rubric show)"
        )
    head = store.head(cohort)
    assert head is not None
    return head


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
