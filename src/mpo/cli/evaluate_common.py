"""Parts that the commands of `mpo evaluate` share: options, rows, progress, tables."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from ..data import (
    COMPLETION,
    PROMPT,
    ReadOptions,
    SourceRow,
    is_data,
    looks_local,
    plain,
    read_table,
    suffix_of,
)
from ..evaluation.rows import Row, rows_of_run
from ..records import to_json
from ..store import STORE
from .runs import RUNS, is_store, open_store
from .tables import clock, print_table

__all__ = [
    "AS_JSON",
    "LINE_EVERY_S",
    "MODE",
    "SEED",
    "SOURCE",
    "Mode",
    "Output",
    "bounds",
    "completion_row",
    "is_file",
    "percent",
    "plain_row",
    "progress_bar",
    "rows_of_file",
    "rows_of_source",
    "show",
]

T = TypeVar("T")

LINE_EVERY_S = 15.0
"""Seconds between two lines of progress where there is no terminal."""

Mode = Literal["auto", "train", "eval"]
Output = Sequence[Table | str]
"""Tables and lines for a person."""

SOURCE: Any = typer.Argument(..., help="Completions: a file, a saved data set, a hub id; or a run.")
MODE: Any = typer.Option(
    "auto",
    help="Rollouts of a run: eval, the last evaluation; train, the last 10 steps; auto, the "
    "former if there are any, else the latter.",
)
SEED: Any = typer.Option(0, help="Random seed for the bootstrap.")
AS_JSON: Any = typer.Option(False, "--json", help="Print JSON.")


def is_file(text: str) -> bool:
    """True if a person means rows in a file, a folder or on the hub, not a run."""
    path = Path(text)
    if path.is_file():
        return not is_store(path) and path.suffix not in (".yaml", ".yml")
    if path.exists() or (RUNS / text).exists():
        return not (path / STORE).is_file() and is_data(path)
    # A name with a dot is a file that may be missing; one without may be a run in runs/.
    return bool(suffix_of(text)) or (
        "/" in text and not looks_local(text) and RUNS not in path.parents
    )


def plain_row(row: SourceRow) -> Row:
    """A row's values as JSON, under the names that are asked for."""
    return {name: plain(value) for name, value in row.named().items()}


def completion_row(row: SourceRow) -> Row:
    """A row with a text under `completion`, and one under `prompt` where it has a prompt.

    Raises:
        DataError: It has no completion.
    """
    values = {**plain_row(row), "completion": row.completion(*COMPLETION)}
    if any(row.has(name) for name in PROMPT):
        values["prompt"] = row.prompt(*PROMPT)
    return values


def rows_of_file(
    source: str | Path,
    reading: ReadOptions = ReadOptions(),
    make: Callable[[SourceRow], T] = plain_row,  # type: ignore[assignment]
) -> list[T]:
    """The rows of a file, a folder or a hub data set; on stderr, how many were left out.

    Args:
        source: Path or hub id.
        reading: Which rows, and under which names.
        make: Turns a row into what the command needs; it raises `DataError` for a bad row.

    Raises:
        MPOError: As `read_table`.
    """
    read = read_table(source, make, reading)
    if read.bad:
        typer.echo(f"{source}: {read.remark}", err=True)
    return read.rows


def rows_of_source(
    text: str, mode: Mode, reading: ReadOptions, make: Callable[[SourceRow], Row]
) -> list[Row]:
    """The rows of a file, or the rollouts of a run.

    Raises:
        MPOError: There is no such file or run, a row is bad, or the run has no rollouts.
    """
    if is_file(text):
        return rows_of_file(text, reading, make)
    with open_store(text) as store:
        return rows_of_run(store, mode)[: reading.limit]


@contextmanager
def progress_bar(label: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's stderr, a line now and then elsewhere; yields a function that takes
    the number done and the total."""
    console = Console(stderr=True)
    started = said = time.monotonic()
    shown = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*shown, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(label, total=None)

        def update(done: int, total: int) -> None:
            nonlocal said
            progress.update(bar, completed=done, total=total)
            now = time.monotonic()
            if not console.is_terminal and 0 < done < total and now - said > LINE_EVERY_S:
                said, left = now, (now - started) / done * (total - done)
                typer.echo(f"{label}: {done:,} of {total:,}, about {clock(left)} left", err=True)

        yield update


# ---------------------------------------------------------------------- output


def show(body: Mapping[str, Any], output: Output, as_json: bool) -> None:
    """Print a result, as JSON for a program or as tables and lines for a person."""
    if as_json:
        typer.echo(to_json(body, indent=2))
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
