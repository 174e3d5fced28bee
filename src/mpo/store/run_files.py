"""Files of a run, seen from its store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["STORE", "RunFiles"]

STORE = "mpo.db"
"""Name of the store in a run's folder."""


@dataclass(frozen=True)
class RunFiles:
    """A run's store, and what lies beside it.

    Config, summary and report of a folder are those of its `mpo.db`. A store of another name (a
    copy, or one that a program of your own made) stands alone: nothing beside it tells of it.
    """

    store: Path

    @classmethod
    def at(cls, path: Path) -> RunFiles:
        """The run in a folder, or of a store."""
        named = path.is_file() or (path.suffix == ".db" and not path.is_dir())
        return cls(path if named else path / STORE)

    @property
    def folder(self) -> Path:
        return self.store.parent

    @property
    def path(self) -> Path:
        """Path by which a person names the run: its folder, or a store that stands alone."""
        return self.store if self.alone else self.folder

    @property
    def alone(self) -> bool:
        """True if the files beside the store are not about it."""
        return self.store.name != STORE

    def beside(self, name: str) -> Path | None:
        """A file of this run beside its store; None where there is none."""
        path = self.folder / name
        return path if not self.alone and path.is_file() else None

    @property
    def replays(self) -> Path:
        """Folder of the stores that `mpo replay` makes."""
        return self.folder / (f"{self.store.stem}-replay" if self.alone else "replay")

    @property
    def report(self) -> Path:
        """File of the report, unless another one is named."""
        return self.folder / (f"{self.store.stem}-report.html" if self.alone else "report.html")
