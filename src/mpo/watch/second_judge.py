"""The audit: a second RM grades a few percent of the rollouts, under the rubric of their reward.

Where the two part, the RM is being talked round: the rubric is the same. What the auditor says is
kept in the store under the name `audit`, is seen by monitors and people, and is no reward. It must
be another model than the RM, and not the judge that measures the run in the end.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..judge import RewardModel
from ..judge.scale import normalized
from ..judge.scorer import commit_as_they_come
from ..records import Case, content_hash
from ..store import Store
from .gap import Audit

__all__ = ["AUDIT", "SECOND_JUDGE_SHARE", "SecondJudge"]

AUDIT = "audit"
"""Name of the auditor in the store."""
SECOND_JUDGE_SHARE = 0.05
"""Of the graded rollouts; drawn for each from the run's seed. At 64 rollouts a step the mean over
five steps, by which the alarm goes, has 16 pairs."""


class SecondJudge:
    """Asks the second RM.

    Args:
        store: Keeps what it says.
        model: The second RM.
        seed: Of the draw.
        share: Of the rollouts, 0 to 1.
    """

    def __init__(
        self, store: Store, model: RewardModel, seed: int, share: float = SECOND_JUDGE_SHARE
    ) -> None:
        self.store, self.model, self.seed, self.share = store, model, seed, share

    async def of(self, cases: Sequence[Case]) -> Audit | None:
        """Audit one step; what the store has already is not asked again.

        An answer that cannot be used is kept as missing (law 3): it is in no mean.

        Returns:
            Rewards and audits of the rollouts that have both; None where there are none.

        Raises:
            StoreError: The store cannot be read or written.
            BudgetError: The budget is spent.
        """
        drawn = [case for case in cases if self._drawn(case)]
        if not drawn:
            return None
        steps = [case.rollout.step for case in drawn]
        bounds = {"after_step": min(steps) - 1, "up_to_step": max(steps)}
        known = self.store.external_scores(AUDIT, **bounds)
        missing = [case for case in drawn if case.rollout.id not in known]
        if missing:
            await commit_as_they_come(missing, self._ask, self._keep)
            known = self.store.external_scores(AUDIT, **bounds)
        pairs = [
            (case.judgement.normalized_reward, known[case.rollout.id].value)
            for case in drawn
            if case.rollout.id in known
        ]
        both = [(proxy, gold) for proxy, gold in pairs if proxy is not None and gold is not None]
        return Audit([p for p, _ in both], [g for _, g in both]) if both else None

    def _drawn(self, case: Case) -> bool:
        if case.judgement.normalized_reward is None or case.judgement.rule is not None:
            return False
        # By the rollout's own id: the same on every rank, in every order, after every resume.
        draw = int(content_hash([self.seed, AUDIT, case.rollout.id], 13), 16)
        return draw < self.share * 16**13

    def _keep(self, entries: list[tuple[str, float | None, Mapping[str, Any]]]) -> None:
        self.store.add_external_scores(entries, name=AUDIT)

    async def _ask(self, case: Case) -> tuple[str, float | None, Mapping[str, Any]]:
        rubric = self.store.rubric(case.judgement.rubric_id)
        verdict = await self.model.judge(case.rollout, rubric)
        parts = {
            "rubric": rubric.id,
            "model": self.model.model,
            "unscored": verdict.unscored,
            "usage": verdict.usage.model_dump(),
        }
        scored = verdict.unscored is None
        return case.rollout.id, normalized(rubric, verdict.scores) if scored else None, parts
