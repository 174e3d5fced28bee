"""Shared frame of the benchmark scripts: options from the command line, failures in one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer

from mpo.errors import MPOError

__all__ = ["run", "say"]


def run(command: Callable[..., Any]) -> None:
    """Run a function with typer options as a program; exit code 1 where it fails."""
    app = typer.Typer(rich_markup_mode=None, add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    try:
        app()
    except MPOError as error:
        typer.echo(f"error: {error}", err=True)
        raise SystemExit(1) from None


def say(message: str) -> None:
    """Tell on stderr which part is measured next."""
    typer.echo(f"measuring {message}", err=True)
