"""The published code's files, in two layouts.

    experiment/                                     mpo-run/
      prompts/evaluation_rubric_iter_N.txt            rubrics/evaluation_rubric_iter_N.txt
      prompts/SUBJECT/cluster-C/evaluation_…          rollouts.jsonl.gz
      rollouts/rollouts-UPDATE-DEVICE.json            meta_evaluations.jsonl.gz
      evaluations/meta_evaluation_results_UPDATE.json

The rows are the same. In the JSONL form each names its update, rank and rubric; in the folder form
the file names do, and a rubric's number follows from the order of the updates.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import DataError, RubricError
from ..rubric import Criterion, Rubric, first_fault, read_rubric

__all__ = ["Experiment", "MetaEvaluation", "PublishedRollout", "RubricFile", "read_experiment"]

SUBJECTS = (
    "algebra",
    "counting_and_probability",
    "geometry",
    "intermediate_algebra",
    "number_theory",
    "prealgebra",
    "precalculus",
)
"""Subjects by the number in `domain_ids` of the published math rows."""

_RUBRIC = re.compile(r"evaluation_rubric_iter_(\d+)\.(?:txt|md)")
_ROLLOUTS = re.compile(r"rollouts-(\d+)-(.+)\.json")
_EVALUATIONS = re.compile(r"meta_evaluation_results_(\d+)\.json")
_LARGEST = 2 * 1024**3
"""The most bytes of an unpacked file; a larger one is no log of a run."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class RubricFile:
    """One version of a rubric."""

    number: int
    cohort: str
    text: str
    rubric: Rubric
    notes: tuple[str, ...]
    """Parts of the text that belong to no criterion."""


@dataclass(frozen=True)
class PublishedRollout:
    """One row of a rollouts file."""

    update: int
    """Update after which it was written; the updates of an interval are not separated."""
    rank: str
    index: int
    """Place within its rank's file."""
    cohort: str
    rubric: int | None
    """Number of the rubric in effect, if the row names it."""
    row: Row


@dataclass(frozen=True)
class MetaEvaluation:
    """One row of an evaluations file: an analysis, and the rubric proposed after it."""

    update: int
    cohort: str
    row: Row


@dataclass(frozen=True)
class Experiment:
    """Content of an experiment's folder, with every row checked for its form."""

    folder: Path
    rubrics: tuple[RubricFile, ...]
    """Rubrics by cohort, then number."""
    rollouts: tuple[PublishedRollout, ...]
    """Rollouts by update, rank and index."""
    evaluations: tuple[MetaEvaluation, ...]
    """Evaluations by update."""


