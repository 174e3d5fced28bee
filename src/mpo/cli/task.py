"""`mpo task`: look after task folders."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from ..errors import TaskError
from ..task import BUILTIN, builtin_tasks, check_task

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)


@app.callback()
def task() -> None:
    """Check a task folder."""


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
    found, faults = check_task(place)
    notes = list(found.seed.notes) if found is not None else []
    if as_json:
        typer.echo(json.dumps({"ok": not faults, "faults": faults, "notes": notes}, indent=2))
    else:
        for note in notes:
            typer.echo(f"note: {place / 'rubric.md'}: {note}")
        for fault in faults:
            typer.echo(fault, err=True)
    if faults:
        raise TaskError(f"{place}: {len(faults)} fault{'s' if len(faults) > 1 else ''}")
    if found is not None and not as_json:
        criteria = len(found.rubric.criteria)
        typer.echo(f"{found.name}: ok ({criteria} criteria, {len(found.prompts)} prompts)")
