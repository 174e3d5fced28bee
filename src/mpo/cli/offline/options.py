"""Options of the commands that score or evolve without a trainer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import typer

from ...data import ReadOptions, parse_columns
from ..endpoints import CHAT_OPTION

__all__ = [
    "API_KEY_ENV",
    "CHAT",
    "COLUMNS",
    "CONCURRENCY",
    "DEFAULT_KEY_ENV",
    "LIMIT",
    "MODEL",
    "RUBRIC",
    "SKIP_BAD",
    "SPLIT",
    "STORE",
    "TASK",
    "OfflineOptions",
    "offline_command",
    "read_options",
]

FILE: Any = typer.Argument(
    ..., help="Prompts with completions: a file, a saved data set's folder, or a hub id."
)
TASK: Any = typer.Option("", "--task", help="A built-in task, or a task folder; else generic.")
COLUMNS: Any = typer.Option(
    "",
    "--columns",
    help="The file's columns by name: prompt=instruction+input,completion=output,score=rating.",
)
LIMIT: Any = typer.Option(None, "--limit", min=1, help="Read only the first usable rows.")
SKIP_BAD: Any = typer.Option(
    False, "--skip-bad", help="Leave out rows that cannot be used, and say how many."
)
SPLIT: Any = typer.Option("train", "--split", help="Split of a saved data set, or of the hub's.")
RUBRIC: Any = typer.Option(None, "--rubric", help="Rubric file; the task's own if left out.")
CHAT: Any = typer.Option(..., "--chat", help="http://host:port/v1, or a plugin such as sandbox.")
MODEL: Any = typer.Option("", "--model", help="Name of the model at that endpoint.")
DEFAULT_KEY_ENV = "OPENAI_API_KEY"
API_KEY_ENV: Any = typer.Option(DEFAULT_KEY_ENV, help="Variable with the API key.")
CONCURRENCY: Any = typer.Option(32, min=1, help="Largest number of requests in flight.")
PRICE: Any = typer.Option(
    "", "--price", help="US dollars per million tokens: prompt,completion[,cached]."
)
STORE: Any = typer.Option(
    None, "--store", help="Store file; by default one in runs/, named after file and rubric."
)
ESTIMATE: Any = typer.Option(False, "--estimate", help="Only print the estimated calls and cost.")


@dataclass(frozen=True)
class OfflineOptions:
    """The options that both commands have."""

    file: Path = FILE
    columns: str = COLUMNS
    limit: int | None = LIMIT
    skip_bad: bool = SKIP_BAD
    split: str = SPLIT
    task: str = TASK
    rubric: Path | None = RUBRIC
    chat: str = CHAT
    model: str = MODEL
    api_key_env: str = API_KEY_ENV
    concurrency: int = CONCURRENCY
    chat_option: list[str] = CHAT_OPTION
    price: str = PRICE
    store: Path | None = STORE
    estimate: bool = ESTIMATE

    @property
    def reading(self) -> ReadOptions:
        """How the file is read."""
        return read_options(self.columns, self.limit, self.skip_bad, self.split)


def read_options(columns: str, limit: int | None, skip_bad: bool, split: str) -> ReadOptions:
    """The choice of rows that a command's options make.

    Raises:
        ConfigError: `columns` has another form than NAME=COLUMN,….
    """
    return ReadOptions(parse_columns(columns), limit, skip_bad, split, asked_by="command")


def offline_command(app: typer.Typer) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose first argument is `OfflineOptions`.

    On the command line, their fields come before the function's own options.
    """

    def register(function: Callable[..., None]) -> Callable[..., None]:
        keyword = inspect.Parameter.KEYWORD_ONLY
        types = get_type_hints(OfflineOptions)
        shared = [
            inspect.Parameter(f.name, keyword, default=f.default, annotation=types[f.name])
            for f in fields(OfflineOptions)
        ]
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        every = [*shared, *(parameter.replace(kind=keyword) for parameter in own)]

        def command(**values: Any) -> None:
            options = OfflineOptions(
                **{parameter.name: values.pop(parameter.name) for parameter in shared}
            )
            function(options, **values)

        command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
        command.__doc__ = function.__doc__
        app.command(name=function.__name__)(command)
        return function

    return register
