"""Which rollouts a report shows: those that a decision or an alarm rests on, those that were
replayed under another rubric, and of the rest so many as fit, spread evenly over the run."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import StoreError
from ..records import Judgement, Rollout
from ..rubric import Rubric
from ..store import Store

__all__ = ["Sample", "Shown", "read_sample"]


@dataclass(frozen=True)
class Shown:
    """A rollout with all that was said of it."""

    rollout: Rollout
    judgement: Judgement
    """The one that the policy learned from: the first rubric's."""
    others: tuple[Judgement, ...] = ()
    """Of the same rollout under other rubrics: replayed, or scored again in the run."""
    gold: float | None = None
    needed: bool = False
    """A decision, an alarm or a replay points at it."""


@dataclass(frozen=True)
class Sample:
    """The rollouts that a report may show."""

    shown: Sequence[Shown] = ()
    """In the order of their steps."""
    rubrics: Mapping[str, Rubric] = field(default_factory=dict)
    """Of replays, where the run's own store lacks them."""

    @property
    def models(self) -> list[str]:
        """Names of the chat models that judged them."""
        return list(dict.fromkeys(s.judgement.model for s in self.shown if s.judgement.model))


def read_sample(
    folder: Path | None, store: Store, wanted: Collection[str], quota: int, auditor: str
) -> Sample:
    """Read rollouts.

    Args:
        folder: Of the run, for its replays; None for none.
        store: Of the run.
        wanted: Ids that must be there.
        quota: How many more, spread evenly.
        auditor: Under whose name gold is stored.
    """
    replays, rubrics = _replays(folder) if folder is not None else ({}, {})
    needed = {*wanted, *replays}
    total = store.count(cohort=None, scored=None)
    shown: list[Shown] = []
    seen = 0
    for summary in store.steps():
        step = summary.step
        judged: dict[str, tuple[Rollout, list[Judgement]]] = {}
        for case in store.window(after_step=step - 1, up_to_step=step, cohort=None, scored=None):
            picked = (seen + 1) * quota // total > seen * quota // total
            seen += 1
            id = case.rollout.id
            if picked or id in needed or id in judged:
                judged.setdefault(id, (case.rollout, []))[1].append(case.judgement)
        audits = (
            store.external_scores(auditor, after_step=step - 1, up_to_step=step) if judged else {}
        )
        for id, (rollout, judgements) in judged.items():
            audit = audits.get(id)
            first = judgements[0]
            more = [*judgements[1:], *replays.get(id, ())]
            others = [j for j in more if j.rubric_id != first.rubric_id]
            shown.append(
                Shown(
                    rollout=rollout,
                    judgement=first,
                    others=tuple({j.rubric_id: j for j in others}.values()),
                    gold=audit.value if audit is not None else None,
                    needed=id in needed,
                )
            )
    return Sample(shown, rubrics)


def _replays(folder: Path) -> tuple[dict[str, list[Judgement]], dict[str, Rubric]]:
    """What `mpo replay` left behind: one store for each rubric, in RUN/replay."""
    judgements: dict[str, list[Judgement]] = {}
    rubrics: dict[str, Rubric] = {}
    for path in sorted((folder / "replay").glob("*.db")):
        try:
            with Store(path, create=False) as store:
                cases = store.window(cohort=None, scored=None)
                rubrics |= store.rubrics()
        except StoreError:
            continue  # a replay that was stopped before its first answer; the run is what counts
        for case in cases:
            judgements.setdefault(case.rollout.id, []).append(case.judgement)
    return judgements, rubrics
