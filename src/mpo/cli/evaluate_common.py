"""Parts that the commands of `mpo evaluate` share: options, rows, progress, tables."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..config import read_records
from ..evaluation.rows import Row, read_rows, rows_of_run
from .runs import is_store, open_store
from .tables import print_table

__all__ = [
    "AS_JSON",
    "MODE",
    "SEED",
    "SOURCE",
    "Mode",
    "Output",
    "bounds",
    "is_file",
    "percent",
    "progress_bar",
    "rows_of_file",
    "rows_of_source",
    "show",
]

Mode = Literal["auto", "train", "eval"]
Output = Sequence[Table | str]
"""Tables and lines for a person."""

SOURCE: Any = typer.Argument(..., help="A generations file (JSONL, JSON, Parquet), or a run.")
MODE: Any = typer.Option(
    "auto",
    help="Rollouts of a run: eval, the last evaluation; train, the last 10 steps; auto, the "
    "former if there are any, else the latter.",
)
SEED: Any = typer.Option(0, help="Random seed for the bootstrap.")
AS_JSON: Any = typer.Option(False, "--json", help="Print JSON.")


def is_file(text: str) -> bool:
    """True if a person means a file of rows, not a run."""
    path = Path(text)
    if path.is_dir() or is_store(path) or path.suffix in (".yaml", ".yml"):
        return False
    # A name with a dot is a file that may be missing; one without may be a run in runs/.
    return path.is_file() or path.suffix in (".jsonl", ".json", ".gz", ".parquet")


def rows_of_file(path: Path) -> list[Row]:
    """The rows of a JSONL, JSON or Parquet file.

    Raises:
        DataError: The file cannot be read.
    """
    return read_records(path) if path.suffix == ".parquet" else read_rows(path)


def rows_of_source(text: str, mode: Mode) -> list[Row]:
    """The rows of a file, or the rollouts of a run.

    Raises:
        MPOError: There is no such file or run, or the run has no rollouts.
    """
    if is_file(text):
        return rows_of_file(Path(text))
    with open_store(text) as store:
        return rows_of_run(store, mode)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr; yields a function that takes the number done and the total."""
    console = Console(stderr=True)
    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*shown, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(label, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


# ---------------------------------------------------------------------- output


def show(body: Mapping[str, Any], output: Output, as_json: bool) -> None:
    """Print a result, as JSON for a program or as tables and lines for a person."""
    if as_json:
        typer.echo(json.dumps(body, indent=2, ensure_ascii=False))
        return
    for part in output:
        if isinstance(part, str):
            typer.echo(part)
        else:
            print_table(part)


def percent(value: float | None) -> str:
    """A share, 0 to 1, with one digit."""
    return "–" if value is None else f"{100 * value:.1f} %"


def bounds(low: float | None, high: float | None, scale: float = 1.0) -> str:
    """An interval with one digit; a dash where there is none."""
    if low is None or high is None:
        return "–"
    return f"{scale * low:.1f} … {scale * high:.1f}"
