"""`mpo import`: a run of the published code, as a run of this package."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import typer

from ..config import write_text
from ..errors import ConfigError, StoreError
from ..evaluation.run_metrics import arm_seed_summary
from ..importers import Experiment, Imported, read_experiment, write_experiment
from ..records import to_json
from ..store import Store
from ..training.files import write_rubrics
from .runs import run_path

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

SHOWN = 20
"""Unparsed rows that are printed; `--json` prints all."""


@app.command("import")
def import_(
    folder: Path = typer.Argument(..., help="An experiment's folder, or its JSONL form."),
    name: str = typer.Option(..., "--name", help="The run's folder is runs/NAME."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Read a run of the published MPO code.

    The commands report, rubric and replay work on it as on any other run. Answers are read
    strictly: a row whose scores do not fit its rubric, or do not add up, is listed and stays
    unscored.

    Example: mpo import models/mpo_essay_writing --name theirs
    """
    target = run_path(name)
    if target.exists():
        raise ConfigError(f"{target} exists: choose another --name, runs are never overwritten")
    experiment = read_experiment(folder)
    imported = _write(target, experiment)
    if as_json:
        typer.echo(to_json({**asdict(imported), "run": str(target)}, indent=2))
        return
    typer.echo(
        f"{target}: {imported.rollouts} rollouts, {imported.rubrics} rubrics, "
        f"{imported.meta_evaluations} analyses, {len(imported.unparsed)} unparsed"
    )
    for row in imported.unparsed[:SHOWN]:
        typer.echo(
            f"unparsed: update {row['update']}, rank {row['rank']}, row {row['index']}: "
            f"{row['reason']}"
        )
    if len(imported.unparsed) > SHOWN:
        reasons = Counter(row["reason"].partition(":")[0] for row in imported.unparsed)
        counts = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
        typer.echo(f"unparsed in total: {counts}; --json lists each")
    for note in imported.notes[:SHOWN]:
        typer.echo(f"note: {note}")
    typer.echo(f"next: mpo report {target}")


def _write(target: Path, experiment: Experiment) -> Imported:
    """Write the run's folder, whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise StoreError(f"{target.parent}: cannot be written: {error.strerror}") from error
    try:
        with Store(work / "mpo.db") as store:
            imported = write_experiment(experiment, store)
            write_rubrics(work / "rubrics", store)
            summary = {
                "arm": "imported",
                **arm_seed_summary(store),
                "unscored": store.unscored(),
                "imported": {"from": str(experiment.folder.resolve()), **asdict(imported)},
            }
        text = to_json(summary, indent=2)
        write_text(work / "summary.json", text + "\n")
        work.chmod(0o755)
        work.rename(target)
    except OSError as error:
        raise StoreError(f"{target}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)  # gone already unless something failed
    return imported
