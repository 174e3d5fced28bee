"""Rows of a file of completions: their checks, and the scores that come with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import DataError
from ...records import CriterionScore, Judgement, Rollout, content_hash
from ...rubric import Rubric

__all__ = ["FROM_FILE", "FileRow", "file_judgements", "read_rows"]

FROM_FILE = "given"
"""`Judgement.protocol` and `model` of a score that came with the file."""

_HIDDEN = ("prompt", "completion", "score", "rationale", "human_score")
"""Texts, and scores that the RM must not see among the columns."""


@dataclass(frozen=True)
class FileRow:
    """A row of the file."""

    rollout: Rollout
    columns: dict[str, Any]
    """All columns, unchanged."""
    score: float | None
    """The row's own score, on an unknown scale."""
    rationale: str
    human: float | None
    """A person's score, on an unknown scale."""


def read_rows(file: Path, rows: Sequence[dict[str, Any]]) -> list[FileRow]:
    """Check all rows, before anything is paid.

    Raises:
        DataError: There are no rows, or a row has no text or a score that is no number.
    """
    if not rows:
        raise DataError(f"{file} is empty: it has no row with a prompt and a completion")
    return [_read(f"{file}, row {n}", n - 1, row) for n, row in enumerate(rows, start=1)]


def _read(where: str, index: int, row: dict[str, Any]) -> FileRow:
    for column in ("prompt", "completion"):
        if not isinstance(row.get(column), str):
            fault = "is missing" if column not in row else "must be text"
            names = ", ".join(row) or "none"
            raise DataError(f"{where}: {column!r} {fault}; its columns are {names}")
    rationale = row.get("rationale")
    if rationale is not None and not isinstance(rationale, str):
        raise DataError(f"{where}: 'rationale' must be text or null, not {rationale!r:.40}")
    rollout = Rollout(
        prompt=row["prompt"],
        completion=row["completion"],
        columns={key: value for key, value in row.items() if key not in _HIDDEN},
        index=index,
    )
    score, human = (_number(where, row, name) for name in ("score", "human_score"))
    return FileRow(rollout, row, score, rationale or "", human)


def _number(where: str, row: dict[str, Any], name: str) -> float | None:
    value = row.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise DataError(f"{where}: {name!r} must be a number or null, not {value!r:.40}")
    return float(value)


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
