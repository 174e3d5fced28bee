"""`mpo report`: one HTML file about runs."""

from __future__ import annotations

import json
import os
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from ..report import write_report
from ..store import RunFiles
from .runs import RUN, expand, find_place

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def report(
    runs: list[str] = typer.Argument(..., help=f"{RUN} Also a comparison's, and several."),
    out: Path = typer.Option(
        None, help="File to write; report.html in the runs' folder if left out."
    ),
    open_it: bool = typer.Option(False, "--open", help="Open the file in a browser."),
) -> None:
    """Write one HTML file about one or more runs.

    It needs no network: figures and scripts are inside.

    Example: mpo report runs/sandbox-essay --open
    """
    places = [find_place(text) for text in runs]
    files = list({run.store.resolve(): run for p in places for run in expand(p)}.values())
    compare = _comparison(places[0]) if len(places) == 1 else None
    target = out if out is not None else _target(places, files)
    write_report([run.path for run in files], target, compare)
    typer.echo(f"report: {target}")
    if open_it:
        webbrowser.open(target.resolve().as_uri())


def _comparison(folder: Path) -> dict[str, Any] | None:
    try:
        value = json.loads((folder / "compare.json").read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _target(places: Sequence[Path], files: Sequence[RunFiles]) -> Path:
    """In the folder that was named, or in the one that several runs have in common."""
    if len(places) > 1:
        folders = [run.path.resolve() for run in files]
        return Path(os.path.commonpath(folders)) / "report.html"
    return places[0] / "report.html" if places[0].is_dir() else files[0].report
