"""Branches: which events are visible, how to go back without deleting any, and how to write.

Going back to a snapshot starts a branch. An event is visible when it happened on the current
branch, or on an ancestor of it before the fork. The current branch is the last one in the file, so
all processes agree on it without a message.

    seq   1 2 3 4 5 6          7 8 9
    main  ●─●─●─●─●─●    restore({seq: 3})
                └─────── branch ●─●─●        visible: 1 2 3 7 8 9

A chat's answers belong to a question, not to a run's history: they are the same on every branch.
They arrive by the hundred, and a commit costs more than an answer. So they wait for each other for
a moment, or for the next commit of events. A kill in that moment loses them; they are asked for
again then, as the calls that were in flight are. What a call has cost waits in the same way, so
that a judgement is never in the file without its cost.
"""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ValidationError

from ..errors import NewerStoreError, StoreError
from ..records import Decision, Judgement, ScaleMap, Usage, to_json
from ..rubric import Rubric
from .account import Account, Amount
from .database import Database
from .schema import SCHEMA

__all__ = ["CHAIN", "DECISIONS", "Branches", "Group", "View", "Writer", "dump", "load"]

Group = tuple[str, str, int]
"""Cohort, group and step: the completions that are scored under one rubric."""

_MOMENT_S = 0.05
"""Longest wait of an answer for its commit, in seconds, while its event loop runs."""
_CROWD = 256
"""So many answers do not wait for more."""
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

DECISIONS = """
FROM chain CROSS JOIN decisions d ON d.branch = chain.branch AND d.seq <= chain.upto
"""
"""The visible decisions, after `CHAIN` and the SELECT."""

Record = TypeVar("Record", bound=BaseModel)


