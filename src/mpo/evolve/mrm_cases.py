"""How cases are shown to the MRM."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..records import Case, Judgement
from ..rubric import Rubric

__all__ = ["render_case", "render_cases"]

Fence = Callable[[str, str], str]
"""Function from text and label to a fenced block."""


def render_cases(cases: Sequence[Case], show: Callable[[Case], str]) -> str:
    """Several cases, numbered where there is more than one."""
    if len(cases) == 1:
        return show(cases[0])
    return "\n\n".join(
        f"Case {number} of {len(cases)}\n{show(case)}" for number, case in enumerate(cases, start=1)
    )


def render_case(
    case: Case,
    rubric: Rubric,
    fence: Fence,
    *,
    reference: str,
    rationales: bool,
    remark: str = "",
) -> str:
    """One case as the MRM reads it. Rationales quote the policy, so they are fenced too.

    Args:
        case: The case.
        rubric: The head; the case may have been scored under another rubric.
        fence: Puts bounds around untrusted text.
        reference: Reference solution; empty where the task has none.
        rationales: Show scores and rationales per criterion; else the total only.
        remark: A sentence of ours about the case; it stands outside every fence.
    """
    judgement = case.judgement
    share = judgement.normalized_reward
    under = "" if judgement.rubric_id == rubric.id else " under an earlier rubric"
    worth = "not scored" if share is None else f"{share:.2f} of 1{under}"
    parts = [
        f"Step {case.rollout.step}. Reward: {worth}. {remark}".rstrip(),
        fence(case.rollout.prompt, "PROMPT"),
        fence(case.rollout.completion, "RESPONSE"),
    ]
    if reference:
        parts.append(fence(reference, "REFERENCE"))
    scores = _scores(judgement, rationales)
    if scores:
        parts.append(fence(scores, "SCORES"))
    return "\n".join(parts)


def _scores(judgement: Judgement, rationales: bool) -> str:
    if judgement.rule:
        return f"rule {judgement.rule}: lowest reward, not shown to the junior instructor"
    if not rationales:
        return f"total: {sum(s.score for s in judgement.scores)}" if judgement.scores else ""
    return "\n".join(
        f"{s.criterion}: {s.score} ({' '.join(s.rationale.split())})" for s in judgement.scores
    )
