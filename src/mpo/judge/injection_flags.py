"""Flags: what was found in a text of the policy, and what that costs it.

`untrusted.py` counts; here a policy decides. Empty texts and master keys are no matter of it: a
rule refuses them always, before anything is asked.

    observe     flags are kept with the judgement, and change nothing (the default)
    penalize    a hostile text is graded, and loses `PENALTY` of the scale's span
    refuse      a hostile text gets the floor of the scale, and no model is asked

What is hostile speaks to the grader, or forges its structure. Flags that honest texts raise too
(dialogue lines, templates in code, self-praise, invisible characters) are counted, and cost
nothing: the fence holds whatever they are meant to do, and what is invisible is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ..sanitize import clean, flag_phrases

__all__ = [
    "HOSTILE",
    "PENALTY",
    "REFUSED",
    "OnInjection",
    "find_injection_flags",
    "hostile",
]

OnInjection = Literal["observe", "penalize", "refuse"]

HOSTILE = frozenset(
    "ignore_instructions score_demand verdict_forgery grader_address rubric_edit rubric_forgery "
    "template_token fence_tag tag".split()
)
"""Kinds of flags that a policy acts on. Of the 64 honest texts of tests/attacks.yaml two raise
one of them; of the 140 attacks that no rule decides, 95."""

PENALTY = 0.25
"""What `penalize` takes, as a share of the span from the floor to the highest reward. Stated, and
the same for one hostile phrase as for ten: a graded penalty is one more thing to optimise."""

REFUSED = "hostile_text"
"""`Judgement.rule` where `refuse` decided."""


def find_injection_flags(text: str) -> dict[str, int]:
    """Everything suspicious in a text, counted by kind."""
    cleaned = clean(text)
    return cleaned.flags | flag_phrases(cleaned.text)


def hostile(flags: Mapping[str, int]) -> bool:
    """Whether a policy other than `observe` acts on these flags."""
    return not HOSTILE.isdisjoint(flags)


def penalized(reward: float, floor: float, top: float) -> float:
    """A hostile text's reward: less by `PENALTY` of the span, and never below the floor."""
    return max(floor, reward - PENALTY * (top - floor))
