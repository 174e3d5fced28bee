"""Database: one SQLite file, its connections, its transactions and its errors.

A connection is used by one thread at a time and never crosses a fork: SQLite forbids it, and the
child would hold no lock of its own. So before a fork all operations of other threads are awaited
and all connections closed; parent and child open new ones when they need them.

No exception of sqlite3 leaves: it becomes a StoreError that names the file and what to do.

SQLite notices nothing when a file is deleted, moved, cut short or copied over while it is open: it
goes on writing to what has no name any more, or to a mixture of two files. So every write first
looks for the files that its connection has open (`_check_paths`).
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import MPOError, NewerStoreError, StoreError, StoreFileError
from .schema import APPLICATION_ID, SCHEMA, migrate

__all__ = ["Database"]

BUSY_SECONDS = 30.0
"""Seconds that a writer waits for its turn before it gives up."""
_CACHE_KIB = 16 * 1024  # per connection; bounds the memory whatever the size of the file
# Pages (4 KiB) of log before they are moved into the file: with SQLite's 1000 a busy writer spends
# a third of its time waiting for the disk.
_CHECKPOINT_PAGES = 4000

_REMEDIES = {
    sqlite3.SQLITE_FULL: "the disk is full; free some space and run again, what was committed "
    "before is kept",
    sqlite3.SQLITE_IOERR: "the disk refused (is it full, over a quota or a file size limit, or "
    "gone?); fix that and run again, what was committed before is kept",
    sqlite3.SQLITE_READONLY: "it cannot be written; change its permissions, or copy it to a folder "
    "that can be written",
    sqlite3.SQLITE_PERM: "it cannot be opened; change its permissions",
    sqlite3.SQLITE_BUSY: f"other processes kept it locked for {BUSY_SECONDS:g} s; find out which "
    "(fuser FILE) and run again",
    sqlite3.SQLITE_NOTADB: "it is not a SQLite database; name another path, or move the file away",
    sqlite3.SQLITE_CORRUPT: "the file is damaged; restore a copy, or save what can be read with "
    "sqlite3 FILE .recover",
}


_STOP = "stop what uses it, put the run's own file back, and start again"


class _Connection(sqlite3.Connection):
    """A connection that remembers which files it has open."""

    files: tuple[tuple[int, int] | None, ...] = ()


def _files(path: Path) -> tuple[tuple[int, int] | None, ...]:
    """Device and inode of the file, its log and the log's index; None for one that is missing."""
    files: list[tuple[int, int] | None] = []
    for suffix in ("", "-wal", "-shm"):
        try:
            status = os.stat(f"{path}{suffix}")
            files.append((status.st_dev, status.st_ino))
        except OSError:
            files.append(None)
    return tuple(files)


def _explain(path: Path, error: Exception) -> StoreError:
    """The StoreError for an error of sqlite3."""
    code = getattr(error, "sqlite_errorcode", None)  # absent where SQLite itself was not reached
    if code is None:
        return StoreError(f"store {str(path)!r}: a value cannot be stored: {error}")
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        if not path.parent.is_dir():
            remedy = f"the folder {str(path.parent)!r} does not exist; create it first"
        elif path.is_dir():
            remedy = "it is a folder; name a file in it"
        elif not path.exists():
            remedy = "there is no such file, or the folder cannot be written; check the path"
        else:
            remedy = (
                "check that the file and its folder can be read and written, and that the process "
                "may open more files (ulimit -n)"
            )
    else:
        remedy = _REMEDIES.get(code & 0xFF, "this should not happen; please report it")
    name = error.sqlite_errorname  # type: ignore[attr-defined]
    return StoreFileError(f"store {str(path)!r}: {error} ({name}): {remedy}")


