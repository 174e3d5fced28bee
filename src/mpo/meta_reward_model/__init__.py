"""MetaRewardModel: an LLM that rewrites rubrics (the paper's senior instructor).

Five stages, each an async method, typed in and out:

    prescreen(case)                          -> "good" | "ok" | "bad"
    analyze(case, others, earlier)           -> Analysis       (paper §2.3 meta-analysis)
    refine(case, analysis)                   -> Proposal       (meta-refinement)
    merge(proposals)                         -> Proposal       (meta-merging)
    repair(proposal, findings)               -> Proposal       (ours: what lint found, mended)

and `run(evidence)`, which analyzes, refines and merges for a meta step: per case with one merge, or
jointly over all cases with no merge, as the paper does for math. Where we depart from the paper:
the analysis sees the scores and rationales of every criterion (the published code shows the
total only; `rationales=False` does so too), and some other cases beside its own (`others`,
`earlier`): what all recent texts have in common cannot be seen in one of them.
"""

from .answers import read_answer
from .cases import Evidence
from .model import MERGE_BUDGET_WORDS, AnalysisMode, MetaRewardModel, PrescreenLabel

__all__ = [
    "MERGE_BUDGET_WORDS",
    "AnalysisMode",
    "Evidence",
    "MetaRewardModel",
    "PrescreenLabel",
    "read_answer",
]
