"""`mpo task`: write and check task folders, and build the cohorts of their data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import typer

from ..data import read_rows
from ..errors import ConfigError, TaskError
from ..records import to_json
from ..task import BUILTIN, builtin_tasks, check_task, load_task
from ..task.cohorts import Cohorts, Method, cohorts_path
from ..task.template import write_task_template

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

DEFAULT_CLUSTERS = 3
"""Clusters per subject where a task does not say; as in the paper (App. F.5.3)."""


@app.callback()
def task() -> None:
    """Write and check task folders; build cohorts."""


@app.command()
def check(
    folder: Path = typer.Argument(..., help="A task folder, or the name of a built-in task."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say everything that is wrong with a task folder.

    Example: mpo task check my-task/
    """
    place = BUILTIN / folder if str(folder) in builtin_tasks() else folder
    if not place.is_dir():
        raise TaskError(
            f"no task {str(folder)!r}: neither a folder nor a built-in task "
            f"({', '.join(builtin_tasks())})"
        )
    checked, faults = check_task(place)
    notes = list(checked.seed.notes) if checked is not None else []
    if as_json:
        typer.echo(to_json({"ok": not faults, "faults": faults, "notes": notes}, indent=2))
    else:
        for note in notes:
            typer.echo(f"note: {place / 'rubric.md'}: {note}")
        for fault in faults:
            typer.echo(fault, err=True)
    if faults:
        raise TaskError(f"{place}: {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    if checked is not None and not as_json:
        criteria = len(checked.rubric.criteria)
        typer.echo(f"{checked.name}: ok ({criteria} criteria, {len(checked.prompts)} prompts)")


@app.command()
def new(
    folder: Path = typer.Argument(..., help="A folder that does not exist yet, or is empty."),
) -> None:
    """Write a commented task folder to start from; it passes `mpo task check` as it is.

    Example: mpo task new my-task
    """
    for path in write_task_template(folder):
        typer.echo(str(path))
    typer.echo(f"next: edit them, then mpo task check {folder}")


@app.command()
def cohorts(
    data: Path = typer.Argument(..., help="The dataset's file."),
    task: str = typer.Option(..., "--task", help="A built-in task, or a task folder."),
    clusters: int = typer.Option(
        None, min=1, help="Clusters for each value of the column; the task's number if left out."
    ),
    column: str = typer.Option(
        "", help="Column whose values are never mixed in one cohort; the task's if empty."
    ),
    method: Method = typer.Option("auto", help="How prompts are compared."),
    seed: int = typer.Option(0, min=0, help="Random seed for the clustering."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Split a dataset into cohorts, each with a rubric of its own, and save them beside it.

    By the column first, then by similar prompts: with sentence embeddings where
    sentence-transformers is installed, with TF-IDF otherwise.

    Example: mpo task cohorts train.jsonl --task math --clusters 3
    """
    spec = load_task(task).spec
    by = column or (spec.cohorts.column if spec.cohorts else "")
    if not by:
        raise ConfigError(f"task {task!r} names no cohorts: give --column")
    if clusters is None:
        clusters = spec.cohorts.clusters if spec.cohorts else DEFAULT_CLUSTERS
    rows = read_rows(data)
    text = spec.dataset.prompt_column
    built = Cohorts.build(
        rows, column=by, text_column=text, clusters=clusters, seed=seed, method=method
    )
    path = cohorts_path(data)
    built.save(path)
    sizes = Counter(built.assign(row) for row in rows)
    if as_json:
        result = {
            "file": str(path),
            "column": by,
            "method": built.method,
            "cohorts": {name: sizes[name] for name in built.names},
        }
        typer.echo(to_json(result, indent=2))
        return
    for name in built.names:
        typer.echo(f"{sizes[name]:>6}  {name}")
    typer.echo(f"{path}: {len(built.names)} cohorts of {len(rows)} rows by {by!r} ({built.method})")
