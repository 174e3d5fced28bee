"""Evidence: what a meta step looks at, frozen when it is due.

    frozen = freeze(store, "", due=120, since=110)       # what was there; reads the store once
    evidence = await choose(frozen, selection, model, parent, …)

The two are apart because a meta step may run in the background, where the store goes on growing,
and because a resumed run has to choose again, and the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..records import Case
from ..rubric import Rubric
from ..store import Store
from .meta_reward_model import MetaRewardModel
from .mrm_cases import Evidence
from .schedule import Prescreened, Selection, seeded

__all__ = ["EvidenceSnapshot", "choose", "freeze", "log_choices"]


@dataclass(frozen=True)
class EvidenceSnapshot:
    """What the store held for one cohort when a meta step was due."""

    cohort: str
    due: int
    """Update after which the meta step was due; rollouts of steps below it are in it."""
    recent: Sequence[Case]
    """Scored train rollouts since the last meta step."""
    first: Sequence[Case]
    """Those of the cohort's first step: the policy before it had learned."""
    hint: str = ""
    """A monitor's alarm, in words."""

    @property
    def known(self) -> list[Case]:
        """Recent and first cases, each once: what a gate may draw from."""
        return list({case.rollout.id: case for case in [*self.first, *self.recent]}.values())


def freeze(store: Store, cohort: str, *, due: int, since: int, hint: str = "") -> EvidenceSnapshot:
    """Read what a meta step may look at.

    Args:
        due: Update after which it is due.
        since: The update after which the last one was due; 0 if there was none.
    """
    first = store.first_step(cohort) or 0
    return EvidenceSnapshot(
        cohort=cohort,
        due=due,
        recent=store.window(after_step=since - 1, up_to_step=due - 1, cohort=cohort),
        first=store.window(up_to_step=min(first, due - 1), cohort=cohort),
        hint=hint,
    )


async def choose(
    frozen: EvidenceSnapshot,
    selection: Selection,
    model: MetaRewardModel,
    parent: Rubric,
    *,
    seed: int,
    samples: int,
    others: int,
    earlier: int,
) -> Evidence:
    """Sample the evidence; the same again from the same frozen cases.

    Args:
        selection: How `samples` cases are picked from the recent ones.
        model: Labels all of them first, where the selection prescreens.
        earlier: Cases of the first step that are shown for comparison.

    Raises:
        MetaStepError: The prescreen got no label at all.
    """
    rng = seeded(seed, "evidence", frozen.cohort, frozen.due)
    labels: dict[str, str] = {}
    skipped: tuple[str, ...] = ()
    if isinstance(selection, Prescreened):
        labels, skipped = await model.prescreen_all(frozen.recent, parent, seed=frozen.due * 1000)
        picked = selection.pick(frozen.recent, samples, rng, labels)
    else:
        picked = selection.pick(frozen.recent, samples, rng)
    chosen = {case.rollout.id for case in picked}
    pool = [case for case in frozen.first if case.rollout.id not in chosen]
    rng = seeded(seed, "earlier", frozen.cohort, frozen.due)
    return Evidence(
        cases=tuple(picked),
        earlier=tuple(rng.sample(pool, min(earlier, len(pool)))),
        others=others,
        hint=frozen.hint,
        labels=labels,
        skipped=skipped,
    )


def log_choices(store: Store, frozen: EvidenceSnapshot, evidence: Evidence, seed: int) -> None:
    """Log each random choice with its result (DESIGN law 6)."""
    for name, cases in (("evidence", evidence.cases), ("earlier", evidence.earlier)):
        label = f"{name}:{frozen.cohort}" if frozen.cohort else name
        store.log_event(label, frozen.due, seed, [case.rollout.id for case in cases])