def dump(value: Any) -> str:
    """JSON text of a record or of plain JSON values.

    Not pydantic's: that one stops at a lone surrogate, which a policy may well emit and SQLite
    does not take.

    Raises:
        StoreError: It holds something that JSON cannot express.
    """
    plain = value.model_dump() if isinstance(value, BaseModel) else value
    try:
        return to_json(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise StoreError(f"a value cannot be stored as JSON: {error}") from error


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
    """One state of the store: what is visible from the current branch.

    Its methods are what scoring has to know of a batch: `Store.reading` gives them in one
    transaction.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.execute = connection.execute
        self.executemany = connection.executemany
        self.chain: dict[int, int] = dict(self.execute(CHAIN + "SELECT branch, upto FROM chain"))
        self.branch: int = next(iter(self.chain))
        self.seq: int = self.execute("SELECT seq FROM counter").fetchone()[0]

    def sees(self, branch: int, seq: int) -> bool:
        """True for a visible event."""
        return seq <= self.chain.get(branch, -1)

    def head_id(self, cohort: str) -> str | None:
        """Id of the rubric in effect; None before the cohort's seed decision."""
        query = CHAIN + "SELECT d.proposed" + DECISIONS
        query += "WHERE d.accepted = 1 AND d.cohort = ? ORDER BY d.seq DESC LIMIT 1"
        row = self.execute(query, (cohort,)).fetchone()
        return None if row is None else str(row[0])

    def rubric(self, id: str) -> Rubric | None:
        """The stored rubric with this id."""
        row = self.execute("SELECT content FROM rubrics WHERE id = ?", (id,)).fetchone()
        return None if row is None else load(Rubric, row[0])

    def scale_map(self, rubric_id: str) -> ScaleMap | None:
        """The rubric's map, from the last decision that accepted it with one."""
        query = CHAIN + "SELECT d.content" + DECISIONS + "WHERE d.accepted = 1 AND d.proposed = ? "
        # A decision's text is long, and most have no map: look before it is parsed.
        query += "AND instr(d.content, '\"scale_map\":{') ORDER BY d.seq DESC LIMIT 1"
        row = self.execute(query, (rubric_id,)).fetchone()
        return None if row is None else load(Decision, row[0]).scale_map

    def pinned(self, group: Group) -> str | None:
        """Id of the rubric that a group is scored under; None where none was pinned."""
        cohort, name, step = group
        rows = self.execute(
            "SELECT branch, seq, rubric FROM pins WHERE grp = ? AND step = ? AND cohort = ?",
            (name, step, cohort),
        )
        for branch, seq, rubric in rows:
            if self.sees(branch, seq):
                return str(rubric)
        return None

    def attempts(self, base_key: str) -> list[Judgement]:
        """All stored attempts at a judgement in order, of any branch: they were paid for.

        Args:
            base_key: Key of the first attempt; later ones have the key `base~1`, `base~2` and on.
        """
        rows = self.execute(
            "SELECT key, content FROM judgements WHERE key = ?1 "
            "OR (key > ?1 || '~' AND key < ?1 || char(127))",  # 127 comes after '~'
            (base_key,),
        ).fetchall()
        if not rows:
            return []
        rows.sort(key=lambda row: _attempt(row[0], base_key))
        return [load(Judgement, content) for _, content in rows]


def _attempt(key: str, base: str) -> int:
    number = key[len(base) + 1 :]
    return int(number) if number.isdecimal() else 0


class Writer(View):
    """A state that is being written; no other writer at the same time."""

    def tick(self) -> int:
        """The sequence number of the next event."""
        self.seq += 1
        return self.seq


class Branches:
    """The open file: its identity, its branches and a chat's answers. Base of `Store`."""

    def __init__(self, path: str | Path, *, create: bool = True, uuid: str | None = None) -> None:
        # A store that is known by its uuid exists: a new, empty one in its place would look like
        # a run without a past.
        self._db = Database(Path(path), create=create and uuid is None, uuid=uuid)
        self._uuid = self._db.identity["uuid"]
        self._secret = bytes.fromhex(self._db.identity["secret"])
        # Single operations on the dict only: no lock that a fork could leave taken.
        self._waiting: dict[str, str] = {}
        self._account = Account()
        self._due: float | None = None

    @property
    def path(self) -> Path:
        """Absolute path of the file."""
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
        """Commit the answers that wait, and close the file; any later use is a StoreError.

        May be called twice.
        """
        with suppress(StoreError):  # they can be asked for again
            self.flush()
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process opens the file again, and no other one.
        return _reopen, (type(self), str(self.path), self.uuid)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.path)!r})"

    # ------------------------------------------------------------------ transactions

    @contextmanager
    def reading(self) -> Iterator[View]:
        """A transaction that sees one state of the store throughout.

        Raises:
            StoreError: The file cannot be read.
        """
        with self._db.read() as connection:
            yield View(connection)

    @contextmanager
    def writing(self) -> Iterator[Writer]:
        """A transaction that excludes other writers, and takes along the answers that wait.

        Nothing is written if the block raises.

        Raises:
            StoreError: The file cannot be written.
        """
        spent: list[Amount] = []
        try:
            with self._db.write() as connection:
                writer = Writer(connection)
                yield writer
                writer.execute("UPDATE counter SET seq = ?", (writer.seq,))
                self._due = None
                spent = self._account.write(connection)
                taken = list(self._waiting.items())
                if taken:
                    writer.executemany(
                        "INSERT INTO replies (key, content) VALUES (?, ?) "
                        "ON CONFLICT (key) DO NOTHING",
                        taken,
                    )
        except BaseException:
            self._account.give_back(spent)
            raise
        for key, _ in taken:
            self._waiting.pop(key, None)

    # ------------------------------------------------------------------ going back

    def snapshot(self, step: int) -> dict[str, Any]:
        """The store's present state as JSON values, for a trainer's checkpoint of this step.

        Args:
            step: Trainer step that the checkpoint belongs to; only carried along.

        Returns:
            `{"schema", "store", "branch", "seq", "step"}`; for `restore`.
        """
        with self.reading() as view:
            return self._snapshot(view.branch, view.seq, step)

    def genesis(self) -> dict[str, Any]:
        """The snapshot right after the first decisions (the seed rubric of each cohort).

        For a run that was killed before its first checkpoint. Where cohorts got their seeds later
        they are missing in it, and have to be decided again.

        Raises:
            StoreError: There is no decision yet.
        """
        with self.reading() as view:
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
            StoreError: The snapshot is of another store, or is no snapshot.
            NewerStoreError: It was taken by a newer version of this package.
        """
        branch, seq, step = self._checked(snapshot)
        with self.writing() as writer:
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

    # ------------------------------------------------------------------ a chat's answers

    def get(self, key: str) -> Mapping[str, Any] | None:
        """The answer that was put under the key, or None.

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
            return None  # changed by another program: it is asked for again
        return value if isinstance(value, dict) else None

    def put(self, key: str, value: Mapping[str, Any]) -> None:
        """Keep JSON values under a key; the first value stays. Committed within a moment.

        Raises:
            StoreError: JSON cannot express the value, or the file cannot be written.
        """
        self._waiting.setdefault(key, dump(dict(value)))
        self._commit_soon()

    def add_spending(self, role: str, usage: Usage, usd: float = 0.0) -> None:
        """Enter the cost of a call into the run's account. Committed within a moment.

        Args:
            role: `rm`, `mrm`, `audit`.
            usage: Usage of the call.
            usd: US dollars; 0 without a price.
        """
        self._account.waiting.append(Amount(role, usage, usd, os.getpid()))
        with suppress(StoreError):  # the call has its answer; the next commit raises the same
            self._commit_soon()

    def spending(self) -> dict[str, tuple[Usage, float]]:
        """The run's account: usage and US dollars by role, since the run began.

        It has every call that was paid for, over all processes and branches, also those whose
        answer could not be used or never became a judgement. Empty where nobody kept it: a store
        that was filled without `mpo.chat.Budget`.
        """
        with self._db.read() as connection:
            return self._account.read(connection)

    def _commit_soon(self) -> None:
        now = time.monotonic()
        if self._due is None:
            self._due = now + _MOMENT_S
            try:
                asyncio.get_running_loop().call_later(_MOMENT_S, self._flush_due, self._due)
            except RuntimeError:  # no loop runs: nothing would come back to commit it
                self.flush()
        # The timer died with its loop, or has much to do.
        elif (
            now > self._due + _MOMENT_S or len(self._waiting) + len(self._account.waiting) >= _CROWD
        ):
            self.flush()

    def flush(self) -> None:
        """Commit the answers and amounts that wait.

        Raises:
            StoreError: The file cannot be written; they go on waiting.
        """
        if self._waiting or self._account.waiting:
            with self.writing():  # takes them along
                pass

    def check_writable(self) -> None:
        """Write a page that changes nothing, together with the answers that wait.

        Raises:
            StoreFileError: The file cannot be written.
        """
        with self.writing():
            pass

    def check_file(self) -> None:
        """Check that the path still leads to this store. Reads and writes nothing.

        Raises:
            StoreFileError: The file or its log was deleted, moved, cut short or replaced.
        """
        self._db.check_file()

    def _flush_due(self, due: float) -> None:
        if due != self._due:  # another commit took them along; those since then have their own time
            return
        with suppress(StoreError):  # nobody would see it; the next commit raises the same
            self.flush()


def _stands_at(view: View, branch: int, seq: int) -> bool:
    """True where the visible events are those of the snapshot already."""
    if view.branch == branch:
        return view.seq == seq
    born, parent, fork = view.execute(
        "SELECT seq, parent, fork FROM branches WHERE id = ?", (view.branch,)
    ).fetchone()
    return bool((parent, fork) == (branch, seq) and view.seq == born)


def _reopen(kind: type[Branches], path: str, uuid: str) -> Branches:
    return kind(path, uuid=uuid)
