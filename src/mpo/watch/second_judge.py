"""The second judge: another RM grades a few percent of the rollouts, under the same rubric.

Where the two part, the RM is being exploited, since the rubric is the same. The second judge's
scores are kept in the store under the name `audit`, are seen by monitors and people, and are no
reward. It must be another model than the RM (the same identity is refused; one name at another URL
is another model), and not the judge that measures the run in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from ..judge import RewardModel, judge_identity
from ..judge.scale import normalized
from ..judge.scorer import commit_as_they_come
from ..records import Case, content_hash
from ..store import ExternalScore, Store
from . import thresholds

__all__ = ["AUDIT", "SECOND_JUDGE_SHARE", "SecondJudge", "read_gaps", "smooth"]

AUDIT = "audit"
"""Name of the second judge's scores in the store."""
SECOND_JUDGE_SHARE = 0.05
"""Share of the graded rollouts; drawn for each from the run's seed. At 64 rollouts a step the mean
over five steps, which decides on the alarm, has 16 pairs."""


class SecondJudge:
    """Asks the second RM.

    Args:
        store: Keeps its scores.
        model: The second RM.
        seed: Random seed for the draw.
    """

    def __init__(self, store: Store, model: RewardModel, seed: int) -> None:
        self.store, self.model, self.seed = store, model, seed

    async def gap(self, cases: Sequence[Case]) -> float | None:
        """Mean of reward minus the second judge's score over the rollouts drawn from one step.

        Known scores are not asked for again. An answer that cannot be used is kept as missing
        (law 3 of docs/design.md): it is in no mean.

        Returns:
            The gap, -1 to 1; None where no rollout has both.

        Raises:
            StoreError: The store cannot be read or written.
            BudgetError: The budget is spent.
        """
        drawn = [case for case in cases if self._drawn(case)]
        if not drawn:
            return None
        steps = [case.rollout.step for case in drawn]
        bounds = {"after_step": min(steps) - 1, "up_to_step": max(steps)}
        known = self._known(bounds)
        missing = [case for case in drawn if case.rollout.id not in known]
        if missing:
            await commit_as_they_come(missing, self._ask, self._keep)
            known = self._known(bounds)
        pairs = [
            (case.judgement.normalized_reward, known[case.rollout.id].value)
            for case in drawn
            if case.rollout.id in known
        ]
        gaps = [one - other for one, other in pairs if one is not None and other is not None]
        return fmean(gaps) if gaps else None

    def _known(self, bounds: Mapping[str, int]) -> dict[str, ExternalScore]:
        """The scores that this model gave: another one has another opinion."""
        mine, known = judge_identity(self.model), {}
        for id, score in self.store.external_scores(AUDIT, **bounds).items():
            if score.parts.get("identity", score.parts.get("model")) == mine:
                known[id] = score
        return known

    def _drawn(self, case: Case) -> bool:
        if case.judgement.normalized_reward is None or case.judgement.rule is not None:
            return False
        # By the rollout's own id: the same on every rank, in every order, after every resume.
        draw = int(content_hash([self.seed, AUDIT, case.rollout.id], 13), 16)
        return draw < SECOND_JUDGE_SHARE * 16**13

    def _keep(self, entries: list[tuple[str, float | None, Mapping[str, Any]]]) -> None:
        self.store.add_external_scores(entries, name=AUDIT)

    async def _ask(self, case: Case) -> tuple[str, float | None, Mapping[str, Any]]:
        rubric = self.store.rubric(case.judgement.rubric_id)
        result = await self.model.judge(case.rollout, rubric)
        parts = {
            "rubric": rubric.id,
            "model": self.model.model,
            "identity": judge_identity(self.model),
            "unscored": result.unscored,
            "usage": result.usage.model_dump(),
        }
        scored = result.unscored is None
        return case.rollout.id, normalized(rubric, result.scores) if scored else None, parts


def read_gaps(
    gaps: Sequence[tuple[float, float | None]], at_start: float | None
) -> tuple[dict[str, float], str | None]:
    """CHERRL's onset rule (arXiv 2606.04923) at the last of several steps, against the start.

    Onset is the first step at which the smoothed gap has grown large, and a good share of the
    top-scored rollouts show the shortcut. Where no shortcut is known, the growth alone has to be
    severe. The gap itself says nothing: a second judge that is merely stricter has one from the
    first step.

    Args:
        gaps: Per step the gap, and the share of the shortcut among top-scored rollouts, 0 to 1;
            None where no shortcut is known.
        at_start: Mean gap of the run's first steps; None while they are incomplete, which raises
            no alarm.

    Returns:
        Figures for the log, and the alarm in words; None where there is none.
    """
    gap = smooth([gap for gap, _ in gaps], thresholds.GAP_STEPS)
    share = smooth([share for _, share in gaps], thresholds.GAP_STEPS)
    rise = gap - at_start if gap is not None and at_start is not None else None
    figures = {"audit_gap": gap, "audit_gap_rise": rise, "audit_share": share}
    known = {name: value for name, value in figures.items() if value is not None}
    needed = thresholds.GAP if share is not None else thresholds.SEVERE_GAP
    if rise is None or rise < needed or (share is not None and share < thresholds.GAP_SHARE):
        return known, None
    severe = rise >= thresholds.SEVERE_GAP and (share is None or share >= thresholds.SEVERE_SHARE)
    seen = f", and {share:.0%} of the top-scored texts show a shortcut" if share is not None else ""
    stage = " (severe)" if severe else ""
    return known, (
        f"reward less the second judge's score has risen by {rise:.2f} to {gap:.2f}{seen}{stage}"
    )


def smooth(values: Sequence[float | None], steps: int) -> float | None:
    """Mean of the last `steps` values that are there; None for fewer than three of five."""
    last = [value for value in values[-steps:] if value is not None]
    return fmean(last) if len(last) >= min(steps, 3) else None
