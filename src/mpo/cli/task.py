"""`mpo task`: write and check task folders, and build the cohorts of their data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import typer

from ..config import policy_row
from ..data import ReadOptions, SourceRow, looks_local, parse_columns, read_rows, read_table
from ..errors import ConfigError, DataError, TaskError
from ..records import to_json
from ..task import BUILTIN, Task, builtin_tasks, check_task, load_task
from ..task.cohorts import Cohorts, Method, cohorts_path
from ..task.template import write_task_template
from . import offline
from .task_requests import show_requests, task_requests

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

DATA: Any = typer.Option(
    "", "--data", help="File, folder or hub id of the rows; the task's own data set if left out."
)
SPLIT: Any = typer.Option("", "--split", help="Split of the data set; the task's own if left out.")
DEFAULT_CLUSTERS = 3
"""Clusters per subject where a task does not say; as in the paper (App. F.5.3)."""


@app.callback()
def task() -> None:
    """Write and check task folders; build cohorts."""


@app.command()
def check(
    folder: Path = typer.Argument(..., help="A task folder, or the name of a built-in task."),
    data: str = DATA,
    columns: str = offline.COLUMNS,
    split: str = SPLIT,
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say everything that is wrong with a task folder, and with the rows of its data set.

    Counts the rows and prints the prompt of the first one, as the policy will see it.

    Examples: mpo task check my-task/

    mpo task check generic --data chats.jsonl --columns prompt=instruction
    """
    place = BUILTIN / folder if str(folder) in builtin_tasks() else folder
    if not place.is_dir():
        raise TaskError(
            f"no task {str(folder)!r}: neither a folder nor a built-in task "
            f"({', '.join(builtin_tasks())})"
        )
    checked, faults = check_task(place)
    notes = []
    if checked is not None:
        notes = [f"{place / 'rubric.md'}: {note}" for note in checked.seed.notes]
    body: dict[str, Any] = {}
    if checked is not None and not faults:
        body = _check_data(checked, data, columns, split, faults, notes)
    if as_json:
        result = {"ok": not faults, "faults": faults, "notes": notes, **body}
        typer.echo(to_json(result, indent=2))
    else:
        for fault in faults:
            typer.echo(fault, err=True)
        if checked is not None and not faults:
            criteria = len(checked.rubric.criteria)
            typer.echo(f"{checked.name}: ok ({criteria} criteria, {len(checked.prompts)} prompts)")
        for note in notes:
            typer.echo(f"note: {note}")
        if body and not faults:
            typer.echo(f"{body['data']}: {body['rows']} rows; the first prompt:\n")
            typer.echo(body["first_prompt"])
    if faults:
        raise TaskError(f"{place}: {len(faults)} fault{'s' if len(faults) > 1 else ''}")


def _check_data(
    task: Task, named: str, columns: str, split: str, faults: list[str], notes: list[str]
) -> dict[str, Any]:
    """Open the data set: its place, the number of usable rows, and the first filled-in prompt."""
    source = _source(task, named)
    if source is None:
        notes.append("the task names no data set: --data FILE checks one, sample.jsonl stands in")
        source = str(task.sample)
    # All faults, not only the first one.
    options = ReadOptions(
        parse_columns(columns), None, True, split or task.spec.dataset.split, asked_by="command"
    )
    try:
        table = read_table(source, lambda row: policy_row(task, row), options)
    except DataError as error:
        if isinstance(error.__cause__, ConnectionError):
            notes.append(f"the data set was not checked: {error}")
        else:
            faults.append(str(error))
        return {}
    if table.bad:
        total = len(table.bad) + len(table.rows)
        faults += [*table.bad[:10], f"{source}: {len(table.bad)} of {total} rows cannot be used"]
    spec = task.spec.cohorts
    if spec is not None and spec.clusters > 1 and not cohorts_path(source).is_file():
        notes.append(f"no cohorts yet: mpo task cohorts {source} --task {task.folder}")
    first = task.policy_prompt(table.rows[0])
    return {"data": source, "rows": len(table.rows), "first_prompt": first}


def _source(task: Task, named: str) -> str | None:
    """The data set: the one that the command names, or the task's own."""
    own = task.spec.dataset.path
    if named or own is None:
        return named or None
    path = task.folder / own
    return str(path) if path.exists() or looks_local(own) else own


@app.command()
def show(
    task: str = typer.Argument(..., help="A built-in task, or a task folder."),
    row: int = typer.Option(1, "--row", min=1, help="Number of the row, from 1."),
    data: str = DATA,
    columns: str = offline.COLUMNS,
    split: str = SPLIT,
    completion: str = typer.Option(
        "", help="Completion to be judged; that of the row if left out, else a filler."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Print what the models are asked for one row, word for word; none is called.

    That is the policy's prompt, the reward model's request, and the requests of a meta step. The
    scores and analyses in them, which models would write, are fillers.

    Example: mpo task show my-task/ --row 3
    """
    loaded = load_task(task)
    source = _source(loaded, data) or str(loaded.sample)
    options = ReadOptions(
        parse_columns(columns), row, False, split or loaded.spec.dataset.split, asked_by="command"
    )
    try:
        rows: list[SourceRow] = read_table(source, lambda row: row, options).rows
    except DataError as error:
        if data or not isinstance(error.__cause__, ConnectionError):
            raise
        typer.echo(f"{error}: sample.jsonl stands in", err=True)
        rows = read_table(loaded.sample, lambda row: row, options).rows
    if len(rows) < row:
        raise DataError(f"{source} has {len(rows)} rows: there is no row {row}")
    requests = task_requests(loaded, rows[row - 1], completion)
    if as_json:
        typer.echo(to_json(requests, indent=2))
    else:
        show_requests(requests)


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
