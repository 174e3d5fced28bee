"""Branches: which events are visible, and how to go back without deleting any.

Going back to a snapshot starts a branch. An event is visible when it happened on the current
branch, or on an ancestor of it before the fork. The current branch is the last one in the file, so
all processes agree on it without a message.

    seq   1 2 3 4 5 6          7 8 9
    main  ●─●─●─●─●─●    restore({seq: 3})
                └─────── branch ●─●─●        visible: 1 2 3 7 8 9
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import NewerStoreError, StoreError
from .database import Database
from .schema import SCHEMA

__all__ = ["CHAIN", "Branches", "View", "Writer", "dump", "load"]

_END = 2**63 - 1

CHAIN = f"""
WITH RECURSIVE chain(branch, upto) AS (
    SELECT max(id), {_END} FROM branches
    UNION ALL
    SELECT b.parent, b.fork FROM chain JOIN branches b ON b.id = chain.branch
    WHERE b.parent IS NOT NULL
)
"""
"""Start of a query that sees visible events only: the current branch and its ancestors, each with
the last sequence number that counts. Join it with CROSS JOIN, which fixes the order of the loops:
the planner cannot know that the chain is short. So do the joins after it."""

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))
Record = TypeVar("Record", bound=BaseModel)


def dump(value: Any) -> str:
    """JSON text of a record or of plain JSON values.

    Python's own `json`, not pydantic's: that one turns NaN into null, and stops at a lone
    surrogate, which a policy may well emit.

    Raises:
        StoreError: It holds something that JSON cannot express.
    """
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    try:
        text = _ENCODER.encode(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"a value cannot be stored as JSON: {error}") from error
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(plain, separators=(",", ":"))  # \ud800: SQLite takes no lone surrogate
    return text


def load(record: type[Record], text: str) -> Record:
    """The record that `dump` wrote."""
    try:
        return record.model_validate_json(text)
    except ValidationError:
        pass  # pydantic's reader stops at a lone surrogate; Python's is slower and does not
    try:
        return record.model_validate(json.loads(text))
    except (ValidationError, ValueError) as error:
        raise StoreError(
            f"a stored {record.__name__} cannot be read: {error}; the file was changed by another "
            "program, or is damaged"
        ) from error


class View:
    """One state of the store: what is visible from the current branch."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.execute = connection.execute
        self.chain: dict[int, int] = dict(
            connection.execute(CHAIN + "SELECT branch, upto FROM chain")
        )
        self.branch: int = next(iter(self.chain))
        self.seq: int = connection.execute("SELECT seq FROM counter").fetchone()[0]

    def sees(self, branch: int, seq: int) -> bool:
        """Whether an event is visible."""
        return seq <= self.chain.get(branch, -1)


class Writer(View):
    """A state that is being written; no other writer at the same time."""

    def tick(self) -> int:
        """The sequence number of the next event."""
        self.seq += 1
        return self.seq

    def finish(self) -> None:
        """Before the commit: keep the counter."""
        self.execute("UPDATE counter SET seq = ?", (self.seq,))


