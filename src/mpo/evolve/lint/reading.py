"""A rubric text taken apart for the rules: criteria, and the text before, behind and between.

The reader of `mpo.rubric` says what a rubric means. The linter must also see what that reader
drops (an item that is never closed) or refuses (levels out of order), so it keeps the text.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from ...errors import RubricError
from ...rubric import Criterion, ReadRubric, Rubric, read_rubric, rubric_form

__all__ = ["Part", "RubricReading", "count_levels", "read"]

_MD_LEVEL = re.compile(r"^- ([+-]?\d{1,6}):")
# A line of a ladder without its outer blanks: "- 5:", "**5**:", "5 points:", "## … Score: **5**".
_LADDER_LINE = re.compile(
    r"[-*]?\s*(?:\*\*)?(?:score\s+)?(-?\d{1,3})(?:\s*points?)?(?:\*\*)?\s*:"
    r"|#+\s.*score:?\s*\**(-?\d{1,3})\**$",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Part:
    """One piece of prose: a criterion's text, or one of its levels."""

    number: int
    """Number of the criterion, from 1."""
    name: str
    text: str
    score: int | None = None
    rank: float | None = None
    """Place of the level among its criterion's scores: 0 for the lowest, 1 for the highest."""

    @property
    def place(self) -> str:
        where = f'criterion {self.number} "{self.name[:40]}"'
        return where if self.score is None else f"{where}, level {self.score}"


@dataclass(frozen=True)
class RubricReading:
    """Everything that the rules look at."""

    text: str
    """The file; the Markdown form where the linter was given a `Rubric`."""
    rubric: Rubric | None
    notes: tuple[str, ...] = ()
    fault: str = ""
    """Reason that the reader refuses the text; empty if it accepts it."""
    unsorted: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Ladders of the text that neither ascend nor descend, by criterion."""
    from_text: bool = True
    """False where the linter was given a `Rubric`: its title and headings are ours."""

    def parts(self) -> Iterator[Part]:
        """Criterion texts and levels, in order."""
        for number, criterion in enumerate(self.rubric.criteria if self.rubric else (), start=1):
            yield from parts_of(number, criterion)

    @cached_property
    def items(self) -> bool:
        """True for the `<item>` form of the published code."""
        return rubric_form(self.text) == "items"


def parts_of(number: int, criterion: Criterion) -> Iterator[Part]:
    """The pieces of one criterion: its text, then its levels."""
    if criterion.text.strip():
        yield Part(number, criterion.name, criterion.text)
    low, high = criterion.scores[0], criterion.scores[-1]
    for level in criterion.levels:
        rank = (level.score - low) / (high - low)
        yield Part(number, criterion.name, level.text, level.score, rank)


def read(source: str | Rubric | ReadRubric) -> RubricReading:
    """Take a rubric apart; never raises."""
    if isinstance(source, ReadRubric):
        return RubricReading(
            source.rubric.to_markdown(), source.rubric, source.notes, from_text=False
        )
    if isinstance(source, Rubric):
        return RubricReading(source.to_markdown(), source, from_text=False)
    text = source.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    unsorted = tuple(_unsorted(text))
    try:
        result = read_rubric(text)
    except RubricError as error:
        return _sorted(text, str(error), unsorted)
    return RubricReading(text, result.rubric, result.notes, unsorted=unsorted)


def _sorted(
    text: str, fault: str, unsorted: tuple[tuple[str, tuple[int, ...]], ...]
) -> RubricReading:
    """Read once more with the levels of a Markdown rubric put in order, each score once."""
    try:
        result = read_rubric(_sort_levels(text))
    except RubricError:
        return RubricReading(text, None, fault=fault, unsorted=unsorted)
    return RubricReading(text, result.rubric, result.notes, fault=fault, unsorted=unsorted)


def _sort_levels(text: str) -> str:
    lines: list[str] = []
    levels: dict[int, list[str]] = {}

    def flush() -> None:
        for score in sorted(levels):
            lines.extend(levels[score])
        levels.clear()

    current: list[str] | None = None
    for line in text.split("\n"):
        match = _MD_LEVEL.match(line)
        if match:
            score = int(match[1])
            # A score that is described twice keeps its first description.
            current = [] if score in levels else levels.setdefault(score, [])
            current.append(line)
        elif levels and line.startswith("  ") and current is not None:
            current.append(line)
        elif levels and not line.strip():
            continue
        else:
            flush()
            current = None
            lines.append(line)
    flush()
    return "\n".join(lines)


def _unsorted(text: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Levels that neither ascend nor descend, with the criterion's heading."""
    if rubric_form(text) == "items":
        blocks = re.findall(r"<item>(.*?)(?:</item>|\Z)", text, re.DOTALL)
    else:
        blocks = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    for number, block in enumerate(blocks, start=1):
        lines = [line for line in block.split("\n") if line.strip()]
        name = lines[0].lstrip("# ").strip() if lines else ""
        name = name.partition("(weight ")[0].rstrip()
        ladder = tuple(_ladder(block))
        # "#### Score: **3**" followed by "Score 3: …" is one level that is named twice.
        ladder = tuple(s for n, s in enumerate(ladder) if n == 0 or s != ladder[n - 1])
        up = all(a < b for a, b in itertools.pairwise(ladder))
        down = all(a > b for a, b in itertools.pairwise(ladder))
        if not (up or down):
            yield f'criterion {number} "{name[:40]}"', ladder


def count_levels(text: str) -> int:
    """Lines of the text that open a level."""
    return len(_ladder(text))


def _ladder(text: str) -> list[int]:
    matches = (_LADDER_LINE.match(line.strip()) for line in text.split("\n"))
    return [int(match[1] or match[2]) for match in matches if match]
