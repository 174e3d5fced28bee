"""Gate: decides whether a proposal becomes the rubric.

`Always` is the paper's choice. `Probes` needs no labels: it damages recent rollouts in code and
has the RM show whether the proposal still sees the damage. `Pairs` uses labelled preference pairs,
`AllOf` several gates. A gate is one method, so that you can write your own:

    class Shorter:
        async def check(self, parent, refinement, evidence):
            ok = len(refinement.rubric.criteria) <= 8
            return GateResult(ok, "at most 8 criteria" if ok else "more than 8 criteria")
"""

from __future__ import annotations

from .always import AllOf, Always
from .base import Gate, GateResult, ProbeScorer, Share
from .bootstrap import compare, win
from .damage import DAMAGES, INJECTIONS, MASTER_KEYS
from .pairs import Pair, Pairs, load_pairs
from .probes import Probes, Tolerances

__all__ = [
    "DAMAGES",
    "INJECTIONS",
    "MASTER_KEYS",
    "AllOf",
    "Always",
    "Gate",
    "GateResult",
    "Pair",
    "Pairs",
    "ProbeScorer",
    "Probes",
    "Share",
    "Tolerances",
    "compare",
    "load_pairs",
    "win",
]
