"""A store whose file is deleted, moved, emptied, cut short or replaced while it is open."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mpo.errors import StoreFileError
from mpo.store import Store
from store.store_doubles import SEED, assert_sound, batch, fork, join, seed_decision, steps


def another(path: Path) -> Path:
    """The closed store of another run, with the same seed rubric and some steps."""
    other = path.with_name("other.db")
    with Store(other) as store:
        store.decide(seed_decision(), SEED)
        for step in range(1, 40):
            store.append(batch(step))
    return other


def contents(path: Path) -> dict[str, bytes]:
    """Bytes of the file and its log, where they exist."""
    files = [file for file in (path, Path(f"{path}-wal")) if file.exists()]
    return {file.name: file.read_bytes() for file in files}


def delete(path: Path) -> None:
    path.unlink()


def delete_all(path: Path) -> None:
    for file in path.parent.glob("mpo.db*"):
        file.unlink()


def delete_log(path: Path) -> None:
    Path(f"{path}-wal").unlink()


def delete_index(path: Path) -> None:
    Path(f"{path}-shm").unlink()


def move(path: Path) -> None:
    path.rename(path.with_name("moved.db"))


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty_file(path: Path) -> None:
    path.unlink()
    path.touch()


def empty_store(path: Path) -> None:
    delete_all(path)
    Store(path).close()


def move_another_in(path: Path) -> None:
    another(path).rename(path)


def copy_another_over(path: Path) -> None:
    shutil.copyfile(another(path), path)  # the same inode


def write_zeros(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))


EVENTS = [
    delete,
    delete_all,
    delete_log,
    delete_index,
    move,
    remove_folder,
    empty,
    cut,
    empty_file,
    empty_store,
    move_another_in,
    copy_another_over,
    write_zeros,
]


@pytest.mark.parametrize("event", EVENTS)
def test_the_next_write_is_an_error_and_so_is_every_later_one(
    tmp_path: Path, event: Callable[[Path], None]
) -> None:
    path = tmp_path / "run" / "mpo.db"
    path.parent.mkdir()
    with Store(path) as store:
        store.decide(seed_decision(), SEED)
        store.append(batch(1))
        event(path)
        before = contents(path)
        for step in (2, 3):
            with pytest.raises(StoreFileError, match=r"mpo\.db"):
                store.append(batch(step))
        assert contents(path) == before


@pytest.mark.parametrize("event", [delete_all, empty_file, empty_store, move_another_in])
def test_a_store_that_is_known_is_not_begun_again(
    tmp_path: Path, event: Callable[[Path], None]
) -> None:
    path = tmp_path / "mpo.db"
    with Store(path) as store:
        store.decide(seed_decision(), SEED)
    copy = pickle.dumps(store)
    event(path)
    for begin in (lambda: Store(path, uuid=store.uuid), lambda: pickle.loads(copy)):
        with pytest.raises(StoreFileError, match=r"mpo\.db"):
            begin()
    assert path.exists() == (event is not delete_all)


def test_checkpoints_of_two_processes_are_no_alarm(store: Store) -> None:
    def child() -> None:
        for step in range(1000, 1020):
            store.append(batch(step, 16))
            store._db.close_connections()  # the last one to close moves the log into the file

    pid = fork(child)
    for step in range(1, 20):
        store.append(batch(step, 16))
        store._db.close_connections()
    assert join(pid) == 0
    assert len(steps(store)) == 39
    with Store(store.path, uuid=store.uuid) as again:
        assert steps(again) == steps(store)
    assert_sound(store.path)
