"""Gate: decides whether a refinement becomes the rubric.

`Always` is the paper's choice. A gate is one method, so that others can be written:

    class Shorter:
        async def check(self, parent, refinement, evidence):
            ok = len(refinement.rubric.criteria) <= 8
            return Ruling(ok, "at most 8 criteria" if ok else "more than 8 criteria")
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .records import Case, Refinement
from .rubric import Rubric

__all__ = ["Always", "Gate", "Ruling"]


@dataclass(frozen=True)
class Ruling:
    """A gate's answer."""

    accepted: bool
    reason: str
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured, by name; stored with the decision."""


class Gate(Protocol):
    """Decides on a proposal before it counts."""

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> Ruling:
        """Rule on `refinement.rubric`, which is to follow `parent`.

        Raises:
            MPOError: The gate could not decide: the head stays where it was.
        """
        ...


class Always:
    """Accept whatever the MRM proposes (paper §2.3). An unchanged rubric is no change."""

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> Ruling:
        if refinement.rubric == parent:
            return Ruling(False, "the proposal is the rubric in force")
        return Ruling(True, "accepted without a check (gate: always)")
