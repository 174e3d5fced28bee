"""`mpo evaluate math`, `verdict` and `rouge`: completions against references."""

from __future__ import annotations

from typing import Any

import typer

from ..evaluation import references
from ..evaluation.references import Accuracy, MathAccuracy, VerdictAccuracy
from ..task.answers import BoxedAnswers, final_answer
from .evaluate_common import (
    AS_JSON,
    MODE,
    SEED,
    SOURCE,
    Mode,
    Output,
    bounds,
    columns,
    percent,
    plain,
    progress_bar,
    rows_of_source,
    show,
    table,
)

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def math(
    source: str = SOURCE, mode: Mode = MODE, seed: int = SEED, as_json: bool = AS_JSON
) -> None:
    """Measure how many final answers are right, by subject and level.

    Each row has a completion, and an answer or a solution with the answer in \\boxed{}; type (or
    subject) and level are optional. A completion's last box counts; one without a box is wrong.

    Example: mpo evaluate math outputs/mpo.jsonl --json
    """
    rows = rows_of_source(source, mode)
    answers = BoxedAnswers()
    try:
        with progress_bar("grading") as progress:
            result = references.math_accuracy(
                rows,
                source,
                extract=final_answer,
                same=answers.same,
                progress=progress,
                seed=seed,
            )
    finally:
        answers.close()
    show(result.to_json(), _math_output(source, result), as_json)


def _math_output(source: str, result: MathAccuracy) -> Output:
    body = table(f"final answers of {source}")
    columns(body, "accuracy", "95 %", "right", "of")

    def line(name: str, part: Accuracy, interval: str = "") -> None:
        cells = (percent(part.value), interval, str(part.correct), str(part.n))
        body.add_row(plain(name), *cells)

    line("all", result.whole, bounds(result.interval.low, result.interval.high, 100))
    for parts in (result.by_subject, result.by_level):
        if parts:
            body.add_section()
        for name, part in parts.items():
            line(name, part)
    if not result.no_answer:
        return [body]
    return [body, f"without an answer in a box: {result.no_answer} (counted as wrong)"]


@app.command()
def verdict(
    source: str = SOURCE,
    label: str = typer.Option(
        "", help="Column of the label, RIGHT or WRONG; binarized_label or label if left out."
    ),
    mode: Mode = MODE,
    seed: int = SEED,
    as_json: bool = AS_JSON,
) -> None:
    """Measure how many verdicts are right, beside the majority label.

    Each row has a completion that ends in <verdict>RIGHT</verdict> or <verdict>WRONG</verdict>.
    The last one counts; a completion without a verdict is wrong.

    Example: mpo evaluate verdict outputs/mpo.jsonl --label binarized_label
    """
    rows = rows_of_source(source, mode)
    result = references.verdict_accuracy(rows, source, label=label or None, seed=seed)
    body = result.to_json()
    show(body, _verdict_output(source, result, body), as_json)


def _verdict_output(source: str, result: VerdictAccuracy, body: dict[str, Any]) -> Output:
    shown = table(f"verdicts of {source}")
    columns(shown, "accuracy", "95 %", "of")
    low, high = result.interval.low, result.interval.high
    shown.add_row("all", percent(body["accuracy"]), bounds(low, high, 100), str(result.whole.n))
    shown.add_row("balanced (mean over labels)", percent(body["balanced_accuracy"]), "", "")
    majority = body["majority"]
    shown.add_row(f"always {majority['label']}", percent(majority["accuracy"]), "", "")
    shown.add_section()
    for name, part in result.by_label.items():
        shown.add_row(f"label {plain(name)}", percent(part.value), "", str(part.n))
    shares = body["balance"]["verdicts"]
    verdicts = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
    return [shown, f"verdicts: {verdicts}; no verdict: {result.missing} (counted as wrong)"]


@app.command()
def rouge(
    source: str = SOURCE,
    reference: str = typer.Option(
        "", help="Column of the reference; reference, summary or clean_summary if left out."
    ),
    mode: Mode = MODE,
    seed: int = SEED,
    as_json: bool = AS_JSON,
) -> None:
    """Measure the overlap with reference summaries.

    ROUGE-1, -2, -L and -Lsum: F1 with stemming, times 100, each with its 95 % interval.

    Example: mpo evaluate rouge outputs/mpo.jsonl --reference clean_summary
    """
    rows = rows_of_source(source, mode)
    with progress_bar("comparing") as progress:
        scores = references.rouge(
            rows, source, reference=reference or None, progress=progress, seed=seed
        )
    body: dict[str, Any] = {
        name: {"f1": s.value, "low": s.low, "high": s.high} for name, s in scores.items()
    }
    shown = table(f"ROUGE of {source}: {len(rows)} rows")
    columns(shown, "F1", "95 %")
    for name, score in scores.items():
        shown.add_row(name, f"{score.value:.2f}", bounds(score.low, score.high))
    show({**body, "n": len(rows)}, [shown], as_json)