class Branches:
    """The part of `Store` that opens the file, and goes back in it."""

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        self._db = Database(Path(path), create=create)
        with self._db.read() as connection:
            identity = dict(connection.execute("SELECT name, value FROM identity"))
        self._uuid: str = identity["uuid"]
        self._secret = bytes.fromhex(identity["secret"])

    @property
    def path(self) -> Path:
        """Of the file, absolute."""
        return self._db.path

    @property
    def uuid(self) -> str:
        """32 hex digits, drawn when the file was made. A copy of the file has the same."""
        return self._uuid

    @property
    def secret(self) -> bytes:
        """32 random bytes, drawn when the file was made: fences around untrusted text use them."""
        return self._secret

    def close(self) -> None:
        """Close the file; any later use is a StoreError. May be called twice."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the file anew. It must exist: a new, empty store in its place would
        # look like a run without a past.
        return _reopen, (type(self), str(self.path))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    @contextmanager
    def _reading(self) -> Iterator[View]:
        with self._db.read() as connection:
            yield View(connection)

    @contextmanager
    def _writing(self) -> Iterator[Writer]:
        with self._db.write() as connection:
            writer = Writer(connection)
            yield writer
            writer.finish()

    def snapshot(self, step: int) -> dict[str, Any]:
        """Where the store stands now: JSON values, for a trainer's checkpoint of this step.

        Args:
            step: Trainer step that the checkpoint belongs to; only carried along.

        Returns:
            `{"schema", "store", "branch", "seq", "step"}`; for `restore`.
        """
        with self._reading() as view:
            return self._snapshot(view.branch, view.seq, step)

    def genesis(self) -> dict[str, Any]:
        """The snapshot right after the first decisions (the seed rubric of each cohort).

        For a run that was killed before its first checkpoint. Where cohorts got their seeds later
        they are missing in it, and have to be decided again.

        Raises:
            StoreError: There is no decision yet.
        """
        with self._reading() as view:
            rows = view.execute(
                "SELECT branch, seq FROM decisions WHERE kind = 'seed' ORDER BY seq"
            )
            first = rows.fetchone()
            if first is None:
                raise StoreError(
                    f"store {str(self.path)!r} has no seed decision yet: start the run"
                )
            branch, seq = first
            for _, later in rows:
                if later != seq + 1:
                    break
                seq = later
            return self._snapshot(branch, seq, 0)

    def _snapshot(self, branch: int, seq: int, step: int) -> dict[str, Any]:
        return {"schema": SCHEMA, "store": self.uuid, "branch": branch, "seq": seq, "step": step}

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go back to a snapshot, of this branch or of an abandoned one. Nothing is deleted.

        Where nothing happened since, nothing is changed: several ranks may restore the same
        snapshot, as long as none writes before all have done so.

        Raises:
            StoreError: The snapshot is of another store, or not a snapshot.
            NewerStoreError: It was taken by a newer version of this package.
        """
        branch, seq, step = self._checked(snapshot)
        with self._writing() as writer:
            row = writer.execute("SELECT seq FROM branches WHERE id = ?", (branch,)).fetchone()
            if row is None or not row[0] <= seq <= writer.seq:
                raise StoreError(
                    f"snapshot {dict(snapshot)!r} points beyond the end of store "
                    f"{str(self.path)!r}: the file is an older copy; put the newer one back"
                )
            if not _stands_at(writer, branch, seq):
                writer.execute(
                    "INSERT INTO branches (seq, parent, fork, step) VALUES (?, ?, ?, ?)",
                    (writer.tick(), branch, seq, step),
                )

    def _checked(self, snapshot: Mapping[str, Any]) -> tuple[int, int, int]:
        names = ("schema", "branch", "seq", "step")
        if "store" not in snapshot or not all(type(snapshot.get(n)) is int for n in names):
            raise StoreError(f"{snapshot!r} is not a snapshot of a store; see Store.snapshot")
        if snapshot["schema"] > SCHEMA:
            raise NewerStoreError(
                f"the snapshot has schema {snapshot['schema']}, and this version of mpo reads "
                f"schemas up to {SCHEMA}; install a newer mpo-rl"
            )
        if snapshot["store"] != self.uuid:
            raise StoreError(
                f"the snapshot is of store {snapshot['store']!r}, and {str(self.path)!r} is store "
                f"{self.uuid!r}: the checkpoint belongs to another run"
            )
        return snapshot["branch"], snapshot["seq"], snapshot["step"]


def _stands_at(view: View, branch: int, seq: int) -> bool:
    """Whether the visible events are those of the snapshot already."""
    if view.branch == branch:
        return view.seq == seq
    born, parent, fork = view.execute(
        "SELECT seq, parent, fork FROM branches WHERE id = ?", (view.branch,)
    ).fetchone()
    return bool((parent, fork) == (branch, seq) and view.seq == born)


def _reopen(kind: type[Branches], path: str) -> Branches:
    return kind(path, create=False)
