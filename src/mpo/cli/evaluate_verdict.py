"""`mpo evaluate verdict`: right or wrong."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from ..evaluation.verdict import VerdictAccuracy, verdict_accuracy
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
    rows_of_source,
    table,
)

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


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

    Rows have a completion that ends in <verdict>RIGHT</verdict> or <verdict>WRONG</verdict>; the
    last one counts, and none at all is wrong.

    Example: mpo evaluate verdict outputs/mpo.jsonl --label binarized_label
    """
    rows = rows_of_source(source, mode)
    result = verdict_accuracy(rows, source, label=label or None, seed=seed)
    if as_json:
        typer.echo(json.dumps(result.to_json(), indent=2))
    else:
        _print(source, result)


def _print(source: str, result: VerdictAccuracy) -> None:
    body = result.to_json()
    made = table(f"verdicts of {source}")
    columns(made, "accuracy", "95 %", "of")
    low, high = result.interval.low, result.interval.high
    made.add_row("all", percent(body["accuracy"]), bounds(low, high, 100), str(result.whole.n))
    made.add_row("balanced (mean over labels)", percent(body["balanced_accuracy"]), "", "")
    majority = body["majority"]
    made.add_row(f"always {majority['label']}", percent(majority["accuracy"]), "", "")
    made.add_section()
    for name, part in result.by_label.items():
        made.add_row(f"label {plain(name)}", percent(part.accuracy), "", str(part.n))
    Console().print(made)
    shares = body["balance"]["verdicts"]
    said = ", ".join(f"{name} {percent(share)}" for name, share in shares.items())
    typer.echo(f"said: {said}; no verdict: {result.missing} (counted as wrong)")
