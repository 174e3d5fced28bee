"""Reading a rubric's Markdown: the inverse of `Rubric.to_markdown`, kind to files by hand.

Every step takes time in proportion to the text, whatever the text is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from ..errors import RubricError
from .criterion import DEFAULT_SCORES, STRUCTURE, Criterion, Level, Rubric, spanned

__all__ = ["Heading", "ReadRubric", "finish", "first_fault", "read_heading", "read_markdown"]

_LEVEL = re.compile(r"- (?P<score>[+-]?\d{1,6}):(?: (?P<text>.*))?")
_POINTS = re.compile(r"\(weight (?P<weight>[0-9.eE+-]+)(?:, scores (?P<scores>[0-9., -]+))?\)")


@dataclass(frozen=True)
class ReadRubric:
    """Content of a rubric file: the rubric, and notes on text that is not part of it."""

    rubric: Rubric
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Heading:
    """The first line of a criterion."""

    name: str
    weight: str | None
    """None where the heading names no weight."""
    scores: str | None


def read_heading(line: str) -> Heading | None:
    """The heading in a line without trailing blanks; None where it is no `## Name`."""
    if not line.startswith("## "):
        return None
    start = line.rfind("(weight ")
    points = _POINTS.fullmatch(line, start) if start > 0 else None
    if points is None or not line[3:start].strip():
        return Heading(line[3:], None, None)
    return Heading(line[3:start], points["weight"], points["scores"])


def read_markdown(text: str) -> ReadRubric:
    """Read the Markdown form.

    Raises:
        RubricError: No criterion in it, or one that breaks a bound; the message names the line.
    """
    title: str | None = None
    drafts: list[_Draft] = []
    notes: list[str] = []
    for number, line in enumerate(_numbered(text), start=1):
        heading = read_heading(line)
        level = _LEVEL.fullmatch(line)
        if heading:
            drafts.append(_Draft(heading, number, [], []))
        elif line.startswith("# ") and title is None and not drafts:
            title = line[2:].strip()
        elif not drafts:
            if line.strip():
                notes.append(f"line {number}: text outside criteria: {line.strip()[:120]!r}")
        elif level:
            drafts[-1].levels.append((int(level["score"]), [level["text"] or ""]))
        elif drafts[-1].levels and line.startswith("  "):
            drafts[-1].levels[-1][1].append(line)
        elif drafts[-1].levels:
            if line.strip():
                notes.append(f"line {number}: text after the levels: {line.strip()[:120]!r}")
        else:
            drafts[-1].text.append(_unescape(line))
    if not drafts:
        raise RubricError(
            "no criterion found: a rubric needs at least one '## Name' heading "
            "(or <item>…</item> in the published MPO form)"
        )
    return finish(title, [draft.build() for draft in drafts], notes)


def finish(title: str | None, criteria: Sequence[Criterion], notes: Sequence[str]) -> ReadRubric:
    """The rubric of the criteria that were read.

    Raises:
        RubricError: It breaks a bound.
    """
    try:
        rubric = Rubric(title=title or "Rubric", criteria=tuple(criteria))
    except ValidationError as error:
        raise RubricError(first_fault(error)) from error
    return ReadRubric(rubric, tuple(notes))


def first_fault(error: ValidationError) -> str:
    """The first fault of a record, in the words of its own check."""
    return str(error.errors(include_input=False)[0]["msg"]).removeprefix("Value error, ")


@dataclass
class _Draft:
    """A criterion while its lines are being read."""

    heading: Heading
    line: int
    text: list[str]
    levels: list[tuple[int, list[str]]]

    def build(self) -> Criterion:
        where = f"criterion {self.heading.name.strip()[:60]!r} (line {self.line})"
        ladder = tuple(score for score, _ in self.levels)
        scores = ladder if ladder else DEFAULT_SCORES
        if self.heading.scores is not None:
            scores = _read_scores(self.heading.scores, where)
        try:
            return Criterion(
                name=self.heading.name,
                text="\n".join(self.text),
                levels=tuple(Level(score=s, text="\n".join(lines)) for s, lines in self.levels),
                scores=scores,
                weight=_read_weight(self.heading.weight, where),
            )
        except ValidationError as error:
            raise RubricError(f"{where}: {first_fault(error)}") from error


def _read_weight(text: str | None, where: str) -> float:
    try:
        return float(text) if text is not None else 1.0
    except ValueError:
        raise RubricError(f"{where}: cannot read weight {text!r:.40}; write a number") from None


def _read_scores(text: str, where: str) -> tuple[int, ...]:
    try:
        if ".." in text:
            low, high = (int(part) for part in text.split(".."))
            return spanned(low, high)
        return tuple(int(part) for part in text.replace(",", " ").split())
    except (ValueError, RubricError) as error:
        raise RubricError(
            f"{where}: cannot read scores {text[:40]!r}; write 0..5 or 0, 3, 5 ({error})"
        ) from error


def _numbered(text: str) -> list[str]:
    text = text.removeprefix("\ufeff")
    return [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def _unescape(line: str) -> str:
    return line[1:] if line.startswith("\\") and STRUCTURE.match(line) else line
