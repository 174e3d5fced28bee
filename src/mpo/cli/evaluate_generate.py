"""`mpo evaluate generate`: completions of checkpoints on a test set."""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path

import typer

from ..config import policy_row
from ..config.plugins import find_plugin
from ..data import PROMPT, ReadOptions, SourceRow
from ..errors import ConfigError
from ..evaluation.rows import JsonlLog, Row
from ..records import to_json
from ..task import Task, load_task
from ..training.completions import CompletionSettings, check_packages, complete_test_set
from ..training.files import newest_checkpoint
from . import offline
from .evaluate_common import AS_JSON, plain_row, progress_bar, rows_of_file

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

MAX_TOKENS = 400
"""Longest completion in tokens where neither --max-tokens nor --task sets it."""


@app.command()
def generate(
    test_set: str = typer.Argument(
        ..., help="Prompts: a file, a saved data set's folder, or a hub id."
    ),
    checkpoints: list[str] = typer.Argument(
        ...,
        help="Checkpoints, each as PLACE or NAME=PLACE: a folder, a hub id, a run (its newest "
        "checkpoint), or a plugin such as sandbox.",
    ),
    out: Path = typer.Option(
        Path("outputs"), help="Folder for the completions, one file per checkpoint."
    ),
    task: str = typer.Option("", help="A task whose prompt template wraps the rows."),
    columns: str = offline.COLUMNS,
    limit: int = offline.LIMIT,
    skip_bad: bool = offline.SKIP_BAD,
    split: str = offline.SPLIT,
    max_tokens: int = typer.Option(
        0, min=0, help=f"Longest completion; 0 for the task's own, else {MAX_TOKENS}."
    ),
    temperature: float = typer.Option(
        0.0, min=0, help="Sampling temperature; 0 for greedy decoding."
    ),
    top_p: float = typer.Option(1.0, min=0.01, max=1, help="Nucleus sampling."),
    template: bool = typer.Option(
        False, "--template", help="Wrap prompts in the tokenizer's chat template."
    ),
    batch_size: int = typer.Option(16, min=1, help="Completions per batch."),
    seed: int = typer.Option(0, help="Random seed for sampling."),
    as_json: bool = AS_JSON,
) -> None:
    """Complete a test set with one or more checkpoints.

    Prompts are taken as they are, as the trainers do, unless --template is given. Run the
    same command again to continue after a stop; no row is generated twice.

    Example: mpo evaluate generate test.jsonl base=Qwen/Qwen2.5-1.5B runs/essay-mpo-0 --task essay
    """
    loaded = load_task(task) if task else None
    reading = offline.read_options(columns, limit, skip_bad, split)
    rows = _test_rows(test_set, loaded, reading)
    named = _named(checkpoints, loaded.name if loaded else "essay")
    check_packages()
    # Before transformers is imported: its notices would tear the bar apart.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    settings = CompletionSettings(
        max_tokens=max_tokens or (loaded.spec.response.max_tokens if loaded else MAX_TOKENS),
        temperature=temperature,
        top_p=top_p,
        template=template,
        seed=seed,
    )
    files = {}
    for name, checkpoint in named.items():
        path = out / f"{name}.jsonl"
        with JsonlLog(path) as log, progress_bar(f"generating {name}") as progress:
            fresh = complete_test_set(
                checkpoint,
                name,
                rows,
                log,
                settings=settings,
                batch_size=batch_size,
                progress=progress,
            )
            cut = sum(not row["finished"] for row in log.rows)
        files[name] = {"file": str(path), "rows": len(rows), "new": fresh, "cut_off": cut}
        if not as_json:
            typer.echo(f"{path}: {len(rows)} rows, {fresh} of them new, {cut} cut at the limit")
    if as_json:
        typer.echo(to_json(files, indent=2))


def _test_rows(source: str, task: Task | None, reading: ReadOptions) -> list[Row]:
    if task is None:
        return rows_of_file(source, reading, _prompt_row)
    rows = rows_of_file(source, reading, partial(policy_row, task))
    return [{**row, "prompt": task.policy_prompt(row)} for row in rows]


def _prompt_row(row: SourceRow) -> Row:
    return {**plain_row(row), "prompt": row.prompt(*PROMPT)}


def _named(checkpoints: list[str], task: str) -> dict[str, str]:
    """Folders or hub ids of the checkpoints, by the names of their output files."""
    named: dict[str, str] = {}
    for text in checkpoints:
        name, equals, place = text.rpartition("=")
        name = name if equals else _name(place)
        if not re.fullmatch(r"[\w.+-]+", name) or name.startswith("."):
            raise ConfigError(f"{name!r} is no name for a file: write NAME={place}")
        if name in named:
            raise ConfigError(
                f"two checkpoints are called {name!r}: give each another name, NAME={place}"
            )
        named[name] = _resolve(place, task)
    return named


def _name(place: str) -> str:
    path = Path(place)
    parts = path.parts[-3:]
    if len(parts) == 3 and parts[1] == "checkpoints":
        return f"{parts[0]}-{parts[2]}"
    return path.name or place


def _resolve(place: str, task: str) -> str:
    """A folder that transformers can load, or a hub id."""
    plugin = find_plugin(place)
    if plugin is not None:
        return str(plugin.policy(task, lambda message: typer.echo(message, err=True)))
    folder = Path(place)
    if not (folder / "checkpoints").is_dir():
        if not folder.exists() and (place.startswith((".", "/")) or place.count("/") > 1):
            raise ConfigError(f"no checkpoint {place!r}: no such folder")
        return place
    newest = newest_checkpoint(folder / "checkpoints")
    if newest is None:
        raise ConfigError(f"run {place!r} has no checkpoint yet")
    return str(newest.folder)
