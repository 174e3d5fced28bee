"""Format of a judgement: how criteria are shown, the answer's schema, and reading it strictly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import starmap
from typing import Any

from ..chat import Schema
from ..chat.structured import unwrap
from ..errors import ChatReplyError
from ..records import CriterionScore
from ..rubric import Criterion, Rubric

__all__ = [
    "SCORE_FORMAT",
    "Keyed",
    "judgement_format",
    "judgement_schema",
    "parse_json",
    "parse_judgement",
    "parse_score",
    "render_criteria",
    "render_criterion",
    "score_schema",
]

Keyed = Sequence[tuple[str, Criterion]]
"""Criteria with their keys: `Rubric.keyed`, or some of it."""

# ---------------------------------------------------------------------- the prompt


def render_criteria(rubric: Rubric, criteria: Keyed | None = None) -> str:
    """The rubric as the RM and the MRM read it: each criterion with its key and allowed scores.

    Args:
        rubric: Gives the title.
        criteria: Only these, in this order; all if None.
    """
    parts = starmap(render_criterion, criteria or rubric.keyed)
    return "\n\n".join([f"# {rubric.title}", *parts])


def render_criterion(key: str, criterion: Criterion) -> str:
    """One criterion with its key and allowed scores."""
    allowed = ", ".join(map(str, criterion.scores))
    return f"{criterion.to_markdown()}\nKey: {key}. Allowed scores: {allowed}."


# ---------------------------------------------------------------------- the answer's shape


def judgement_format(criteria: Keyed) -> str:
    """The answer's shape in words: some servers ignore the schema in silence."""
    keys = '", "'.join(dict(criteria))
    return (
        f'Answer with one JSON object and nothing else. Its keys are exactly: "{keys}". '
        'Each value is an object {"rationale": "one sentence", "score": an allowed integer}.'
    )


def judgement_schema(criteria: Keyed) -> Schema:
    """JSON schema of a judgement: an object keyed by criterion, in the portable subset."""
    return {
        "title": "judgement",
        "type": "object",
        "additionalProperties": False,
        "required": list(dict(criteria)),
        "properties": {key: _criterion_schema(criterion) for key, criterion in criteria},
    }


def _criterion_schema(criterion: Criterion) -> Schema:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": ["rationale", "score"],
        # Property order is generation order: the reason comes before the score.
        "properties": {
            "rationale": {"type": "string"},
            "score": {"type": "integer", "enum": list(criterion.scores)},
        },
    }


SCORE_FORMAT = (
    'Answer with one JSON object and nothing else: {"score": one of the allowed integers}.'
)


def score_schema(criterion: Criterion) -> Schema:
    """JSON schema of a score turn, where the reasons were given before."""
    return {
        "title": "score",
        "type": "object",
        "additionalProperties": False,
        "required": ["score"],
        "properties": {"score": {"type": "integer", "enum": list(criterion.scores)}},
    }


# ---------------------------------------------------------------------- reading an answer


def parse_json(text: str) -> dict[str, Any]:
    """A model's JSON object, read strictly: no repair, no duplicate keys, no NaN.

    A code fence around the whole answer is taken off; raw control characters inside strings are let
    through, since grammar-constrained servers write them.

    Raises:
        ChatReplyError: The text is not one JSON object.
    """
    body = text.strip().lstrip("\ufeff")
    if not body.startswith("{"):
        body = unwrap(body)
    try:
        value = json.loads(
            body, strict=False, object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except (ValueError, RecursionError) as error:
        raise ChatReplyError(f"invalid_json: {error}") from error
    if not isinstance(value, dict):
        raise ChatReplyError("invalid_json: the answer is not an object")
    return value


def _unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"duplicate key {twice[:40]!r}")
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON value")


def parse_judgement(text: str, criteria: Keyed) -> tuple[CriterionScore, ...]:
    """Scores in the order of the criteria, taken from the schema's place and from nowhere else.

    Raises:
        ChatReplyError: Not JSON, wrong keys, or a score outside the criterion's closed set. A
            half-answered rubric is unscored as a whole.
    """
    answer = parse_json(text)
    _check_keys(answer, list(dict(criteria)))
    return tuple([_scored(key, criterion, answer[key]) for key, criterion in criteria])


def parse_score(text: str, key: str, criterion: Criterion, rationale: str) -> CriterionScore:
    """The score of a score turn, with the reasons that came before it.

    Raises:
        ChatReplyError: Not JSON, wrong keys, or a score outside the closed set.
    """
    answer = parse_json(text)
    _check_keys(answer, ["score"])
    return _scored(key, criterion, {"score": answer["score"], "rationale": rationale})


def _check_keys(answer: dict[str, Any], keys: Sequence[str]) -> None:
    if answer.keys() == set(keys):
        return
    missing = [key for key in keys if key not in answer]
    unknown = [key for key in answer if key not in keys]
    raise ChatReplyError(
        f"wrong_keys: missing {missing[:3]}, unknown {[key[:40] for key in unknown[:3]]}"
    )


def _scored(key: str, criterion: Criterion, entry: Any) -> CriterionScore:
    score = entry.get("score") if isinstance(entry, dict) else None
    if not isinstance(score, int) or isinstance(score, bool):
        raise ChatReplyError(f"invalid_score: criterion {key!r} has no integer score")
    if score not in criterion.scores:
        raise ChatReplyError(
            f"out_of_range: criterion {key!r} got {str(score)[:20]}, "
            f"not one of {list(criterion.scores)}"
        )
    rationale = entry.get("rationale")
    return CriterionScore(
        criterion=key, score=score, rationale=rationale if isinstance(rationale, str) else ""
    )
