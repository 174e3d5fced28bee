"""What the store refuses: newer and foreign files, bad places, full disks, damage."""

import os
import resource
import shutil
import sqlite3
import tempfile
from itertools import count
from pathlib import Path

import pytest

from mpo.errors import NewerStoreError, StoreError
from mpo.store import Store
from store.store_doubles import (
    SEED,
    assert_sound,
    batch,
    evolve,
    fork,
    join,
    rows,
    seed_decision,
    steps,
)


def test_a_newer_file_is_refused_with_its_number(store: Store) -> None:
    store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 42")
    connection.close()
    with pytest.raises(NewerStoreError, match="schema 42"):
        Store(store.path)


def test_the_migrations_that_ran_are_in_the_file(store: Store) -> None:
    ran = rows(store.path, "SELECT * FROM migrations")
    assert ran == [
        (1, "m001_initial"),
        (2, "m002_replies"),
        (3, "m003_typed_fields"),
        (4, "m004_spending"),
    ]
    assert rows(store.path, "PRAGMA user_version") == [(4,)]
    assert rows(store.path, "PRAGMA journal_mode") == [("wal",)]


def test_foreign_files_are_refused_and_left_alone(path: Path, tmp_path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    text = tmp_path / "notes.txt"
    text.write_text("not a database\n" * 100)
    for file, message in [(path, "another program"), (text, "not a SQLite database")]:
        before = file.read_bytes()
        with pytest.raises(StoreError, match=message):
            Store(file)
        assert file.read_bytes() == before
        assert sorted(tmp_path.iterdir()) == sorted([path, text])


def test_paths_that_lead_nowhere_say_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    for file, create, message in [
        (tmp_path / "none" / "mpo.db", True, "none' does not exist; create it"),
        (tmp_path, True, "it is a folder"),
        (tmp_path / "mpo.db", False, "no such file"),
        (tmp_path / "empty.db", False, "is empty"),
    ]:
        with pytest.raises(StoreError, match=message) as caught:
            Store(file, create=create)
        assert str(file) in str(caught.value)
    assert [file.name for file in tmp_path.iterdir()] == ["empty.db"]
    odd = tmp_path / "50%? #1.db"
    Store(odd).close()
    assert odd.exists()


def test_a_file_that_may_not_be_written() -> None:
    folder = Path(tempfile.mkdtemp())  # not tmp_path: its parents are closed to other users
    try:
        with Store(folder / "mpo.db") as store:
            store.decide(seed_decision(), SEED)
        (folder / "mpo.db").chmod(0o444)
        folder.chmod(0o555)

        def child() -> None:
            if os.geteuid() == 0:  # root may write anything
                os.setuid(65534)
            with pytest.raises(StoreError, match=r"mpo\.db.*(permissions|read and written)"):
                Store(folder / "mpo.db").append(batch(1))

        assert join(fork(child)) == 0
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_disk_full_at_a_file_size_limit(store: Store) -> None:
    def append_for_ever() -> None:
        for step in count(1):
            store.append(batch(step, 64))

    def evolve_for_ever() -> None:
        for number in count():
            evolve(store, f"R{number}")

    def child() -> None:
        limit = store.path.stat().st_size + 400_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        with pytest.raises(StoreError, match=r"mpo\.db.*disk.*what was committed"):
            append_for_ever()
        with pytest.raises(StoreError, match="disk"):  # nor does a decision leave half of itself
            evolve_for_ever()

    assert join(fork(child)) == 0
    assert len(store.steps()) >= 2
    assert {summary.n for summary in store.steps()} == {64}
    head = store.head()
    assert head is not None
    assert head.id == store.lineage()[-1].proposed
    assert len(store.rubrics()) == len(store.lineage())
    store.append(batch(1000))  # with space again, it goes on
    assert_sound(store.path)


def test_disk_full_in_the_middle_of_a_transaction(store: Store) -> None:
    store.append(batch(1))
    with store._db.read() as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(StoreError, match="the disk is full; free some space"):
        store.append(batch(2, 500))
    assert steps(store) == [1]
    store.append(batch(2))  # a new connection, without the limit
    assert steps(store) == [1, 2]


def test_a_damaged_record_is_named(store: Store) -> None:
    store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("UPDATE rubrics SET content = '{}'")
    connection.commit()
    connection.close()
    with (
        Store(store.path) as again,
        pytest.raises(StoreError, match="stored Rubric cannot be read"),
    ):
        again.head()
