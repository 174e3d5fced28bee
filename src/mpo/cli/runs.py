"""Runs on disk: from what a person types to a folder, a store or a rubric."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import typer

from ..config import Config, load_config
from ..errors import ConfigError, StoreError
from ..store import STORE, RunFiles, Store
from ..training.files import newest_checkpoint

__all__ = [
    "RUN",
    "RUNS",
    "create_store",
    "default_name",
    "expand",
    "find_place",
    "find_run",
    "goes_on",
    "is_store",
    "open_store",
    "run_path",
]

RUNS = Path("runs")
"""Folder of all runs, seen from where the command runs."""

RUN = "A run's folder or name, its store (a .db file of any name), or its config."
"""Help of an argument that names a run."""

_HEADER = b"SQLite format 3\x00"


def default_name(config: Config) -> str:
    """`essay-mpo-0`: task, arm and seed."""
    return f"{Path(config.task).name}-{config.arm}-{config.seed}"


def goes_on(folder: Path) -> str:
    """The update from which a run that trains goes on, in words that follow its name."""
    newest = newest_checkpoint(folder / "checkpoints")
    if newest is None:
        return "has no checkpoint yet: it begins again at update 1, and pays for no answer twice"
    return f"goes on from checkpoint {newest.step}, at update {newest.step + 1}"


def run_path(name: str) -> Path:
    """`runs/NAME`, for a name that stays inside.

    Raises:
        typer.BadParameter: It does not.
    """
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise typer.BadParameter(f"{name!r} is not a name for a run: use letters, digits, '-', '/'")
    return RUNS / name


def find_place(text: str) -> Path:
    """The folder or file that a person means: a path, or a name under runs/.

    A folder of a run, a folder of several, a store of any name, and a config name runs.

    Raises:
        ConfigError: No run is there.
    """
    places = [path for path in (Path(text), RUNS / text) if text and _exists(path)]
    place = next((place for place in places if _runs_at(place)), None)
    if place is None:
        raise ConfigError(_why_none(text, places))
    return place


def expand(place: Path) -> list[RunFiles]:
    """The runs at a place, in the order of their names.

    Of several, those that have nothing to show yet are left out, unless all are.

    Raises:
        StoreError: One of several stores cannot be opened.
    """
    runs = _runs_at(place)
    return runs if len(runs) == 1 else [run for run in runs if _judged(run)] or runs


def find_run(text: str) -> RunFiles:
    """The one run that a person means.

    Raises:
        ConfigError: There is none, or there are several.
        StoreError: One of several stores cannot be opened.
    """
    place = find_place(text)
    runs = expand(place)
    if len(runs) > 1:
        names = ", ".join(str(run.path) for run in runs)
        raise ConfigError(f"{place} holds several runs; name one of {names}")
    return runs[0]


def open_store(text: str) -> Store:
    """The store of one run.

    Raises:
        ConfigError: There is none, or there are several.
        StoreError: It cannot be opened.
    """
    return Store(find_run(text).store, create=False)


def is_store(path: Path) -> bool:
    """True for a store by its name or its content; it may be broken, or another program's."""
    if path.suffix == ".db":
        return True
    try:
        with path.open("rb") as file:
            return file.read(len(_HEADER)) == _HEADER
    except OSError:
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _runs_at(place: Path) -> list[RunFiles]:
    if place.is_dir():
        if (place / STORE).is_file():
            return [RunFiles(place / STORE)]
        inside = sorted(place.glob(f"*/{STORE}"))
        return [RunFiles(store) for store in inside or sorted(place.glob("*.db"))]
    if is_store(place):
        return [RunFiles(place)]
    if place.suffix in (".yaml", ".yml"):
        # The config in a run's folder, or one from which a run was started without a name.
        folders = (place.parent, RUNS / default_name(load_config(place)))
        stores = [folder / STORE for folder in folders[place.name != "config.yaml" :]]
        return [RunFiles(store) for store in stores if store.is_file()][:1]
    return []


def _why_none(text: str, places: Sequence[Path]) -> str:
    if not places:
        known = sorted(path.name for path in RUNS.iterdir()) if RUNS.is_dir() else []
        near = difflib.get_close_matches(Path(text).name, known, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"no run {text!r}: neither a path nor a folder in {RUNS}/{hint}"
    place = places[0]
    if place.is_dir():
        started = (place / "config.yaml").is_file()
        why = "its run made no store yet: start it again" if started else f"it has no {STORE}"
        return f"{place} is not the folder of a run: {why}"
    if place.suffix in (".yaml", ".yml"):
        name = default_name(load_config(place))
        return f"{place} is a config, and {RUNS / name} holds no run of it: name the run's folder"
    return f"{place} is not the store of a run: name a run's folder, its {STORE}, or its config"


def _judged(run: RunFiles) -> bool:
    with Store(run.store, create=False) as store:
        return store.last_step() is not None


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
