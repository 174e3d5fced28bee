"""Format of the MRM's answers, and reading them strictly.

A `*_FORMAT` shows the model an example whose texts are descriptions of what belongs there. Small
models copy them word for word; such a text says nothing, so it counts as no answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

from pydantic import ValidationError

from ..chat import Schema
from ..errors import ChatReplyError, RubricError
from ..rubric import MAX_CRITERIA, Criterion, Level, Rubric, first_fault, spanned
from ..sanitize import clean

__all__ = [
    "ANALYSIS_FORMAT",
    "ANALYSIS_SCHEMA",
    "GUIDELINES_FORMAT",
    "GUIDELINES_SCHEMA",
    "PRESCREEN_FORMAT",
    "PRESCREEN_SCHEMA",
    "RUBRIC_FORMAT",
    "RUBRIC_SCHEMA",
    "copies_example",
    "count_flags",
    "read_answer",
    "read_choice",
    "read_guidelines",
    "read_reasons",
    "read_text",
]


def _object(title: str, **properties: Any) -> Schema:
    """Schema of an object with all properties required, in the portable subset."""
    return {
        "title": title,
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


_TEXT = {"type": "string"}
_INTEGER = {"type": "integer"}


def _part(**properties: Any) -> dict[str, Any]:
    schema = dict(_object("", **properties))
    del schema["title"]
    return schema


PRESCREEN_FORMAT = (
    'Answer with one JSON object: {"reason": "one sentence", "label": "good" | "ok" | "bad"}.'
)
PRESCREEN_SCHEMA = _object(
    "prescreen", reason=_TEXT, label={"type": "string", "enum": ["good", "ok", "bad"]}
)

ANALYSIS_FORMAT = (
    'Answer with one JSON object: {"findings": "what the grading missed, at most 300 words", '
    '"verdict": "too_high" | "fair" | "too_low", '
    '"advice": "what the rubric should ask for, at most 200 words"}.'
)
ANALYSIS_SCHEMA = _object(
    "analysis",
    findings=_TEXT,
    verdict={"type": "string", "enum": ["too_high", "fair", "too_low"]},
    advice=_TEXT,
)

RUBRIC_FORMAT = (
    'Answer with one JSON object: {"reasons": "why, at most 100 words", "criteria": [{"name": '
    '"short name", "text": "what to look at", "weight": 1, "lowest": 0, "highest": 5, "levels": '
    '[{"score": 0, "text": "what this score means"}, …]}, …]}. Levels ascend and lie between '
    "lowest and highest; scores are integers."
)
RUBRIC_SCHEMA = _object(
    "rubric",
    reasons=_TEXT,
    criteria={
        "type": "array",
        "items": _part(
            name=_TEXT,
            text=_TEXT,
            weight={"type": "number"},
            lowest=_INTEGER,
            highest=_INTEGER,
            levels={"type": "array", "items": _part(score=_INTEGER, text=_TEXT)},
        ),
    },
)

GUIDELINES_FORMAT = (
    'Answer with one JSON object: {"reasons": "why, at most 100 words", '
    '"guidelines": "the whole new guidelines, at most 1000 words"}.'
)
GUIDELINES_SCHEMA = _object("guidelines", reasons=_TEXT, guidelines=_TEXT)

_PLACEHOLDERS = frozenset(
    text.lower()
    for shape in (ANALYSIS_FORMAT, RUBRIC_FORMAT, GUIDELINES_FORMAT)
    # A text of the example; where " |" follows, the quote is a value that may be chosen.
    for text in re.findall(r'": "([^"]+)"(?! \|)', shape)
)


def copies_example(text: str) -> bool:
    """True for a placeholder of the format's own example, whatever punctuation is around it."""
    words = re.search(r"\w(?:.*\w)?", text, re.DOTALL)
    return words is not None and words[0].lower() in _PLACEHOLDERS


def count_flags(answer: Mapping[str, Any]) -> dict[str, int]:
    """Signs of an injection in all texts of an answer, by kind, before reading cleans them."""
    return clean("\n".join(_strings(answer))).flags


