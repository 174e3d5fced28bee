"""`mpo evaluate math`: final answers."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from ..evaluation.answers import Share
from ..evaluation.math import MathAccuracy, math_accuracy
from ..task.answers import BoxedAnswers, final_answer
from .evaluate_common import (
    AS_JSON,
    MODE,
    SEED,
    SOURCE,
    Mode,
    bounds,
    columns,
    percent,
    plain,
    progress_bar,
    rows_of_source,
    table,
)

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def math(
    source: str = SOURCE,
    mode: Mode = MODE,
    seed: int = SEED,
    as_json: bool = AS_JSON,
) -> None:
    """Measure how many final answers are right, by subject and level.

    Rows have a completion, and an answer or a solution with the answer in \\boxed{}; maybe a type
    (or subject) and a level. A completion's last box counts; none at all is wrong.

    Example: mpo evaluate math outputs/mpo.jsonl --json
    """
    rows = rows_of_source(source, mode)
    answers = BoxedAnswers()
    try:
        with progress_bar("grading") as progress:
            result = math_accuracy(
                rows,
                source,
                extract=final_answer,
                same=answers.same,
                progress=progress,
                seed=seed,
            )
    finally:
        answers.close()
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2, ensure_ascii=False))
    else:
        _print(source, result)


def _print(source: str, result: MathAccuracy) -> None:
    made = table(f"final answers of {source}")
    columns(made, "accuracy", "95 %", "right", "of")

    def line(name: str, part: Share, interval: str = "") -> None:
        cells = (percent(part.accuracy), interval, str(part.correct), str(part.n))
        made.add_row(plain(name), *cells)

    line("all", result.whole, bounds(result.interval.low, result.interval.high, 100))
    for parts in (result.by_subject, result.by_level):
        if parts:
            made.add_section()
        for name, part in parts.items():
            line(name, part)
    Console().print(made)
    if result.no_answer:
        typer.echo(f"without an answer in a box: {result.no_answer} (counted as wrong)")
