"""Reading the published MPO code's rubrics: `<rubric><item>…`, and bracketed math guidelines."""

from __future__ import annotations

import re

from pydantic import ValidationError

from ..errors import RubricError
from .criterion import DEFAULT_SCORES, MAX_NAME, Criterion, Level
from .markdown import ReadRubric, finish, first_fault

__all__ = ["GUIDELINES_START", "read_guidelines", "read_items"]

GUIDELINES_START, _GUIDELINES_END = (
    "[Start of Meta-Level Guidelines]",
    "[End of Meta-Level Guidelines]",
)

_HEADING = re.compile(r"#{1,6}\s+(?P<name>.+)")
_LEVEL = re.compile(
    r"[-*]?\s*(?:\*\*)?(?:score\s+)?(?P<score>-?\d{1,3})(?:\s*points?)?(?:\*\*)?\s*:"
    r"\s*(?:\*\*)?\s*(?P<text>.*)",
    re.IGNORECASE,
)
_SCORE_HEADING = re.compile(r"#+\s.*score:?\s*\**(?P<score>-?\d{1,3})\**", re.IGNORECASE)
_SPAN = re.compile(
    r"(?:from\s+)?['\"]?(?P<low>-?\d{1,3})['\"]?\s{0,9}(?:\([^()]{0,99}\)\s{0,9})?"
    r"(?:to|through|[-–])\s{0,9}['\"]?(?P<high>\d{1,3})['\"]?"
)


def read_items(text: str) -> ReadRubric:
    """The `<rubric><item>` form. Text outside items is reported; the published code drops it.

    Raises:
        RubricError: No complete item, or one that breaks a bound.
    """
    bodies, outside = _items(text)
    notes: list[str] = []
    outside = outside.replace("<rubric>", " ").replace("</rubric>", " ")
    for chunk in re.split(r"\n\s*\n", outside):
        stray = " ".join(chunk.replace("<item>", " ").replace("</item>", " ").split())
        if stray:
            kind = "unclosed item" if "<item>" in chunk else "text outside items"
            notes.append(f"{kind}: {stray[:120]!r}" + ("…" if len(stray) > 120 else ""))
    criteria = [_criterion(body, number, notes) for number, body in enumerate(bodies, start=1)]
    if not criteria:
        raise RubricError("no criterion found: no complete <item>…</item> in the text")
    return finish(None, criteria, notes)


def _items(text: str) -> tuple[list[str], str]:
    """Bodies of the complete items, and the text around them with a newline for each."""
    bodies: list[str] = []
    outside: list[str] = []
    at = 0
    while (start := text.find("<item>", at)) >= 0:
        end = text.find("</item>", start)
        if end < 0:
            break
        outside.append(text[at:start])
        bodies.append(text[start + len("<item>") : end])
        at = end + len("</item>")
    return bodies, "\n".join([*outside, text[at:]])


def _criterion(body: str, number: int, notes: list[str]) -> Criterion:
    lines = [line.rstrip() for line in body.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    full = [n for n, line in enumerate(lines) if line]
    name, rest = _name(lines[full[0] : full[-1] + 1] if full else [], number)
    prose, ladder = _ladder(rest)
    text = "\n".join(prose)
    scores = tuple(ladder)
    if not ladder:
        scores, stated = _span(text or name)
        if not stated:
            notes.append(f"item {number} ({name!r}) states no scores: 0..5 assumed")
    try:
        levels = tuple(Level(score=s, text="\n".join(lines)) for s, lines in ladder.items())
        return Criterion(name=name, text=text, levels=levels, scores=scores)
    except ValidationError as error:
        raise RubricError(f"item {number} ({name[:60]!r}): {first_fault(error)}") from error


def _name(lines: list[str], number: int) -> tuple[str, list[str]]:
    """Name and remaining lines. Without a heading the first words serve and no line is taken."""
    if not lines:
        return f"Item {number}", []
    heading = _HEADING.fullmatch(lines[0])
    if heading is None:
        words = re.sub(r"[`#*]", "", lines[0]).split()
        return " ".join(words[:6])[:MAX_NAME].rstrip(".,:;") or f"Item {number}", lines
    name = heading["name"].replace("**", "").strip()
    head, colon, tail = name.partition(":")
    if colon and tail.strip() and head.strip():
        return head.strip(), [tail.strip(), *lines[1:]]
    return name.rstrip(":").strip() or f"Item {number}", lines[1:]


def _ladder(lines: list[str]) -> tuple[list[str], dict[int, list[str]]]:
    """Split an item into prose and the lines of its levels, by score in ascending order.

    Only a ladder of at least two different scores counts: a single numbered line is prose. On a
    score that is described twice the descriptions are joined.
    """
    prose: list[str] = []
    by_score: dict[int, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        match = _SCORE_HEADING.fullmatch(line) or _LEVEL.fullmatch(line.lstrip())
        if match:
            current = by_score.setdefault(int(match["score"]), [])
            current.append(match.groupdict().get("text") or "")
        elif current is not None:
            current.append(line)
        else:
            prose.append(line)
    if len(by_score) < 2:
        return lines, {}
    return prose, dict(sorted(by_score.items()))


def _span(text: str) -> tuple[tuple[int, ...], bool]:
    """Scores that prose names (`from 0 to 5`); False if it names none and the default stands."""
    match = _SPAN.search(text)
    if match:
        low, high = int(match["low"]), int(match["high"])
        if low < high <= low + 100:
            return tuple(range(low, high + 1)), True
    return DEFAULT_SCORES, False


def read_guidelines(text: str) -> ReadRubric:
    """Math guidelines: one free-text criterion, scored 0 to 5.

    Raises:
        RubricError: They are empty, or break a bound.
    """
    before, _, rest = text.partition(GUIDELINES_START)
    body, _, after = rest.partition(_GUIDELINES_END)
    notes = [f"text outside guidelines: {s.strip()[:120]!r}" for s in (before, after) if s.strip()]
    if not body.strip():
        raise RubricError("no criterion found: the guidelines are empty")
    try:
        criterion = Criterion(name="Guidelines", text=body)
    except ValidationError as error:
        raise RubricError(f"the guidelines: {first_fault(error)}") from error
    return finish(None, [criterion], notes)
