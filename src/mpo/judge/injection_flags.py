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

import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ..chat import Chat, ChatRequest, Completion, Metered
from ..rubric import Rubric
from ..sanitize import clean, flag_phrases

__all__ = [
    "HOSTILE",
    "PENALTY",
    "REFUSED",
    "OnInjection",
    "RubricWatch",
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


class RubricWatch(Metered):
    """A meter of a meta step that also counts flags in the rubrics that the MRM writes.

    The counts say what the answer held before it was read: reading takes out what is invisible.
    """

    def __init__(self, inner: Chat) -> None:
        super().__init__(inner)
        self.flags: dict[str, int] = {}
        """Flags that `clean` has found in the last rubric that was written."""

    async def complete(self, request: ChatRequest) -> Completion:
        completion = await super().complete(request)
        # The last one is the merge's, or the only one.
        schema = request.schema
        if schema is not None and schema.get("title") in ("rubric", "guidelines"):
            self.flags = clean("\n".join(_strings(_decoded(completion.text)))).flags
        return completion

    def figures(self, rubric: Rubric) -> dict[str, float]:
        """Counts for the decision, by `flag.<kind>`; empty where nothing was found.

        Args:
            rubric: The one that was proposed.
        """
        # Not its Markdown, whose headings are what a forged rubric looks like.
        texts = [rubric.title]
        for criterion in rubric.criteria:
            texts += [criterion.name, criterion.text, *(level.text for level in criterion.levels)]
        found = self.flags | flag_phrases("\n\n".join(texts))
        return {f"flag.{kind}": float(count) for kind, count in found.items()}


def _decoded(text: str) -> Any:
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text  # no rubric will come of it


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for part in value.values():
            yield from _strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from _strings(part)
