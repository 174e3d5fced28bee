"""The folder of a run: config.yaml, mpo.db, checkpoints/, rubrics/, summary.json, report.html.

The same name with the same config continues. Operational keys may differ: the folder's config
becomes the new one, and the store keeps each change with its update. Another config is refused once
the run has had an update; until then the name is free. While a run works on its folder nobody else
may.

The folder remembers which store is its own, so that one which vanished or was replaced is an error
and no new beginning.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, StoreError
from ..records import ConfigChange, to_json
from ..store import Store
from ..training.files import newest_checkpoint
from .load import differences, load_config, to_yaml
from .schema import Config, is_operational, operational_keys

__all__ = [
    "RunFolder",
    "finished",
    "open_run_store",
    "read_run_config",
    "remember_store",
    "write_text",
]

STORE_ID = "store.id"
"""File of a run's folder that names its store."""

_OURS = frozenset(
    "config.yaml store.id mpo.db mpo.db-wal mpo.db-shm blind.db blind.db-wal blind.db-shm blind.md "
    "rubrics checkpoints tensorboard report.html".split()
)
"""Names that a start leaves in a folder. One with anything else in it is not removed."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all: a reader sees the old text or the new one.

    Raises:
        StoreError: It cannot be written (disk full, no permission).
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", errors="surrogatepass") as file:
                file.write(text)
            os.chmod(name, 0o644)
            os.replace(name, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def read_run_config(folder: Path) -> Config | None:
    """The config that a folder's run was started with; None where there is none.

    Raises:
        ConfigError: It cannot be read by this version.
    """
    path = folder / "config.yaml"
    return load_config(path) if path.is_file() else None


def open_run_store(folder: Path) -> Store:
    """The store of a run's folder; made where the run is new.

    Raises:
        StoreError: The run has a store, and it is gone, empty or another one.
    """
    path, memo = folder / "mpo.db", folder / STORE_ID
    known = memo.read_text("utf-8").strip() if memo.is_file() else None
    store = Store(path, uuid=known)
    if known is not None and not store.heads():
        store.close()
        raise StoreError(
            f"store {str(path)!r} has lost what was in it, even the seed rubric: put it back, with "
            "its -wal file, or choose another --name"
        )
    return store


def remember_store(store: Store) -> None:
    """Write down which store is the run's, once it has its seed rubric."""
    memo = store.path.with_name(STORE_ID)
    if not memo.is_file():
        write_text(memo, f"{store.uuid}\n")


def finished(folder: Path, steps: int = 0) -> dict[str, Any] | None:
    """The summary of a run that has come to its end; None while it has not.

    Args:
        steps: Updates that the run should have; None is returned if its config has fewer.
    """
    if steps and (config := read_run_config(folder)) is not None and config.trainer.steps < steps:
        return None
    try:
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder / 'summary.json'}: cannot be read: {error}") from error
    return summary if isinstance(summary, dict) else None


