"""`mpo evaluate rouge`: overlap with reference summaries."""

from __future__ import annotations

import json

import typer
from rich.console import Console

from ..evaluation.rouge import rouge as measure
from .evaluate_common import (
    AS_JSON,
    MODE,
    SEED,
    SOURCE,
    Mode,
    bounds,
    columns,
    progress_bar,
    rows_of_source,
    table,
)

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


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
        scores = measure(rows, source, reference=reference or None, progress=progress, seed=seed)
    if as_json:
        body: dict[str, object] = {
            name: {"f1": s.value, "low": s.low, "high": s.high} for name, s in scores.items()
        }
        typer.echo(json.dumps({**body, "n": len(rows)}, indent=2))
        return
    made = table(f"ROUGE of {source}: {len(rows)} rows")
    columns(made, "F1", "95 %")
    for name, score in scores.items():
        made.add_row(name, f"{score.value:.2f}", bounds(score.low, score.high))
    Console().print(made)
