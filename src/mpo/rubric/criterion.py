"""The content of a rubric, the bounds of what a rubric may be, and its Markdown.

The bounds hold for every rubric, wherever it comes from: a file, a store, a model. Within them no
sum overflows, an RM's prompt stays readable, and an answer's schema stays within what servers take.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from functools import cached_property
from operator import attrgetter
from typing import Annotated

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    StrictInt,
    field_validator,
    model_validator,
)

from ..errors import RubricError

__all__ = [
    "DEFAULT_SCORES",
    "MAX_CRITERIA",
    "MAX_NAME",
    "STRUCTURE",
    "Criterion",
    "Level",
    "Rubric",
    "diff_rubrics",
    "spanned",
]

DEFAULT_SCORES = (0, 1, 2, 3, 4, 5)
"""Scores of a criterion that names none: the paper's 0 to 5 (arXiv 2504.20157, §3.2)."""

MAX_CRITERIA = 100
"""Most criteria of a rubric; the recorded run's largest has 11."""
MAX_NAME = 300
"""Longest name of a criterion and longest title, in characters."""
MAX_TEXT = 50_000
"""Longest text of a criterion or of a level, in characters."""
MAX_SIZE = 200_000
"""Longest rubric, in characters as an RM reads it: its Markdown and the lists of its scores."""
MIN_WEIGHT, MAX_WEIGHT = 1e-6, 1e6
"""Smallest and largest weight."""
MAX_SCORE = 100_000
"""Largest score; the lowest is its negative."""
MAX_SCORES = 101
"""Most scores of a criterion (0 to 100); servers hold an answer to a few hundred values at most."""

STRUCTURE = re.compile(r"^\\*(#{1,2} |- [+-]?\d{1,6}:)")
"""Line of a text that would read as a heading or a level.

It gets a backslash; one that has backslashes before such structure gets one more, so that reading
can always take exactly one away."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))


def _writable(text: object) -> object:
    """The text without lone surrogates, which no file can hold."""
    return _LONE_SURROGATE.sub("\ufffd", text) if isinstance(text, str) else text


_Text = Annotated[str, BeforeValidator(_writable)]


def _one_line(text: str, what: str) -> str:
    text = " ".join(text.split())
    if len(text) > MAX_NAME:
        raise ValueError(
            f"{what} has {len(text):,} characters, {text[:40]!r}…; shorten it to {MAX_NAME}"
        )
    return text


def _lines(text: str) -> list[str]:
    """Lines without trailing blanks; only `\\n` ends a line, whatever else the text holds."""
    if len(text) > MAX_TEXT:
        raise ValueError(
            f"a text has {len(text):,} characters, {text[:40]!r}…; shorten it to {MAX_TEXT:,}"
        )
    return [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def _shown(number: int) -> str:
    """The number; a size instead of hundreds of digits."""
    return str(number) if abs(number) < 10**20 else f"an integer of {number.bit_length()} bits"


class Level(_Frozen):
    """Meaning of one score."""

    score: StrictInt
    """One of the criterion's scores."""
    text: _Text = ""
    """Its lines are stripped, and blank ones dropped; at most 50,000 characters."""

    @field_validator("text")
    @classmethod
    def _tidy(cls, text: str) -> str:
        return "\n".join(line.strip() for line in _lines(text) if line.strip())


class Criterion(_Frozen):
    """One thing that is scored."""

    name: _Text
    """One line of 1 to 300 characters."""
    text: _Text = ""
    """Instructions for the grader; may have several lines, at most 50,000 characters."""
    levels: tuple[Level, ...] = ()
    """Ascending by score; not every score needs one."""
    scores: tuple[StrictInt, ...] = DEFAULT_SCORES
    """The closed set, ascending, of 2 to 101 integers from -100,000 to 100,000."""
    weight: float = 1.0
    """From 0.000001 to 1,000,000."""

    @field_validator("name")
    @classmethod
    def _named(cls, name: str) -> str:
        name = _one_line(name, "a criterion's name")
        if not name:
            raise ValueError("a criterion needs a name")
        return name

    @field_validator("text")
    @classmethod
    def _tidy(cls, text: str) -> str:
        lines = _lines(text)
        full = [number for number, line in enumerate(lines) if line]
        return "\n".join(lines[full[0] : full[-1] + 1]) if full else ""

    @field_validator("weight", mode="before")
    @classmethod
    def _weighty(cls, weight: object) -> object:
        if not isinstance(weight, int | float) or isinstance(weight, bool):
            raise ValueError(f"the weight must be a number, not {repr(weight)[:40]}")
        # Before it becomes a float, which an integer of 400 digits cannot. NaN fails too.
        if not MIN_WEIGHT <= weight <= MAX_WEIGHT:
            shown = _shown(weight) if isinstance(weight, int) else repr(weight)
            raise ValueError(
                f"the weight must be a positive number from {MIN_WEIGHT:g} to {MAX_WEIGHT:,.0f}, "
                f"not {shown}"
            )
        return weight

    @model_validator(mode="after")
    def _closed_set(self) -> Criterion:
        where = f"criterion {self.name[:60]!r}"
        _check_scores(where, self.scores)
        ladder = [level.score for level in self.levels]
        strays = [_shown(score) for score in ladder if score not in self.scores]
        if strays:
            raise ValueError(
                f"{where}: levels {', '.join(strays[:5])} are not among the scores "
                f"{list(self.scores)}"
            )
        if ladder != sorted(set(ladder)):
            raise ValueError(f"{where}: levels must ascend, one each; got {ladder[:MAX_SCORES]}")
        return self

    def to_markdown(self) -> str:
        """The criterion's part of the rubric file, without a final newline."""
        implied = tuple(map(attrgetter("score"), self.levels)) or DEFAULT_SCORES
        scores = "" if implied == self.scores else f", scores {_print_scores(self.scores)}"
        short = f"{self.weight:g}"  # 1 and 0.5; a third needs all its digits to be read back
        weight = short if float(short) == self.weight else repr(self.weight)
        lines = [f"## {self.name}  (weight {weight}{scores})"]
        if self.text:
            lines += map(_escape, self.text.split("\n"))
        for level in self.levels:
            text = level.text.replace("\n", "\n  ")
            lines.append(f"- {level.score}: {text}".rstrip())
        return "\n".join(lines)


