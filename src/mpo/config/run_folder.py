"""The folder of a run: config.yaml, mpo.db, checkpoints/, rubrics/, summary.json, report.html.

The same name with the same config continues; with another one it is refused, and nothing is ever
overwritten. While a run works on its folder nobody else may.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from ..errors import ConfigError, StoreError
from .load import differences, load_config, to_yaml
from .schema import Config

__all__ = ["RunFolder", "finished", "read_run_config", "write_text"]


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


def finished(folder: Path) -> dict[str, Any] | None:
    """The summary of a run that has come to its end; None while it has not."""
    try:
        summary = json.loads((folder / "summary.json").read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{folder / 'summary.json'}: cannot be read: {error}") from error
    return summary if isinstance(summary, dict) else None


class RunFolder:
    """A run's folder, held by this process while the `with` block lasts.

    Args:
        path: Made where it is missing.
        config: The run's config; written into a new folder.
        ignore: Top-level keys in which an existing folder's config may differ.

    Raises:
        ConfigError: The folder is of another config (the message names the keys), holds something
            else, or is in use by another process.
        StoreError: It cannot be written.
    """

    def __init__(self, path: str | Path, config: Config, ignore: tuple[str, ...] = ()) -> None:
        self.path = Path(path)
        self.config = config
        self._ignore = ignore
        self._lock: IO[str] | None = None

    @property
    def store(self) -> Path:
        return self.path / "mpo.db"

    def __enter__(self) -> RunFolder:
        existing = read_run_config(self.path)
        if existing is not None:
            changed = differences(existing, self.config, self._ignore)
            if changed:
                raise ConfigError(
                    f"{self.path} is a run of another config ({'; '.join(changed)}): give this "
                    "one another --name, or use the config that it was started with"
                )
        elif self.path.is_dir() and any(self.path.iterdir()):
            raise ConfigError(
                f"{self.path} has files in it, but no config.yaml: it is not the folder of a run; "
                "choose another --name"
            )
        elif self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file: choose another --name")
        else:
            write_text(self.path / "config.yaml", to_yaml(self.config))
        self._hold()
        return self

    def _hold(self) -> None:
        # The system lets go of the lock however the process ends; a pid file would stay behind.
        try:
            self._lock = (self.path / "config.yaml").open("r+", encoding="utf-8")
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{self.path} is in use by another process: wait for it, or choose another --name"
            ) from None
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be used: {error.strerror}") from error

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Keep the summary: from now on the run counts as finished."""
        text = json.dumps(dict(summary), indent=2, ensure_ascii=False, allow_nan=False)
        write_text(self.path / "summary.json", text + "\n")
