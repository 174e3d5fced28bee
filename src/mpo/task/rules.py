"""Task rules: they decide a reward without a call to the RM."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ..sanitize import Cleaned, count_words, precheck
from . import AnswerOnly, MinWords, Requires, Rule, TaskSpec

__all__ = ["Box", "RuleHit", "boxes", "first_rule", "without_boxes"]


@dataclass(frozen=True)
class RuleHit:
    """A rule that has decided."""

    name: str
    """Name for the judgement."""
    raw: float | None = None
    """Reward that the rule states for the scale `raw`."""


def first_rule(spec: TaskSpec, cleaned: Cleaned) -> RuleHit | None:
    """The first rule that fires: the common ones (empty, a master key, …), then the task's.

    Args:
        spec: The task with its rules.
        cleaned: The policy's text after `clean`: what a reader cannot see satisfies no rule.
    """
    text = cleaned.text
    common = precheck(text, spec.response.min_words)
    if common is not None:
        return RuleHit(common)
    for rule in spec.rules:
        if _fires(rule, text):
            return RuleHit(rule.title, rule.raw)
    return None


def _fires(rule: Rule, text: str) -> bool:
    if isinstance(rule, Requires):
        return re.search(rule.pattern, text) is None
    if isinstance(rule, MinWords):
        counted = re.sub(rule.without, " ", text) if rule.without else text
        return count_words(counted) < rule.words
    if isinstance(rule, AnswerOnly):
        return count_words(without_boxes(text)) < rule.words
    raise AssertionError(f"no such rule: {rule!r}")


def without_boxes(text: str) -> str:
    """The text without its boxed answers."""
    parts: list[str] = []
    at = 0
    for box in boxes(text):
        parts.append(text[at : box.start])
        at = box.end
    return "".join([*parts, text[at:]])


@dataclass(frozen=True)
class Box:
    """A boxed answer: `text[start:end]` is all of it."""

    start: int
    end: int
    content: str | None
    """None where the box is not closed: the answer was cut off."""


_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])\s*(?P<open>\{)?")


def boxes(text: str) -> Iterator[Box]:
    """The boxed answers of a solution in order, braces matched; of nested ones the outer."""
    at = 0
    while match := _BOX.search(text, at):
        if match["open"]:
            at, closed = _closing(text, match.end())
            content = text[match.end() : at - 1] if closed else None
        else:  # `\boxed 5`
            bare = re.compile(r"[^\s${}]*").match(text, match.end())
            assert bare is not None
            at, content = max(bare.end(), match.end()), bare[0]
        yield Box(match.start(), at, content)


def _closing(text: str, at: int) -> tuple[int, bool]:
    """End of the brace that was opened before `at`, and True if it is closed."""
    depth = 1
    for brace in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, at):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0:
            return brace.end(), True
    return len(text), False
