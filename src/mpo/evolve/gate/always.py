"""The gate that is none, and the gate that is several."""

from __future__ import annotations

from collections.abc import Sequence

from ...records import Case, Refinement, Usage
from ...rubric import Rubric
from .base import Gate, GateResult

__all__ = ["AllOf", "Always"]


class Always:
    """Accept whatever the MRM proposes (paper §2.3). An unchanged rubric is no change."""

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        if refinement.rubric == parent:
            return GateResult(False, "the proposal is the rubric in effect")
        return GateResult(True, "accepted without a check (gate: always)")


class AllOf:
    """Accept what every gate accepts. Asked in order; the first refusal saves the rest's calls.

    Args:
        gates: At least one. Put the cheap ones first.
    """

    def __init__(self, gates: Sequence[Gate]) -> None:
        if not gates:
            raise ValueError("all_of needs at least one gate")
        self.gates = tuple(gates)

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        reasons: list[str] = []
        figures: dict[str, float] = {}
        usage = Usage()
        for gate in self.gates:
            ruling = await gate.check(parent, refinement, evidence)
            figures.update(ruling.figures)
            usage = usage + ruling.usage
            if not ruling.accepted:
                return GateResult(False, ruling.reason, figures, usage)
            reasons.append(ruling.reason)
        return GateResult(True, "; ".join(reasons), figures, usage)
