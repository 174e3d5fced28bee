"""`mpo report`: one HTML file about runs."""

from __future__ import annotations

import json
import os
import webbrowser
from pathlib import Path
from typing import Any

import typer

from ..report import write_report
from .runs import expand, find

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def report(
    runs: list[str] = typer.Argument(..., help="Folders or names of runs or comparisons."),
    out: Path = typer.Option(
        None, help="File to write; report.html in the runs' folder if left out."
    ),
    open_it: bool = typer.Option(False, "--open", help="Open the file in a browser."),
) -> None:
    """Write one HTML file about one or more runs.

    It needs no network: figures and scripts are inside.

    Example: mpo report runs/sandbox-essay --open
    """
    folders = [find(text) for text in runs]
    paths = list(dict.fromkeys(path for folder in folders for path in expand(folder)))
    compare = _comparison(folders[0]) if len(folders) == 1 else None
    target = out if out is not None else _place(folders, paths) / "report.html"
    write_report(paths, target, compare)
    typer.echo(f"report: {target}")
    if open_it:
        webbrowser.open(target.resolve().as_uri())


def _comparison(folder: Path) -> dict[str, Any] | None:
    try:
        value = json.loads((folder / "compare.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _place(folders: list[Path], paths: list[Path]) -> Path:
    """The folder that was named, or the one that several have in common."""
    if len(folders) == 1:
        return folders[0] if folders[0].is_dir() else folders[0].parent
    return Path(os.path.commonpath([path.resolve() for path in paths]))
