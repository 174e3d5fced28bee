"""The part of `Store` that keeps a chat's answers: the `Cache` of `mpo.chat`.

An answer belongs to a question, not to a run's history: it is the same on every branch, and a
restore does not take it back. It was paid for.

Answers arrive by the hundred, and a commit costs more than an answer. So they wait for each other
for a moment, or for the next commit of cases or decisions. A kill in that moment loses them; they
are asked again then, as the calls that were in flight are.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .branches import Branches, Writer, dump

__all__ = ["Replies"]

_MOMENT_S = 0.05
"""Longest wait of an answer for its commit, in seconds, while its event loop runs."""
_CROWD = 256
"""So many answers do not wait for more."""


class Replies(Branches):
    """Answers by the key of their question."""

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        super().__init__(path, create=create)
        # Single operations on the dict only: no lock that a fork could leave taken.
        self._waiting: dict[str, str] = {}
        self._due: float | None = None

    def get(self, key: str) -> Mapping[str, Any] | None:
        """What was put under the key, or None.

        Raises:
            StoreError: The file cannot be read.
        """
        content = self._waiting.get(key)
        if content is None:
            row = self._db.first("SELECT content FROM replies WHERE key = ?", (key,))
            if row is None:
                return None
            content = str(row[0])
        try:
            value = json.loads(content)
        except ValueError:
            return None  # changed by another program: it is asked again
        return value if isinstance(value, dict) else None

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep JSON values under a key; the first value stays. Committed within a moment.

        Raises:
            StoreError: It holds what JSON cannot express, or the file cannot be written.
        """
        self._waiting.setdefault(key, dump(dict(value)))
        now = time.monotonic()
        if self._due is None:
            self._due = now + _MOMENT_S
            try:
                asyncio.get_running_loop().call_later(_MOMENT_S, self._flush_due, self._due)
            except RuntimeError:  # no loop runs: nothing would come back to commit it
                self.flush()
        # The timer died with its loop, or has much to do.
        elif now > self._due + _MOMENT_S or len(self._waiting) >= _CROWD:
            self.flush()

    def flush(self) -> None:
        """Commit the answers that wait.

        Raises:
            StoreError: The file cannot be written; they go on waiting.
        """
        if self._waiting:
            with self._writing():  # takes them along
                pass

    def close(self) -> None:
        """Commit the answers that wait, and close the file; any later use is a StoreError."""
        with suppress(StoreError):  # they can be asked again
            self.flush()
        super().close()

    def _flush_due(self, due: float) -> None:
        if due != self._due:  # another commit took them along; those since then have their own time
            return
        with suppress(StoreError):  # nobody would hear of it; the next commit raises the same
            self.flush()

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        """Every commit of events takes along the answers that wait."""
        with super()._writing() as writer:
            yield writer
            self._due = None
            taken = list(self._waiting.items())
            if taken:
                writer.connection.executemany(
                    "INSERT INTO replies (key, content) VALUES (?, ?) ON CONFLICT (key) DO NOTHING",
                    taken,
                )
        for key, _ in taken:
            self._waiting.pop(key, None)
