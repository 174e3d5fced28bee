"""Rows of a file of completions: their checks, and the scores that come with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ...data import COMPLETION, PROMPT, ReadOptions, SourceRow, read_table
from ...records import CriterionScore, Judgement, Rollout, content_hash
from ...rubric import Rubric
from ...task import Task

__all__ = ["FROM_FILE", "FileRow", "FileRows", "file_judgements", "read_file_rows"]

FROM_FILE = "given"
"""`Judgement.protocol` and `model` of a score that came with the file."""


@dataclass(frozen=True)
class FileRow:
    """A completion of the file, which may stand in several of its rows."""

    rollout: Rollout
    columns: dict[str, Any]
    """All columns of the first such row, unchanged."""
    score: float | None
    """The row's own score, on an unknown scale; the mean where several rows have one."""
    rationale: str
    human: float | None
    """A person's score, on an unknown scale; the mean where several rows have one."""


@dataclass(frozen=True)
class FileRows:
    """The rows of a file."""

    rows: list[FileRow]
    """Each completion once, in the file's order."""
    places: list[int]
    """For each usable row of the file, in order, its place in `rows`."""
    columns: list[dict[str, Any]]
    """For each usable row of the file, in order, all its columns, unchanged."""
    bad: list[str]
    """Rows that were left out, each with its place and its fault."""
    remark: str
    """A line on rows that were left out or stand several times; empty if there are none."""


def read_file_rows(file: Path, task: Task, reading: ReadOptions = ReadOptions()) -> FileRows:
    """Check all rows, before anything is paid.

    Columns that neither the task nor the command uses may hold anything: they are no part of a
    rollout, so that they cannot make two of one completion.

    Raises:
        DataError: There are no rows, or a row has no text or a score that is no number.
        MissingExtraError: The file needs the extra `train`.
    """
    table = read_table(file, lambda row: _read(row, task), reading)
    found: dict[str, list[FileRow]] = {}
    for row in table.rows:
        found.setdefault(_same(row.rollout), []).append(row)
    rows = [_merged(n, same) for n, same in enumerate(found.values())]
    order = {key: n for n, key in enumerate(found)}
    again = len(table.rows) - len(rows)
    remarks = [table.remark] if table.bad else []
    if again:
        remarks.append(f"{again} of {len(table.rows)} rows repeat an earlier one: each counts once")
    return FileRows(
        rows,
        [order[_same(row.rollout)] for row in table.rows],
        [row.columns for row in table.rows],
        table.bad,
        "; ".join(remarks),
    )


def _same(rollout: Rollout) -> str:
    return content_hash([rollout.prompt, rollout.completion, rollout.columns], 32)


def _merged(index: int, rows: Sequence[FileRow]) -> FileRow:
    """One row for all that have the same texts."""
    first = rows[0]
    rollout = Rollout(
        prompt=first.rollout.prompt,
        completion=first.rollout.completion,
        columns=first.rollout.columns,
        index=index,
    )
    return FileRow(
        rollout,
        first.columns,
        _mean([row.score for row in rows]),
        next((row.rationale for row in rows if row.rationale), ""),
        _mean([row.human for row in rows]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


def _read(row: SourceRow, task: Task) -> FileRow:
    data = task.spec.dataset
    needed = [data.reference_column, data.answer_column]
    needed += [task.spec.cohorts.column] if task.spec.cohorts else []
    columns = {name: row.text(name) for name in needed if name}
    columns |= {name: row.value(name) for name in data.hidden_columns if row.has(name)}
    score, human = row.number("score"), row.number("human_score")
    rationale = row.text("rationale") if row.value("rationale") is not None else ""
    rollout = Rollout(
        prompt=row.text(*PROMPT, data.prompt_column),
        completion=row.text(*COMPLETION),
        columns=columns,
    )
    return FileRow(rollout, row.values, score, rationale, human)


def file_judgements(rows: Sequence[FileRow], rubric: Rubric) -> list[Judgement]:
    """The file's own scores as judgements, unchanged.

    Their scale is unknown. The MRM sees the number, its rationale, and its place between the lowest
    and the highest score of the file; scores that all lie between 0 and 1 are taken as normalized.

    Args:
        rows: All rows; those without a score give no judgement.
        rubric: Rubric in effect, which the scores are evidence about.
    """
    scores = [row.score for row in rows if row.score is not None]
    if not scores:
        return []
    low, high = min(scores), max(scores)
    if min(scores) >= 0 and max(scores) <= 1:
        low, high = 0.0, 1.0
    elif low == high:  # all equal, so neither high nor low
        low, high = low - 0.5, high + 0.5
    # A score belongs to the only criterion; of several, it is unknown which.
    criterion = rubric.criterion_ids[0] if len(rubric.criteria) == 1 else "score"
    return [
        _judgement(row, row.score, (row.score - low) / (high - low), criterion, rubric)
        for row in rows
        if row.score is not None
    ]


def _judgement(
    row: FileRow, score: float, normalized: float, criterion: str, rubric: Rubric
) -> Judgement:
    rationale = row.rationale if score.is_integer() else f"{score:g} {row.rationale}".strip()
    return Judgement(
        key=content_hash([FROM_FILE, row.rollout.id, rubric.id, score, row.rationale]),
        rollout_id=row.rollout.id,
        rubric_id=rubric.id,
        scores=(CriterionScore(criterion=criterion, score=round(score), rationale=rationale),),
        reward=score,
        normalized_reward=normalized,
        protocol=FROM_FILE,
        model=FROM_FILE,
    )