class RunFolder:
    """A run's folder, held by this process while the `with` block lasts.

    Attributes:
        notes: Lines for people about what this start has changed.

    Args:
        path: Made where it is missing.
        config: The run's config; written into the folder.
        ignore: Top-level keys in which an existing folder's config may differ.
        started_by: Step whose rollouts show that the run has had an update: 1, or 0 for a service,
            whose engine counts.

    Raises:
        ConfigError: The folder is of another config (the message names the keys), holds something
            else, or is in use by another process.
        StoreError: It cannot be written; or its store is gone, empty or another one.
    """

    def __init__(
        self,
        path: str | Path,
        config: Config,
        ignore: tuple[str, ...] = (),
        started_by: int = 1,
    ) -> None:
        self.path = Path(path)
        self.config = config
        self.notes: list[str] = []
        self._ignore = ignore
        self._started_by = started_by
        self._lock: int | None = None

    @property
    def store(self) -> Path:
        return self.path / "mpo.db"

    def __enter__(self) -> RunFolder:
        self._check_place()
        self._hold()
        try:
            self._settle()
        except BaseException:
            self._release()
            raise
        return self

    def _check_place(self) -> None:
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file: choose another --name")
        known = (self.path / "config.yaml").exists()
        if self.path.is_dir() and not known and any(self.path.iterdir()):
            raise ConfigError(
                f"{self.path} has files in it, but no config.yaml: it is not the folder of a run; "
                "choose another --name"
            )

    def _hold(self) -> None:
        # The system lets go of the lock however the process ends; a pid file would stay behind.
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise ConfigError(
                f"{self.path} is in use by another process: wait for it, or choose another --name"
            ) from None
        except OSError as error:
            self._release()
            raise StoreError(f"{self.path}: cannot be used: {error.strerror}") from error

    def _release(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    # ------------------------------------------------------------------ an existing run

    def _settle(self) -> None:
        """Make the folder that of this config, or refuse it."""
        existing = read_run_config(self.path)
        if existing is None:
            self._write_config()
            return
        with contextlib.ExitStack() as stack:
            store = stack.enter_context(open_run_store(self.path)) if self._has_store() else None
            changes = differences(existing, self.config, self._ignore)
            refused = [change for change in changes if not is_operational(change.key)]
            if (refused or self._too_few_steps()) and not self._started():
                stack.close()
                self._clear()
                self._write_config()
                return
            if refused:
                raise ConfigError(self._refusal(changes, refused))
            if few := self._too_few_steps():
                raise ConfigError(few)
            if not changes:
                return
            step = _updates(self.path, store)
            changes = [change.model_copy(update={"step": step}) for change in changes]
            when = "changed" if self._children() else f"from update {step} on"
            self.notes += [f"{when}: {change}" for change in changes]
            if store is not None:
                store.log_changes(changes)
        if self.config.trainer.steps > existing.trainer.steps:
            (self.path / "summary.json").unlink(missing_ok=True)  # it has not come to its end now
        self._write_config()

    def _has_store(self) -> bool:
        return self.store.exists() or (self.path / STORE_ID).exists()

    def _write_config(self) -> None:
        write_text(self.path / "config.yaml", to_yaml(self.config))

    def _refusal(self, changes: list[ConfigChange], refused: list[ConfigChange]) -> str:
        listed = "; ".join(map(str, refused))
        allowed = [str(change) for change in changes if change not in refused]
        also = f" (allowed would be: {'; '.join(allowed)})" if allowed else ""
        return (
            f"{self.path} is a run of another config ({listed}){also}: give this one another "
            "--name, or use the config that it was started with. These keys may change while a "
            f"run goes on: {', '.join(operational_keys())}; all others say what the run is"
        )

    def _too_few_steps(self) -> str:
        """Why the run cannot end where the config says; empty if it can."""
        if "trainer" in self._ignore:
            return ""
        folders = [self.path, *(path.parent for path in self.path.glob("*/config.yaml"))]
        done = max(map(_checkpointed, folders))
        if done <= self.config.trainer.steps:
            return ""
        return (
            f"{self.path} has had {done} updates, more than trainer.steps="
            f"{self.config.trainer.steps}: ask for at least {done}, or choose another --name"
        )

    def _started(self) -> bool:
        """True once the run, or one of a comparison, has had an update."""
        return any(
            (folder / "summary.json").exists()
            or _checkpointed(folder) > 0
            or _last_step(folder) >= self._started_by
            for folder in [self.path, *self._children()]
        )

    def _children(self) -> list[Path]:
        return sorted(path.parent for path in self.path.glob("*/config.yaml"))

    def _clear(self) -> None:
        """Free the name. What was paid for is moved aside, and not removed."""
        if self._children() or not self._is_ours() or _paid(self.path):
            aside = next(
                path
                for n in itertools.count(1)
                if not (path := self.path.with_name(f"{self.path.name}.unstarted-{n}")).exists()
            )
            self.path.rename(aside)
            self.notes.append(f"{self.path} had no update yet, and is {aside} now")
            self._release()
            self._hold()
        else:
            for path in self.path.iterdir():
                _remove(path)

    # ------------------------------------------------------------------ the end

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            # A start that failed before anything was paid leaves nothing behind.
            with contextlib.suppress(OSError, StoreError):
                self._leave()
        self._release()

    def _leave(self) -> None:
        if (self.path / STORE_ID).exists():
            open_run_store(self.path).close()  # what is gone must be missed at the next start
        if self._is_ours() and not self._started() and not _paid(self.path):
            shutil.rmtree(self.path)

    def _is_ours(self) -> bool:
        """True if there is nothing in the folder but what a start makes."""
        return {path.name for path in self.path.iterdir()} <= _OURS

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Keep the summary: from now on the run counts as finished."""
        text = to_json(dict(summary), indent=2)
        write_text(self.path / "summary.json", text + "\n")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _checkpointed(folder: Path) -> int:
    """Updates of the newest complete checkpoint; 0 without one."""
    newest = newest_checkpoint(folder / "checkpoints")
    return newest.step if newest is not None else 0


def _updates(folder: Path, store: Store | None) -> int:
    """Updates after which a run of this folder goes on."""
    checkpointed = _checkpointed(folder)
    if checkpointed or store is None or (folder / "rubrics").is_dir():
        return checkpointed  # a trainer without a checkpoint begins again
    return store.last_step() or 0


def _last_step(folder: Path) -> int:
    """Last step of which something is scored; -1 for none."""
    if not (folder / "mpo.db").is_file():
        return -1
    with Store(folder / "mpo.db", create=False) as store:
        step = store.last_step()
    return -1 if step is None else step


def _paid(folder: Path) -> bool:
    """True if a model has answered in this run."""
    for name in ("mpo.db", "blind.db"):
        if (folder / name).is_file():
            with Store(folder / name, create=False) as store:
                if any(usage.calls for usage in store.usage().values()):
                    return True
    return False