def spanned(low: int, high: int) -> tuple[int, ...]:
    """The scores from `low` to `high`.

    Raises:
        RubricError: A criterion cannot have them; found without counting them up.
    """
    fits = -MAX_SCORE <= low < high <= MAX_SCORE and high - low < MAX_SCORES
    if not fits:
        raise RubricError(
            f"scores from {_shown(low)} to {_shown(high)}: lowest and highest must be at most "
            f"{MAX_SCORES - 1} apart, from {-MAX_SCORE:,} to {MAX_SCORE:,}"
        )
    return tuple(range(low, high + 1))


def _check_scores(where: str, scores: tuple[int, ...]) -> None:
    if len(scores) > MAX_SCORES:
        raise ValueError(f"{where}: {len(scores):,} scores; it may have {MAX_SCORES}, as in 0..100")
    if len(scores) < 2 or list(scores) != sorted(set(scores)):
        raise ValueError(
            f"{where}: scores must be two or more integers in ascending order, each once; got "
            f"[{', '.join(map(_shown, scores))}]"
        )
    if scores[0] < -MAX_SCORE or scores[-1] > MAX_SCORE:
        raise ValueError(
            f"{where}: scores must lie from {-MAX_SCORE:,} to {MAX_SCORE:,}; they go from "
            f"{_shown(scores[0])} to {_shown(scores[-1])}"
        )


def _print_scores(scores: tuple[int, ...]) -> str:
    if len(scores) > 2 and scores == tuple(range(scores[0], scores[-1] + 1)):
        return f"{scores[0]}..{scores[-1]}"
    return ", ".join(str(score) for score in scores)


def _escape(line: str) -> str:
    return "\\" + line if STRUCTURE.match(line) else line


class Rubric(_Frozen):
    """An ordered list of 1 to 100 criteria, of 200,000 characters together.

    Raises:
        pydantic.ValidationError: A bound is broken (a `ValueError`); the message names it.
    """

    title: _Text = "Rubric"
    """One line of at most 300 characters."""
    criteria: tuple[Criterion, ...]

    @field_validator("title")
    @classmethod
    def _titled(cls, title: str) -> str:
        return _one_line(title, "the title") or "Rubric"

    @field_validator("criteria")
    @classmethod
    def _bounded(cls, criteria: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
        if not criteria:
            raise ValueError("a rubric needs at least one criterion")
        if len(criteria) > MAX_CRITERIA:
            raise ValueError(
                f"a rubric has at most {MAX_CRITERIA} criteria; this one has {len(criteria):,}"
            )
        size = sum(len(c.to_markdown()) + len(str(c.scores)) for c in criteria)
        if size > MAX_SIZE:
            raise ValueError(
                f"the rubric has {size:,} characters, its scores included; shorten it to "
                f"{MAX_SIZE:,}"
            )
        return criteria

    @cached_property
    def id(self) -> str:
        """16 hex digits of SHA-256 over the content; the same in every process."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @cached_property
    def criterion_ids(self) -> tuple[str, ...]:
        """One key per criterion, `[a-z0-9_]` only, unique: the keys of the RM's JSON answer."""
        ids: list[str] = []
        for number, criterion in enumerate(self.criteria, start=1):
            slug = re.sub(r"[^a-z0-9]+", "_", criterion.name.lower()).strip("_")[:40].strip("_")
            slug = slug or f"criterion_{number}"
            unique, suffix = slug, 2
            while unique in ids:
                unique, suffix = f"{slug}_{suffix}", suffix + 1
            ids.append(unique)
        return tuple(ids)

    @cached_property
    def keyed(self) -> tuple[tuple[str, Criterion], ...]:
        """The criteria with their keys (`criterion_ids`)."""
        return tuple(zip(self.criterion_ids, self.criteria, strict=True))

    @cached_property
    def score_range(self) -> tuple[float, float]:
        """Lowest and highest weighted sum that a rollout can get."""
        low = high = 0.0
        for criterion in self.criteria:
            low += criterion.weight * criterion.scores[0]
            high += criterion.weight * criterion.scores[-1]
        return low, high

    def to_markdown(self) -> str:
        """The rubric file; ends with a newline."""
        parts = [f"# {self.title}", *(criterion.to_markdown() for criterion in self.criteria)]
        return "\n".join(parts) + "\n"


def diff_rubrics(old: Rubric, new: Rubric) -> str:
    """Changes for a person to read: one line per criterion, then a unified diff of the files.

    Empty if nothing changed.
    """
    if old == new:
        return ""
    before = {c.name: c for c in old.criteria}
    after = {c.name: c for c in new.criteria}
    lines = [f"+ criterion added: {name}" for name in after if name not in before]
    lines += [f"- criterion removed: {name}" for name in before if name not in after]
    lines += [
        f"~ criterion changed: {name}"
        for name in after
        if name in before and after[name] != before[name]
    ]
    was, now = (rubric.to_markdown().removesuffix("\n").split("\n") for rubric in (old, new))
    unified = difflib.unified_diff(was, now, old.id, new.id, lineterm="")
    return "\n".join([*lines, *unified]) + "\n"
