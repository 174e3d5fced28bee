"""`mpo config`: a config to start from, and the list of all keys."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import typer

from ..config import write_text
from ..config.keys import config_keys, keys_markdown
from ..errors import ConfigError
from ..records import to_json

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False, no_args_is_help=True)

STARTER = """\
# A run of MPO: change the values that fit your machine, then
#   mpo plan {file}       says what the run will ask and cost
#   mpo train {file}      trains
# `mpo config keys` lists every key with its default.
task: {task}  # a built-in task, or a folder that `mpo task new` wrote
model: Qwen/Qwen2.5-1.5B-Instruct  # the policy: a folder or hub id
arm: mpo  # fixed keeps the seed rubric, for comparison
data:
  path: sample  # the task's own few rows; put your JSONL file or hub id here
chat:  # the model that grades
  base_url: http://localhost:8000/v1
  model: qwen
# meta_chat: {{base_url: http://localhost:8001/v1, model: larger}}  # rewrites rubrics
meta:
  every: 10  # updates between meta steps
  gate: probes  # what a new rubric must pass; always is the published method
trainer:
  algorithm: grpo  # or rloo, ppo
  steps: 200  # optimizer updates
  batch_size: 64  # completions per update
  num_generations: 8  # completions per prompt
# budget: {{tokens: 50000000}}  # the run stops when it has spent this
"""


@app.callback()
def config() -> None:
    """Write a config to start from; list all keys."""


@app.command()
def new(
    file: Path = typer.Argument(Path("config.yaml"), help="File to write."),
    task: str = typer.Option("essay", help="A built-in task, or a task folder."),
) -> None:
    """Write a commented config to start from.

    Example: mpo config new essay.yaml --task essay
    """
    if file.exists():
        raise ConfigError(f"{file} exists already: choose another name, or remove it first")
    write_text(file, STARTER.format(file=file, task=task))
    typer.echo(f"wrote {file}; see what it will cost: mpo plan {file}")


@app.command()
def keys(
    markdown: bool = typer.Option(False, "--markdown", help="Print the page docs/config.md."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """List every key with its type, default and description.

    Example: mpo config keys
    """
    if markdown:
        typer.echo(keys_markdown(), nl=False)
    elif as_json:
        typer.echo(to_json([asdict(key) for key in config_keys()], indent=2))
    else:
        for key in config_keys():
            mark = "; may change while a run goes on" if key.operational else ""
            typer.echo(f"{key.name} = {key.default}\n    {key.type}{mark}\n    {key.description}")
