"""Evidence: the cases that a meta step looks at.

    snapshot = take_snapshot(store, "", due=120, since=110)    # reads the store once
    evidence = choose(snapshot, selection, labels, seed=0, samples=16, baseline_cases=6)

The two are apart because a meta step may run in the background, where the store goes on growing,
and because a resumed run has to choose again, and the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..records import Case
from ..store import Store
from .schedule import Selection, seeded

__all__ = ["Evidence", "EvidenceSnapshot", "choose", "log_choices", "take_snapshot"]


@dataclass(frozen=True)
class EvidenceSnapshot:
    """Content of the store for one cohort when a meta step was due."""

    cohort: str
    due: int
    """Update after which the meta step was due; rollouts of steps below it are in the snapshot."""
    recent: Sequence[Case]
    """Scored train rollouts since the last meta step."""
    first: Sequence[Case]
    """Those of the cohort's first step: the policy before it had learned."""
    hint: str = ""
    """A monitor's alarm, in words; empty if there is none."""

    @property
    def known(self) -> list[Case]:
        """Recent and first cases, each once: what a gate may draw from."""
        return list({case.rollout.id: case for case in [*self.first, *self.recent]}.values())


@dataclass(frozen=True)
class Evidence:
    """Cases that the MRM is shown in one meta step."""

    cases: tuple[Case, ...]
    """The sample, in the order of selection."""
    baseline: tuple[Case, ...] = ()
    """Cases from the start of the run, for comparison; may have another rubric."""
    hint: str = ""
    """A monitor's alarm, in words; empty if there is none."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Prescreen labels by rollout id, where the prescreen ran."""
    skipped: tuple[str, ...] = ()
    """Cases that got no label, each with the reason."""


def take_snapshot(
    store: Store, cohort: str, *, due: int, since: int, hint: str = ""
) -> EvidenceSnapshot:
    """Read what a meta step may look at.

    Args:
        store: The run's store.
        cohort: The cohort whose rubric may change.
        due: Update after which the meta step is due.
        since: Update after which the last one was due; 0 if there was none.
        hint: A monitor's alarm, in words.
    """
    first = store.first_step(cohort) or 0
    return EvidenceSnapshot(
        cohort=cohort,
        due=due,
        recent=store.window(after_step=since - 1, up_to_step=due - 1, cohort=cohort),
        first=store.window(up_to_step=min(first, due - 1), cohort=cohort),
        hint=hint,
    )


def choose(
    snapshot: EvidenceSnapshot,
    selection: Selection,
    labels: Mapping[str, str],
    skipped: tuple[str, ...] = (),
    *,
    seed: int,
    samples: int,
    baseline_cases: int,
) -> Evidence:
    """Sample the evidence; the same again from the same snapshot.

    Args:
        snapshot: The cases to choose from.
        selection: Picks `samples` of the recent cases.
        labels: Prescreen labels by rollout id; empty where the selection needs none.
        skipped: Cases that got no label, each with the reason.
        seed: The run's random seed.
        samples: Most cases to pick.
        baseline_cases: Most cases of the first step to add for comparison.
    """
    rng = seeded(seed, "evidence", snapshot.cohort, snapshot.due)
    picked = selection.pick(snapshot.recent, samples, rng, labels)
    chosen = {case.rollout.id for case in picked}
    pool = [case for case in snapshot.first if case.rollout.id not in chosen]
    rng = seeded(seed, "earlier", snapshot.cohort, snapshot.due)
    return Evidence(
        cases=tuple(picked),
        baseline=tuple(rng.sample(pool, min(baseline_cases, len(pool)))),
        hint=snapshot.hint,
        labels=labels,
        skipped=skipped,
    )


def log_choices(store: Store, snapshot: EvidenceSnapshot, evidence: Evidence, seed: int) -> None:
    """Log each random choice with its result (law 6 of docs/design.md)."""
    for name, cases in (("evidence", evidence.cases), ("earlier", evidence.baseline)):
        label = f"{name}:{snapshot.cohort}" if snapshot.cohort else name
        store.log_event(label, snapshot.due, seed, [case.rollout.id for case in cases])