class _ForkGate:
    """Keeps a fork from happening while another thread uses a connection."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._inside: list[int] = []  # thread idents, one entry per operation
        self._forking = False

    def enter(self) -> None:
        me = threading.get_ident()
        with self._condition:
            # Without this a fork would never find its moment beside a busy writer.
            while self._forking and me not in self._inside:
                self._condition.wait()
            self._inside.append(me)

    def leave(self) -> None:
        with self._condition:
            self._inside.remove(threading.get_ident())
            self._condition.notify_all()

    def before_fork(self) -> None:
        me = threading.get_ident()
        self._condition.acquire()  # until after the fork
        self._forking = True
        while any(thread != me for thread in self._inside):
            self._condition.wait()
        for database in list(_OPEN):
            database.close_connections()

    def after_in_parent(self) -> None:
        self._forking = False
        self._condition.notify_all()
        self._condition.release()

    def after_in_child(self) -> None:
        self._condition = threading.Condition()  # the old one belongs to threads that are gone
        self._forking = False


_OPEN: weakref.WeakSet[Database] = weakref.WeakSet()
_GATE = _ForkGate()
os.register_at_fork(
    before=_GATE.before_fork,
    after_in_parent=_GATE.after_in_parent,
    after_in_child=_GATE.after_in_child,
)


class Database:
    """A store's file. Safe to use from several threads; the module's docstring covers processes.

    Args:
        path: Path of the file; made absolute.
        create: Make the file if it is missing or empty.
        uuid: Identity that the file must have; None takes any.

    Attributes:
        identity: Facts that were written when the file was made: `uuid` and `secret`.

    Raises:
        StoreError: The file cannot be opened, or is not a store.
        StoreFileError: It cannot be used now, or is another one than `uuid`.
        NewerStoreError: It was written by a newer version of this package.
    """

    def __init__(self, path: Path, *, create: bool, uuid: str | None = None) -> None:
        self.path = path.absolute()
        self.identity: dict[str, str] = {} if uuid is None else {"uuid": uuid}
        self._idle: list[_Connection] = []
        self._open_now: set[_Connection] = set()
        self._closed = False
        # Of the file, as of the last write. Only checkpoints change them, and rarely.
        self._size = self._changed_ns = 0
        _GATE.enter()
        try:
            self._idle.append(self._open(create=create))
            status = os.stat(self.path)
            self._size, self._changed_ns = status.st_size, status.st_mtime_ns
            _OPEN.add(self)
        finally:
            _GATE.leave()

    def close(self) -> None:
        """Close all connections; those in use by other threads are closed when they are done."""
        self._closed = True
        self.close_connections()

    def close_connections(self) -> None:
        """Close idle connections; the next operation opens new ones."""
        while (connection := self._take()) is not None:
            # Closing tidies up the log; if the disk is full then, nothing is lost.
            with suppress(sqlite3.Error):
                self._discard(connection)

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """A transaction that sees one state of the file throughout."""
        with self._connection() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    def first(self, query: str, values: tuple[object, ...] = ()) -> tuple[Any, ...] | None:
        """The first row of a query. A statement alone is a transaction of its own."""
        with self._connection() as connection:
            row: tuple[Any, ...] | None = connection.execute(query, values).fetchone()
        return row

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """A transaction that excludes all other writers; nothing is written if the block raises.

        Raises:
            StoreFileError: The file, or its log, is no longer the one that was opened.
        """
        with self._connection() as connection:
            self._check_file(connection)
            # IMMEDIATE: a transaction that reads first and then writes would fail, not wait, when
            # another process wrote in between.
            connection.execute("BEGIN IMMEDIATE")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def _connection(self) -> Iterator[_Connection]:
        _GATE.enter()
        try:
            if self._closed:
                raise StoreError(f"store {str(self.path)!r} is closed; open it again")
            connection = self._take() or self._open(create=False)
            try:
                yield connection
            except BaseException as error:
                self._abandon(connection, keep=isinstance(error, MPOError))
                raise
            self._give_back(connection)
        except (sqlite3.Error, UnicodeError, OverflowError) as error:
            raise _explain(self.path, error) from error
        finally:
            _GATE.leave()

    # ------------------------------------------------------------------ is it still the file?

    def check_file(self) -> None:
        """Check what every write checks.

        Raises:
            StoreFileError: The file, or its log, is no longer the one that was opened.
        """
        with self._connection() as connection:
            self._check_file(connection)

    def _check_file(self, connection: _Connection) -> None:
        """Raises an error where the path no longer leads to this store.

        Raises:
            StoreFileError: The file or its log is gone, cut short, or another one.
        """
        if _files(self.path) != connection.files:
            raise self._moved(connection)
        try:
            status = os.stat(self.path)
        except OSError as error:
            raise self._lost(f"cannot be found ({error.strerror})") from error
        if status.st_size < self._size:
            raise self._lost("was cut short or overwritten while it was in use")
        if status.st_mtime_ns != self._changed_ns:
            # A checkpoint, or another file was copied over this one. A new connection has nothing
            # of it in its memory: it reads the identity that is there now.
            self._discard(self._open(create=False))
        self._size, self._changed_ns = status.st_size, status.st_mtime_ns

    def _moved(self, connection: _Connection) -> StoreFileError:
        """For a file that the connection has open and that is no longer at its path."""
        if _files(self.path)[0] != connection.files[0]:
            return self._lost("was deleted, moved or replaced while it was in use")
        return self._lost("lost its log (the -wal or -shm file beside it) while it was in use")

    def _lost(self, what: str) -> StoreFileError:
        return StoreFileError(
            f"store {str(self.path)!r} {what}: {_STOP}; nothing is written until then"
        )

    # ------------------------------------------------------------------ connections

    def _take(self) -> _Connection | None:
        try:
            return self._idle.pop()  # not "if idle: pop": another thread may be faster
        except IndexError:
            return None

    def _give_back(self, connection: _Connection) -> None:
        if self._closed:
            self._discard(connection)
        else:
            self._idle.append(connection)

    def _discard(self, connection: _Connection) -> None:
        # Before it is closed: the last one takes the log with it.
        self._open_now.discard(connection)
        connection.close()

    def _abandon(self, connection: _Connection, *, keep: bool) -> None:
        """Roll back; after an error of SQLite the connection is not used again."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if keep:
                self._give_back(connection)
            else:
                self._discard(connection)
        except sqlite3.Error:
            pass  # the first error is the one to report; an unfinished transaction never counts

    def _open(self, *, create: bool) -> _Connection:
        uri = f"{self.path.as_uri()}?mode={'rwc' if create else 'rw'}"
        deadline = time.monotonic() + BUSY_SECONDS
        if self.identity and not self.path.exists():
            raise self._lost("is gone: there is no such file")
        for other in list(self._open_now):
            if _files(self.path) != other.files:
                raise self._moved(other)  # a second log beside the first would be the end of both
        while True:
            connection: _Connection | None = None
            try:
                # check_same_thread: connections move between threads, one at a time.
                connection = sqlite3.connect(
                    uri,
                    uri=True,
                    timeout=BUSY_SECONDS,
                    isolation_level=None,
                    check_same_thread=False,
                    factory=_Connection,
                )
                self._prepare(connection, create=create)
                connection.files = _files(self.path)
                self._open_now.add(connection)
                return connection
            except BaseException as error:
                if connection is not None:
                    connection.close()
                if not isinstance(error, sqlite3.Error):
                    raise
                # Switching a new file to WAL does not wait for another process that does the same.
                busy = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or time.monotonic() > deadline:
                    raise _explain(self.path, error) from error
                time.sleep(0.01)

    def _prepare(self, connection: _Connection, *, create: bool) -> None:
        connection.execute("BEGIN")  # one state: another process may be creating the file
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        connection.execute("COMMIT")
        fresh = (application, version, tables) == (0, 0, 0)
        if fresh and self.identity:
            raise self._lost("is empty, and it was not")
        if fresh and not create:
            raise StoreError(f"store {str(self.path)!r} is empty; name the file of a run")
        if not fresh and application != APPLICATION_ID:
            raise StoreError(
                f"{str(self.path)!r} is a SQLite database of another program (application id "
                f"{application:#x}), not a store; name another path"
            )
        if version > SCHEMA:
            raise NewerStoreError(
                f"store {str(self.path)!r} has schema {version}, and this version of mpo reads "
                f"schemas up to {SCHEMA}; install a newer mpo-rl"
            )
        # Only now: a file that is not ours must not be changed, not even its journal mode.
        if fresh:
            connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        if version < SCHEMA:
            connection.execute("BEGIN IMMEDIATE")
            migrate(connection)
            connection.execute("COMMIT")
            # The identity never changes. Once it is in the file itself, and not in the log, a new
            # connection that reads it can tell this file from another in its place.
            with suppress(sqlite3.Error):  # the disk may be full
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        self._check_identity(connection)

    def _check_identity(self, connection: _Connection) -> None:
        identity = dict(connection.execute("SELECT name, value FROM identity"))
        wanted = self.identity.get("uuid")
        if wanted not in (None, identity["uuid"]):
            raise self._lost(f"is another one now, {identity['uuid']}, and not {wanted}")
        self.identity = identity