def read_experiment(folder: Path) -> Experiment:
    """Read a folder of either layout.

    Raises:
        DataError: The folder is missing, has no rubric or no rollout, or a file cannot be read; the
            message names the file and the row.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    rubrics = _rubrics(folder)
    if not rubrics:
        raise DataError(
            f"{folder}: no experiment of the published MPO code: neither prompts/ nor rubrics/ "
            "holds an evaluation_rubric_iter_N.txt"
        )
    rollouts = sorted(_rollouts(folder), key=lambda r: (r.update, _natural(r.rank), r.index))
    if not rollouts:
        raise DataError(
            f"{folder}: no rollouts: neither rollouts/rollouts-UPDATE-DEVICE.json nor "
            "rollouts.jsonl.gz"
        )
    evaluations = sorted(_evaluations(folder), key=lambda e: e.update)
    known = {file.cohort for file in rubrics}
    for rollout in rollouts:
        if rollout.cohort not in known:
            raise DataError(
                f"{folder}, update {rollout.update}: a rollout of cohort {rollout.cohort!r}, "
                f"for which there is no rubric; known are {', '.join(sorted(known)) or 'none'}"
            )
    return Experiment(folder, tuple(rubrics), tuple(rollouts), tuple(evaluations))


# ---------------------------------------------------------------------- rubrics


def _rubrics(folder: Path) -> list[RubricFile]:
    files: dict[tuple[str, int], RubricFile] = {}
    for place in (folder / "prompts", folder / "rubrics"):
        for path in sorted(place.rglob("evaluation_rubric_iter_*")):
            name = _RUBRIC.fullmatch(path.name)
            if name is None:
                continue
            cohort = "-".join(path.parent.relative_to(place).parts).replace("cluster-", "")
            key = (cohort, int(name[1]))
            files.setdefault(key, _rubric(path, *key))
    return [files[key] for key in sorted(files)]


def _rubric(path: Path, cohort: str, number: int) -> RubricFile:
    text = _text(path)
    try:
        read = read_rubric(text)
        rubric, notes = read.rubric, read.notes
    except RubricError as error:
        # The guidelines of a math cluster are free text.
        if not cohort or not text.strip() or "<item>" in text:
            raise DataError(f"{path}: {error}") from error
        try:
            rubric = Rubric(criteria=(Criterion(name="Guidelines", text=text),))
        except ValidationError as fault:
            raise DataError(f"{path}: {first_fault(fault)}") from fault
        notes = ()
    return RubricFile(number, cohort, text, rubric, notes)


# ---------------------------------------------------------------------- rows


def _rollouts(folder: Path) -> Iterator[PublishedRollout]:
    for where, row, file, index in _rows(folder, "rollouts", folder / "rollouts", _ROLLOUTS):
        _check_texts(where, row)
        yield PublishedRollout(
            update=int(file[1]) if file else _whole(where, row, "update"),
            rank=file[2] if file else str(row.get("rank", "0")),
            index=index if file else _whole(where, row, "index"),
            cohort=_cohort(where, row),
            rubric=None if file else _whole(where, row, "rubric_iteration"),
            row=row,
        )


def _evaluations(folder: Path) -> Iterator[MetaEvaluation]:
    place = folder / "evaluations"
    for where, row, file, _ in _rows(folder, "meta_evaluations", place, _EVALUATIONS):
        update = int(file[1]) if file else _whole(where, row, "update")
        yield MetaEvaluation(update, _cohort(where, row), row)


def _rows(
    folder: Path, name: str, place: Path, pattern: re.Pattern[str]
) -> Iterator[tuple[str, Row, re.Match[str] | None, int]]:
    """The rows of either layout.

    Args:
        folder: The experiment's folder.
        name: Name of the file in the JSONL form, without its ending.
        place: Folder of the files in the folder form.
        pattern: Names of those files.

    Yields:
        The row's place for messages; the row; in the folder form the match of its file's name, and
        its index in the file.
    """
    for path in (folder / f"{name}.jsonl.gz", folder / f"{name}.jsonl"):
        if path.is_file():
            # Not splitlines(): JSON strings may hold U+2028 and the like as they are.
            for number, line in enumerate(_text(path).split("\n"), start=1):
                if line.strip():
                    where = f"{path}:{number}"
                    yield where, _object(where, _parse(where, line)), None, 0
            return
    for path in sorted(place.glob("*.json")):
        match = pattern.fullmatch(path.name)
        if match is None:
            continue
        rows = _parse(str(path), _text(path))
        if not isinstance(rows, list):
            raise DataError(f"{path}: no list of rows")
        for index, row in enumerate(rows):
            where = f"{path}, row {index + 1}"
            yield where, _object(where, row), match, index


def _check_texts(where: str, row: Row) -> None:
    for column in ("queries", "student_responses"):
        if not isinstance(row.get(column), str):
            raise DataError(f"{where}: {column!r} is missing or no text")


def _cohort(where: str, row: Row) -> str:
    """Name of the cohort as in the rubric folders: `algebra-2` for prompts/algebra/cluster-2."""
    subject = row.get("domain")
    cluster = row.get("cluster_ids", row.get("cluster_id"))
    try:
        if subject is None and row.get("domain_ids") is not None:
            subject = SUBJECTS[int(row["domain_ids"])]
        return "" if subject is None else f"{subject}-{int(str(cluster))}"
    except (ValueError, TypeError, IndexError) as error:
        raise DataError(
            f"{where}: there is no cohort with domain {row.get('domain_ids', subject)!r}, cluster "
            f"{cluster!r}"
        ) from error


def _whole(where: str, row: Row, column: str) -> int:
    value = row.get(column)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise DataError(f"{where}: {column!r} must be a whole number, not {value!r:.40}")
    return value


# ---------------------------------------------------------------------- reading


def _text(path: Path) -> str:
    try:
        if path.suffix != ".gz":
            return path.read_text("utf-8-sig")
        with gzip.open(path) as file:
            raw = file.read(_LARGEST + 1)
        if len(raw) > _LARGEST:
            raise DataError(f"{path}: unpacks to more than {_LARGEST // 1024**3} GiB")
        return raw.decode("utf-8-sig")
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read as UTF-8 text: {error}") from error


def _parse(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not JSON: {error}") from error


def _object(where: str, value: Any) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: no JSON object")
    return value


def _natural(text: str) -> list[tuple[int, str]]:
    """Sort key that puts `cuda:10` after `cuda:2`."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)
    ]
