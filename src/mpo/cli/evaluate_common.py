"""What the commands of `mpo evaluate` share: reading rows, asking models, tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..config import read_records
from ..evaluation.answers import rows_of_run
from ..evaluation.rows import Row, read_rows
from .runs import open_store

__all__ = [
    "AS_JSON",
    "MODE",
    "SEED",
    "SOURCE",
    "Mode",
    "bounds",
    "columns",
    "is_file",
    "percent",
    "plain",
    "progress_bar",
    "rows_of_file",
    "rows_of_source",
    "table",
]

Mode = Literal["auto", "train", "eval"]

SOURCE: Any = typer.Argument(..., help="A generations file (JSONL, JSON), or a run.")
MODE: Any = typer.Option(
    "auto",
    help="Of a run: eval, the last evaluation; train, the last 10 steps; auto, either, in this "
    "order.",
)
SEED: Any = typer.Option(0, help="Of the bootstrap.")
AS_JSON: Any = typer.Option(False, "--json", help="Print JSON.")


def is_file(text: str) -> bool:
    """Whether a person means a file of rows, not a run."""
    path = Path(text)
    if path.is_dir() or path.suffix == ".db":
        return False
    # A name with a dot is a file that may be missing; one without may be a run in runs/.
    return path.is_file() or path.suffix in (".jsonl", ".json", ".gz", ".parquet")


def rows_of_file(path: Path) -> list[Row]:
    """The rows of a JSONL, JSON or Parquet file.

    Raises:
        DataError: It cannot be read.
    """
    return read_records(path) if path.suffix == ".parquet" else read_rows(path)


def rows_of_source(text: str, mode: Mode) -> list[Row]:
    """The rows of a file, or the rollouts of a run.

    Raises:
        MPOError: There is no such file or run, or it has no rollouts.
    """
    if is_file(text):
        return rows_of_file(Path(text))
    with open_store(text) as store:
        return rows_of_run(store, mode)


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr; what it yields is told how much is done, of how much."""
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


# ---------------------------------------------------------------------- tables


def table(title: str) -> Table:
    """A plain table; its first column is text."""
    made = Table(title=plain(title), title_justify="left", box=None, pad_edge=False)
    made.add_column("", no_wrap=True)
    return made


def columns(made: Table, *names: str) -> None:
    """Columns of figures; their names may be somebody's words."""
    for name in names:
        made.add_column(plain(name), justify="right", no_wrap=True)


def plain(text: str) -> str:
    """Somebody's words for a table: rich must not read `[red]` in them as markup."""
    return escape(text)


def percent(value: float | None) -> str:
    """A share, 0 to 1, with one digit."""
    return "–" if value is None else f"{100 * value:.1f} %"


def bounds(low: float | None, high: float | None, scale: float = 1.0) -> str:
    """An interval with one digit; a dash where there is none."""
    if low is None or high is None:
        return "–"
    return f"{scale * low:.1f} … {scale * high:.1f}"
