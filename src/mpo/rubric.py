"""Rubric: an ordered list of criteria. Content only; its id is the hash of its content.

The file form is Markdown, made to be edited by a person, and round-trips exactly:

    # Essay: discourse
    ## Logical flow  (weight 1)
    How ideas follow from each other.
    - 0: no order can be seen
    - 3: ordered, with jumps
    - 5: each paragraph prepares the next

A criterion's score comes from a closed set of integers: the listed levels, or, where not every
score has a level, the set named in the heading: `(weight 1, scores 0..5)`. Without either, 0..5.

`read_rubric` also reads the `<rubric><item>…` text of the published MPO code and its bracketed
math guidelines, and reports in `ReadRubric.notes` what it could not place.

>>> rubric = parse_rubric("# Essay\\n## Flow  (weight 1)\\nIdeas follow.\\n- 0: no\\n- 1: yes\\n")
>>> rubric.criteria[0].scores
(0, 1)
>>> parse_rubric(rubric.to_markdown()) == rubric
True
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
from dataclasses import dataclass
from functools import cached_property

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator

from .errors import RubricError

__all__ = [
    "Criterion",
    "Level",
    "ReadRubric",
    "Rubric",
    "diff_rubrics",
    "parse_rubric",
    "read_rubric",
]

DEFAULT_SCORES = (0, 1, 2, 3, 4, 5)
"""Scores of a criterion that names none: the paper's 0 to 5 (arXiv 2504.20157, §3.2)."""

_HEADING = re.compile(
    r"^## (?P<name>.+?)\s*"
    r"(?:\(weight (?P<weight>[0-9.eE+-]+)(?:, scores (?P<scores>[0-9., -]+))?\))?\s*$"
)
_LEVEL = re.compile(r"^- (?P<score>[+-]?\d{1,6}):(?: (?P<text>.*))?$")
# A text line that would read as structure gets a backslash; one that has backslashes before such
# structure gets one more, so that parsing can always take exactly one away.
_STRUCTURE = re.compile(r"^\\*(#{1,2} |- [+-]?\d{1,6}:)")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", ignored_types=(cached_property,))


def _normal_lines(text: str) -> list[str]:
    """Lines without trailing blanks; only `\\n` ends a line, whatever else the text holds."""
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    return lines


class Level(_Frozen):
    """Meaning of one score."""

    score: int
    text: str = ""

    @field_validator("text")
    @classmethod
    def _tidy(cls, text: str) -> str:
        return "\n".join(line.strip() for line in _normal_lines(text) if line.strip())


class Criterion(_Frozen):
    """One thing that is scored."""

    name: str
    """One line, not empty."""
    text: str = ""
    """Instructions for the grader; may have several lines."""
    levels: tuple[Level, ...] = ()
    """Ascending by score; not every score needs one."""
    scores: tuple[int, ...] = DEFAULT_SCORES
    """The closed set, ascending, at least two; may include negatives."""
    weight: float = 1.0
    """Above 0."""

    @field_validator("name")
    @classmethod
    def _one_line(cls, name: str) -> str:
        name = " ".join(name.split())
        if not name:
            raise ValueError("a criterion needs a name")
        return name

    @field_validator("text")
    @classmethod
    def _tidy(cls, text: str) -> str:
        return "\n".join(_normal_lines(text))

    @field_validator("weight")
    @classmethod
    def _positive(cls, weight: float) -> float:
        if not (math.isfinite(weight) and weight > 0):
            raise ValueError(f"the weight must be a positive number, not {weight!r}")
        return weight

    @model_validator(mode="after")
    def _closed_set(self) -> Criterion:
        if len(self.scores) < 2 or list(self.scores) != sorted(set(self.scores)):
            raise ValueError(
                f"criterion {self.name!r}: scores must be two or more integers in ascending "
                f"order, each once; got {list(self.scores)}"
            )
        ladder = [level.score for level in self.levels]
        if ladder != sorted(set(ladder)):
            raise ValueError(f"criterion {self.name!r}: levels must ascend, one each; got {ladder}")
        strays = [score for score in ladder if score not in self.scores]
        if strays:
            raise ValueError(
                f"criterion {self.name!r}: levels {strays} are not among the scores "
                f"{list(self.scores)}"
            )
        return self

    def to_markdown(self) -> str:
        """The criterion's part of the rubric file, without a final newline."""
        implied = tuple([level.score for level in self.levels]) or DEFAULT_SCORES
        scores = "" if implied == self.scores else f", scores {_print_scores(self.scores)}"
        lines = [f"## {self.name}  (weight {self.weight:g}{scores})"]
        if self.text:
            lines += map(_escape, self.text.split("\n"))
        for level in self.levels:
            text = level.text.replace("\n", "\n  ")
            lines.append(f"- {level.score}: {text}".rstrip())
        return "\n".join(lines)


