"""Gold for a whole batch, in the form in which a run records it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..records import Rollout
from .gold import Gold

__all__ = ["GoldAuditor"]


class GoldAuditor:
    """Scores rollouts with gold. What it says is stored beside them and read by nobody else."""

    def audit(
        self, rollouts: Sequence[Rollout]
    ) -> list[tuple[str, float | None, Mapping[str, float]]]:
        """Rollout id, gold in [0, 1], and its parts `fluency` and `facts`, in order."""
        gold = Gold.shared()
        scored = [(r.id, gold.score(r.prompt, r.completion)) for r in rollouts]
        return [(id, s.value, {"fluency": s.fluency, "facts": s.facts}) for id, s in scored]
