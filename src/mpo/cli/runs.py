"""Runs on disk: from what a person types to a folder or a store."""

from __future__ import annotations

from pathlib import Path

import typer

from ..config import Config
from ..errors import ConfigError, StoreError
from ..store import Store

__all__ = [
    "RUNS",
    "create_store",
    "default_name",
    "expand",
    "find",
    "find_one",
    "open_store",
    "run_path",
]

RUNS = Path("runs")
"""Folder of all runs, seen from where the command runs."""


def default_name(config: Config) -> str:
    """`essay-mpo-0`: task, arm and seed."""
    return f"{Path(config.task).name}-{config.arm}-{config.seed}"


def run_path(name: str) -> Path:
    """`runs/NAME`, for a name that stays inside.

    Raises:
        typer.BadParameter: It does not.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise typer.BadParameter(f"{name!r} is not a name for a run: use letters, digits, '-', '/'")
    return RUNS / name


def find(text: str) -> Path:
    """The folder that a person means: a path, or the name of a run under runs/.

    Raises:
        ConfigError: There is none.
    """
    for path in (Path(text), RUNS / text):
        if path.exists():
            return path
    raise ConfigError(f"no run {text!r}: neither a path nor a folder in {RUNS}/")


def expand(folder: Path) -> list[Path]:
    """The runs of a folder: itself, or those of a comparison, in the order of their names.

    Of a comparison, runs that have nothing to show yet are left out, unless all are.

    Raises:
        ConfigError: There is no store in it.
    """
    if folder.is_file():
        return [folder.parent]
    if (folder / "mpo.db").is_file():
        return [folder]
    runs = sorted(path.parent for path in folder.glob("*/mpo.db"))
    if not runs:
        raise ConfigError(f"{folder} is not the folder of a run: it has no mpo.db")
    return [run for run in runs if _judged(run)] or runs


def _judged(run: Path) -> bool:
    with Store(run / "mpo.db", create=False) as store:
        return store.last_step() is not None


def find_one(text: str) -> Path:
    """The folder of the one run that a person means.

    Raises:
        ConfigError: There is none, or there are several.
    """
    path = find(text)
    runs = expand(path)
    if len(runs) > 1:
        names = ", ".join(str(run) for run in runs)
        raise ConfigError(f"{path} holds several runs; name one of {names}")
    return runs[0]


def open_store(text: str) -> Store:
    """The store of one run, by folder, name, or the file itself.

    Raises:
        ConfigError: There is none, or there are several.
        StoreError: It cannot be opened.
    """
    path = find(text)
    return Store(path if path.is_file() else find_one(text) / "mpo.db", create=False)


def create_store(path: Path) -> Store:
    """The store at a path; it and the folder around it are created where they are missing.

    Raises:
        StoreError: They cannot be created, or the store cannot be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent}: cannot be created: {error.strerror}") from error
    return Store(path)