class Rubric(_Frozen):
    """An ordered list of criteria, at least one."""

    title: str = "Rubric"
    criteria: tuple[Criterion, ...]

    @field_validator("title")
    @classmethod
    def _one_line(cls, title: str) -> str:
        return " ".join(title.split()) or "Rubric"

    @field_validator("criteria")
    @classmethod
    def _some(cls, criteria: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
        if not criteria:
            raise ValueError("a rubric needs at least one criterion")
        return criteria

    @cached_property
    def id(self) -> str:
        """16 hex digits of SHA-256 over the content; the same in every process."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]

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


@dataclass(frozen=True)
class ReadRubric:
    """Content of a rubric file: the rubric, and notes on text that is not part of it."""

    rubric: Rubric
    notes: tuple[str, ...] = ()


def parse_rubric(text: str) -> Rubric:
    """`read_rubric` without the notes.

    Raises:
        RubricError: See `read_rubric`.
    """
    return read_rubric(text).rubric


def read_rubric(text: str) -> ReadRubric:
    """Read a rubric in any known form: Markdown, `<item>` text, bracketed guidelines.

    Raises:
        RubricError: No criterion in it, or a criterion that breaks the rules of `Criterion`; the
            message names the line or the criterion.
    """
    if re.search(r"</?item>", text):
        return _read_items(text)
    if "[Start of Meta-Level Guidelines]" in text:
        return _read_guidelines(text)
    return _read_markdown(text)


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
    unified = difflib.unified_diff(
        old.to_markdown().splitlines(), new.to_markdown().splitlines(), old.id, new.id, lineterm=""
    )
    return "\n".join([*lines, *unified]) + "\n"


# ---------------------------------------------------------------------------- Markdown


def _print_scores(scores: tuple[int, ...]) -> str:
    if len(scores) > 2 and scores == tuple(range(scores[0], scores[-1] + 1)):
        return f"{scores[0]}..{scores[-1]}"
    return ", ".join(str(score) for score in scores)


def _parse_scores(text: str, where: str) -> tuple[int, ...]:
    try:
        if ".." in text:
            low, high = (int(part) for part in text.split(".."))
            if high - low > 1000:
                raise ValueError("more than 1000 scores")
            return tuple(range(low, high + 1))
        return tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError as error:
        raise RubricError(
            f"{where}: cannot read scores {text!r}; write 0..5 or 0, 3, 5 ({error})"
        ) from error


def _escape(line: str) -> str:
    return "\\" + line if _STRUCTURE.match(line) else line


def _unescape(line: str) -> str:
    return line[1:] if line.startswith("\\") and _STRUCTURE.match(line) else line


@dataclass
class _Draft:
    """A criterion while its lines are being read."""

    name: str
    weight: str | None
    scores: str | None
    line: int
    text: list[str]
    levels: list[tuple[int, list[str]]]

    def build(self) -> Criterion:
        where = f"criterion {self.name!r} (line {self.line})"
        ladder = tuple(score for score, _ in self.levels)
        scores = ladder if ladder else DEFAULT_SCORES
        if self.scores is not None:
            scores = _parse_scores(self.scores, where)
        try:
            return Criterion(
                name=self.name,
                text="\n".join(self.text),
                levels=tuple(Level(score=s, text="\n".join(lines)) for s, lines in self.levels),
                scores=scores,
                weight=float(self.weight) if self.weight is not None else 1.0,
            )
        except ValidationError as error:
            raise RubricError(f"{where}: {_first(error)}") from error
        except ValueError as error:
            raise RubricError(f"{where}: cannot read weight {self.weight!r}") from error


def _first(error: ValidationError) -> str:
    return str(error.errors()[0]["msg"]).removeprefix("Value error, ")


def _read_markdown(text: str) -> ReadRubric:
    title: str | None = None
    drafts: list[_Draft] = []
    notes: list[str] = []
    for number, line in enumerate(_numbered(text), start=1):
        heading = _HEADING.match(line)
        level = _LEVEL.match(line)
        if heading:
            drafts.append(
                _Draft(heading["name"], heading["weight"], heading["scores"], number, [], [])
            )
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
    return _finish(title, [draft.build() for draft in drafts], notes)


def _numbered(text: str) -> list[str]:
    text = text.removeprefix("\ufeff")
    return [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]


def _finish(title: str | None, criteria: list[Criterion], notes: list[str]) -> ReadRubric:
    try:
        rubric = Rubric(title=title or "Rubric", criteria=tuple(criteria))
    except ValidationError as error:
        raise RubricError(_first(error)) from error
    return ReadRubric(rubric, tuple(notes))


# ------------------------------------------------- the published code's text forms

_ITEM = re.compile(r"<item>(.*?)</item>", re.DOTALL)
_ITEM_HEADING = re.compile(r"^#{1,6}\s+(?P<name>.+)$")
_ITEM_LEVEL = re.compile(
    r"^\s*[-*]?\s*(?:\*\*)?(?:score\s+)?(?P<score>-?\d{1,3})(?:\s*points?)?(?:\*\*)?\s*:\s*(?:\*\*)?\s*(?P<text>.*)$",
    re.IGNORECASE,
)
_ITEM_SCORE_HEADING = re.compile(r"^#+\s.*score:?\s*\**(?P<score>-?\d{1,3})\**\s*$", re.IGNORECASE)
_SPAN = re.compile(
    r"(?:from\s+)?['\"]?(?P<low>-?\d{1,3})['\"]?\s*(?:\([^)]*\)\s*)?(?:to|through|[-–])\s*"
    r"['\"]?(?P<high>\d{1,3})['\"]?"
)


def _read_items(text: str) -> ReadRubric:
    """The `<rubric><item>` form. Text outside items is reported; the published code drops it."""
    notes: list[str] = []
    outside = re.sub(r"</?rubric>", " ", _ITEM.sub("\n", text))
    for chunk in re.split(r"\n\s*\n", outside):
        stray = " ".join(chunk.replace("<item>", " ").replace("</item>", " ").split())
        if stray:
            kind = "unclosed item" if "<item>" in chunk else "text outside items"
            notes.append(f"{kind}: {stray[:120]!r}" + ("…" if len(stray) > 120 else ""))
    criteria = [
        _item_criterion(body, number, notes)
        for number, body in enumerate(_ITEM.findall(text), start=1)
    ]
    if not criteria:
        raise RubricError("no criterion found: no complete <item>…</item> in the text")
    return _finish(None, criteria, notes)


def _item_criterion(body: str, number: int, notes: list[str]) -> Criterion:
    lines = _normal_lines(body)
    name, rest = _item_name(lines, number)
    text, levels = _item_levels(rest)
    prose = "\n".join(text)
    if levels:
        scores = tuple(level.score for level in levels)
    else:
        scores, stated = _span(prose or name)
        if not stated:
            notes.append(f"item {number} ({name!r}) states no scores: 0..5 assumed")
    try:
        return Criterion(name=name, text=prose, levels=levels, scores=scores)
    except ValidationError as error:
        raise RubricError(f"item {number} ({name!r}): {_first(error)}") from error


def _item_name(lines: list[str], number: int) -> tuple[str, list[str]]:
    """Name and remaining lines. Without a heading the first words serve and no line is taken."""
    if not lines:
        return f"Item {number}", []
    heading = _ITEM_HEADING.match(lines[0])
    if heading is None:
        words = re.sub(r"[`#*]", "", lines[0]).split()
        return " ".join(words[:6]).rstrip(".,:;") or f"Item {number}", lines
    name = heading["name"].replace("**", "").strip()
    head, colon, tail = name.partition(":")
    if colon and tail.strip() and head.strip():
        return head.strip(), [tail.strip(), *lines[1:]]
    return name.rstrip(":").strip() or f"Item {number}", lines[1:]


def _item_levels(lines: list[str]) -> tuple[list[str], tuple[Level, ...]]:
    """Split an item into prose and levels.

    Only a ladder of at least two different scores counts: a single numbered line is prose. On a
    score that is described twice the descriptions are joined.
    """
    prose: list[str] = []
    by_score: dict[int, list[str]] = {}
    current: list[str] | None = None
    for line in lines:
        match = _ITEM_SCORE_HEADING.match(line) or _ITEM_LEVEL.match(line)
        if match:
            current = by_score.setdefault(int(match["score"]), [])
            current.append(match.groupdict().get("text") or "")
        elif current is not None:
            current.append(line)
        else:
            prose.append(line)
    if len(by_score) < 2:
        return lines, ()
    return prose, tuple(Level(score=s, text="\n".join(by_score[s])) for s in sorted(by_score))


def _span(text: str) -> tuple[tuple[int, ...], bool]:
    """Scores that prose names (`from 0 to 5`); False if it names none and the default stands."""
    match = _SPAN.search(text)
    if match:
        low, high = int(match["low"]), int(match["high"])
        if low < high <= low + 100:
            return tuple(range(low, high + 1)), True
    return DEFAULT_SCORES, False


def _read_guidelines(text: str) -> ReadRubric:
    """Math guidelines: one free-text criterion, scored 0 to 5."""
    before, _, rest = text.partition("[Start of Meta-Level Guidelines]")
    body, _, after = rest.partition("[End of Meta-Level Guidelines]")
    notes = [f"text outside guidelines: {s.strip()[:120]!r}" for s in (before, after) if s.strip()]
    if not body.strip():
        raise RubricError("no criterion found: the guidelines are empty")
    return _finish(None, [Criterion(name="Guidelines", text=body)], notes)
