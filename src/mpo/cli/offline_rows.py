"""The rows of a file of completions: what may be wrong with them, and the scores they bring."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..records import CriterionScore, Judgement, Rollout, content_hash
from ..rubric import Rubric

__all__ = ["GIVEN", "FileRow", "given_judgements", "read_rows"]

GIVEN = "given"
"""`Judgement.protocol` and `model` of a score that came with the file."""

_HIDDEN = ("prompt", "completion", "score", "rationale", "human_score")
"""Somebody's verdict: the RM must not see it among the columns."""


@dataclass(frozen=True)
class FileRow:
    """A row of the file."""

    rollout: Rollout
    columns: dict[str, Any]
    """As they are in the file."""
    score: float | None
    """On a scale that nobody knows."""
    rationale: str
    human: float | None


def read_rows(file: Path, rows: Sequence[dict[str, Any]]) -> list[FileRow]:
    """Check every row before anything is paid.

    Raises:
        DataError: No rows, no text, or a score that is no number.
    """
    if not rows:
        raise DataError(f"{file} is empty: it has no row with a prompt and a completion")
    return [_read(f"{file}, row {n}", n - 1, row) for n, row in enumerate(rows, start=1)]


def _read(where: str, index: int, row: dict[str, Any]) -> FileRow:
    for column in ("prompt", "completion"):
        if not isinstance(row.get(column), str):
            has = "is missing" if column not in row else "must be text"
            shown = ", ".join(row) or "none"
            raise DataError(f"{where}: {column!r} {has}; its columns are {shown}")
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


def given_judgements(
    rows: Sequence[FileRow], rubric: Rubric, whole: Sequence[float]
) -> list[Judgement]:
    """The file's own scores as evidence, as they are.

    Nobody says on what scale they are. The MRM is shown the number and its rationale, and where it
    lies between the lowest and the highest score of the file; scores that all lie between 0 and 1
    are taken for shares.

    Args:
        rows: Those with a score count.
        rubric: In force: what the scores are evidence about.
        whole: All scores of the file.
    """
    if not whole:
        return []
    low, high = (0.0, 1.0) if 0 <= min(whole) <= max(whole) <= 1 else (min(whole), max(whole))
    if low == high:  # all alike, and neither high nor low
        low, high = low - 0.5, high + 0.5
    # Of a single criterion, whoever scored it; of several, nobody knows of which.
    criterion = rubric.criterion_ids[0] if len(rubric.criteria) == 1 else "score"
    return [
        _judgement(row, row.score, (row.score - low) / (high - low), criterion, rubric)
        for row in rows
        if row.score is not None
    ]


def _judgement(
    row: FileRow, score: float, share: float, criterion: str, rubric: Rubric
) -> Judgement:
    whole = score.is_integer()
    said = row.rationale if whole else f"{score:g} {row.rationale}".strip()
    return Judgement(
        key=content_hash([GIVEN, row.rollout.id, rubric.id, score, row.rationale]),
        rollout_id=row.rollout.id,
        rubric_id=rubric.id,
        scores=(CriterionScore(criterion=criterion, score=round(score), rationale=said),),
        reward=score,
        normalized_reward=share,
        protocol=GIVEN,
        model=GIVEN,
    )
