"""Gates without a check of their own: accept everything, or what several gates accept."""

from __future__ import annotations

from collections.abc import Sequence

from ...records import Case, Refinement, Usage
from ...rubric import Rubric
from .base import Gate, GateResult

__all__ = ["AllOf", "Always"]


class Always:
    """Accept every proposal of the MRM (paper §2.3). An unchanged rubric is no change."""

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        if refinement.rubric == parent:
            return GateResult(False, "the proposal is the rubric in effect")
        return GateResult(True, "accepted without a check (gate: always)")


class AllOf:
    """Accept a proposal that every gate accepts, in order; a refusal saves the calls of the rest.

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
            answer = await gate.check(parent, refinement, evidence)
            figures.update(answer.figures)
            usage = usage + answer.usage
            if not answer.accepted:
                return GateResult(False, answer.reason, figures, usage)
            reasons.append(answer.reason)
        return GateResult(True, "; ".join(reasons), figures, usage)