def _strings(answer: Mapping[str, Any]) -> Iterable[str]:
    """All texts in an answer, however deep it is nested, in no order."""
    rest: list[Any] = [answer]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping):
            rest.extend(value.values())
        elif isinstance(value, list):
            rest.extend(value)


def read_choice(answer: Mapping[str, Any], key: str, allowed: Sequence[str]) -> str:
    """A value out of a closed set.

    Raises:
        ChatReplyError: Another value, or none.
    """
    value = answer.get(key)
    if value not in allowed:
        raise ChatReplyError(f"wrong_keys: {key!r} must be one of {list(allowed)}")
    return str(value)


def read_text(answer: Mapping[str, Any], key: str) -> str:
    """A text, cleaned: models and people will read it.

    Raises:
        ChatReplyError: No text.
    """
    value = answer.get(key)
    if not isinstance(value, str):
        raise ChatReplyError(f"wrong_keys: {key!r} must be text")
    return clean(value).text


def read_reasons(answer: Mapping[str, Any], key: str = "reasons") -> str:
    """A text in the model's own words, cleaned like `read_text`.

    Raises:
        ChatReplyError: No text, or a copy of the format's example (`copied_example`).
    """
    text = read_text(answer, key)
    if copies_example(text):
        raise ChatReplyError(f"copied_example: {key!r} repeats the example of the answer's format")
    return text


def read_guidelines(answer: Mapping[str, Any], parent: Rubric) -> Rubric:
    """The guidelines in an MRM answer: the parent's criterion with a new text, same scores.

    Raises:
        ChatReplyError: No text, an empty one, or one that breaks a bound of `Rubric`.
    """
    text = read_text(answer, "guidelines")
    if not text.strip():
        raise ChatReplyError("no_criteria: the proposed guidelines are empty")
    (old,) = parent.criteria
    try:
        new = Criterion(
            name=old.name, text=text, levels=old.levels, scores=old.scores, weight=old.weight
        )
        return Rubric(title=parent.title, criteria=(new,))
    except ValidationError as error:
        raise ChatReplyError(f"invalid_rubric: {first_fault(error)}") from error


def read_answer(answer: Mapping[str, Any], title: str) -> Rubric:
    """The rubric in an MRM answer. Names and texts are cleaned; the title stays the parent's.

    Raises:
        ChatReplyError: No list of criteria, or one that breaks a bound of `Criterion` or `Rubric`.
    """
    entries = answer.get("criteria")
    if not isinstance(entries, list) or not entries:
        raise ChatReplyError("no_criteria: the proposed rubric has no criterion")
    if len(entries) > MAX_CRITERIA:  # before thousands of them are read
        raise ChatReplyError(
            f"invalid_rubric: {len(entries):,} criteria; a rubric has at most {MAX_CRITERIA}"
        )
    try:
        return Rubric(title=title, criteria=tuple(_read_criterion(entry) for entry in entries))
    except ValidationError as error:
        raise ChatReplyError(f"invalid_rubric: {first_fault(error)}") from error
    except RubricError as error:
        raise ChatReplyError(f"invalid_rubric: {error}") from error


def _read_criterion(entry: Any) -> Criterion:
    if not isinstance(entry, dict):
        raise RubricError("a criterion must be an object")
    low, high = entry.get("lowest"), entry.get("highest")
    name, levels = read_text(entry, "name"), entry.get("levels") or []
    where = f"criterion {name[:60]!r}"
    if not _is_int(low) or not _is_int(high):
        raise RubricError(f"{where}: lowest and highest must be integers")
    scores = spanned(low, high)
    if not isinstance(levels, list) or len(levels) > len(scores):
        raise RubricError(f"{where}: levels must be a list, at most one for each score")
    return Criterion(
        name=name,
        text=read_text(entry, "text"),
        levels=tuple(_read_level(level) for level in levels),
        scores=scores,
        weight=entry.get("weight", 1),
    )


def _read_level(entry: Any) -> Level:
    if not isinstance(entry, dict) or not _is_int(entry.get("score")):
        raise RubricError("a level must be an object with an integer score")
    return Level(score=entry["score"], text=read_text(entry, "text"))


def _is_int(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
