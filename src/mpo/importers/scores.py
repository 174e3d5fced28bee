"""What the published RM answered: `<reason>…</reason> <score>…</score>`, one pair per criterion."""

from __future__ import annotations

import math
import re
from typing import Any

from ..records import CriterionScore
from ..rubric import Rubric

__all__ = ["UnparsedError", "read_scores"]

_PAIR = re.compile(r"<reason>(.*?)</reason>\s*<score>\s*([+-]?\d{1,6})\s*</score>", re.DOTALL)
_OPENING = re.compile(r"<score>")


class UnparsedError(Exception):
    """The answers do not fit the rubric; the text starts with one word for statistics."""


def read_scores(answers: Any, total: Any, rubric: Rubric) -> tuple[CriterionScore, ...]:
    """The scores by criterion, in the rubric's order.

    Args:
        answers: `junior_evaluations`: one text per criterion, or a single text.
        total: `junior_scores`, their sum.
        rubric: That was in force.

    Raises:
        UnparsedError: Their number or range does not fit the rubric, or they do not add up. The
            published parser takes the first digits that it finds and checks neither.
    """
    texts = answers if isinstance(answers, list) else [answers]
    if not all(isinstance(text, str) for text in texts):
        raise UnparsedError("no_text: the evaluations are not text")
    pairs = [pair for text in texts for pair in _PAIR.findall(text)]
    opened = sum(len(_OPENING.findall(text)) for text in texts)
    if opened != len(pairs):
        raise UnparsedError(
            f"broken_tags: {opened} <score> tags, {len(pairs)} of them after a whole <reason>"
        )
    wanted = len(rubric.criteria)
    if len(pairs) != wanted:
        raise UnparsedError(f"wrong_number: {len(pairs)} scores for {wanted} criteria")
    scores = []
    keyed = zip(rubric.criterion_ids, rubric.criteria, pairs, strict=True)
    for key, criterion, (reason, digits) in keyed:
        score = int(digits)
        if score not in criterion.scores:
            raise UnparsedError(
                f"out_of_range: criterion {key!r} got {score}, its scores are "
                f"{criterion.scores[0]} to {criterion.scores[-1]}"
            )
        scores.append(CriterionScore(criterion=key, score=score, rationale=reason.strip()))
    if not isinstance(total, int | float) or isinstance(total, bool) or not math.isfinite(total):
        raise UnparsedError(f"no_sum: junior_scores is {total!r:.40}")
    added = sum(s.score for s in scores)
    if added != total:
        raise UnparsedError(f"wrong_sum: the scores add up to {added}, junior_scores is {total:g}")
    return tuple(scores)
