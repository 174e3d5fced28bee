"""`mpo evaluate math`, `verdict` and `rouge`: completions against references."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import typer

from ..data import SourceRow
from ..evaluation import references
from ..evaluation.references import Accuracy, MathAccuracy, VerdictAccuracy
from ..evaluation.rows import Row
from ..task.answers import BoxedAnswers, final_answer
from . import offline
from .evaluate_common import (
    AS_JSON,
    MODE,
    SOURCE,
    Mode,
    Output,
    bounds,
    completion_row,
    percent,
    progress_bar,
    rows_of_source,
    show,
)
from .tables import number, table

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def math(
    source: str = SOURCE,
    columns: str = offline.COLUMNS,
    limit: int = offline.LIMIT,
    skip_bad: bool = offline.SKIP_BAD,
    split: str = offline.SPLIT,
    mode: Mode = MODE,
    as_json: bool = AS_JSON,
) -> None:
    """Measure how many final answers are right, by subject and level.

    Each row has a completion, and an answer or a solution with the answer in \\boxed{}; type (or
    subject) and level are optional. A completion's last box counts; one without a box is wrong.

    Example: mpo evaluate math outputs/mpo.jsonl --json
    """

    def made(row: SourceRow) -> Row:
        values = completion_row(row)
        references.reference_answer(values, row.where, final_answer)
        return values

    reading = offline.read_options(columns, limit, skip_bad, split)
    rows = rows_of_source(source, mode, reading, made)
    answers = BoxedAnswers()
    try:
        with progress_bar("grading") as progress:
            result = references.math_accuracy(
                rows,
                source,
                extract=final_answer,
                same=answers.same,
                progress=progress,
            )
    finally:
        answers.close()
    show(asdict(result), _math_output(source, result), as_json)


def _math_output(source: str, result: MathAccuracy) -> Output:
    def row(name: str, part: Accuracy, interval: str = "") -> list[str]:
        return [name, percent(part.accuracy), interval, str(part.correct), str(part.n)]

    rows: list[list[str] | None] = [row("all", result, bounds(result.low, result.high, 100))]
    for parts in (result.by_subject, result.by_level):
        if parts:
            rows += [None, *(row(name, part) for name, part in parts.items())]
    body = table(f"final answers of {source}", ["accuracy", "95 %", "right", "of"], rows)
    if not result.no_answer:
        return [body]
    return [body, f"without an answer in a box: {result.no_answer} (counted as wrong)"]


@app.command()
def verdict(
    source: str = SOURCE,
    columns: str = offline.COLUMNS,
    limit: int = offline.LIMIT,
    skip_bad: bool = offline.SKIP_BAD,
    split: str = offline.SPLIT,
    label: str = typer.Option(
        "", help="Column of the label, RIGHT or WRONG; binarized_label or label if left out."
    ),
    mode: Mode = MODE,
    as_json: bool = AS_JSON,
) -> None:
    """Measure how many verdicts are right, beside the majority label.

    Each row has a completion that ends in <verdict>RIGHT</verdict> or <verdict>WRONG</verdict>.
    The last one counts; a completion without a verdict is wrong.

    Example: mpo evaluate verdict outputs/mpo.jsonl --label binarized_label
    """

    def made(row: SourceRow) -> Row:
        values = completion_row(row)
        references.verdict_label(values, row.where, label or None)
        return values

    reading = offline.read_options(columns, limit, skip_bad, split)
    rows = rows_of_source(source, mode, reading, made)
    result = references.verdict_accuracy(rows, source, label=label or None)
    show(asdict(result), _verdict_output(source, result), as_json)


def _verdict_output(source: str, result: VerdictAccuracy) -> Output:
    majority = result.majority
    rows: list[list[str] | None] = [
        ["all", percent(result.accuracy), bounds(result.low, result.high, 100), str(result.n)],
        ["balanced (mean over labels)", percent(result.balanced_accuracy), "", ""],
        [f"always {majority['label']}", percent(majority["accuracy"]), "", ""],
        None,
    ]
    rows += [
        [f"label {name}", percent(part.accuracy), "", str(part.n)]
        for name, part in result.by_label.items()
    ]
    shares = result.balance["verdicts"].items()
    verdicts = ", ".join(f"{name} {percent(share)}" for name, share in shares)
    return [
        table(f"verdicts of {source}", ["accuracy", "95 %", "of"], rows),
        f"verdicts: {verdicts}; no verdict: {result.missing} (counted as wrong)",
    ]


@app.command()
def rouge(
    source: str = SOURCE,
    columns: str = offline.COLUMNS,
    limit: int = offline.LIMIT,
    skip_bad: bool = offline.SKIP_BAD,
    split: str = offline.SPLIT,
    reference: str = typer.Option(
        "", help="Column of the reference; reference, summary or clean_summary if left out."
    ),
    mode: Mode = MODE,
    as_json: bool = AS_JSON,
) -> None:
    """Measure the overlap with reference summaries.

    ROUGE-1, -2, -L and -Lsum: F1 with stemming, times 100, each with its 95 % interval.

    Example: mpo evaluate rouge outputs/mpo.jsonl --reference clean_summary
    """

    def made(row: SourceRow) -> Row:
        values = completion_row(row)
        references.reference_text(values, row.where, reference or None)
        return values

    reading = offline.read_options(columns, limit, skip_bad, split)
    rows = rows_of_source(source, mode, reading, made)
    with progress_bar("comparing") as progress:
        scores = references.rouge(rows, source, reference=reference or None, progress=progress)
    body: dict[str, Any] = {
        name: {"f1": s.value, "low": s.low, "high": s.high} for name, s in scores.items()
    }
    cells = [[name, number(s.value), bounds(s.low, s.high)] for name, s in scores.items()]
    shown = table(f"ROUGE of {source}: {len(rows)} rows", ["F1", "95 %"], cells)
    show({**body, "n": len(rows)}, [shown], as_json)
