"""Kills, threads, forks, pickles: the processes here are real.

`fork` runs a function in a child, which may kill itself with SIGKILL at a chosen SQL statement
(SQLite's own trace hook tells it where it is).
"""

import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

import mpo
from mpo.errors import StoreError
from mpo.records import Decision, Proposal, Refinement
from mpo.store import Store
from store.store_doubles import (
    SEED,
    assert_sound,
    batch,
    fork,
    join,
    make_case,
    make_rubric,
    rows,
    seed_decision,
    steps,
)

# ---------------------------------------------------------------------- law 8: killed processes


def kill_at(store: Store, statement: int) -> None:
    """Make this process end with SIGKILL when it starts its n-th SQL statement from now on."""
    started = 0

    def on_statement(_: str) -> None:
        nonlocal started
        started += 1
        if started == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    with store._db.read() as connection:
        pass  # so that the child's connection is open, and its statements are those of the call
    connection.set_trace_callback(on_statement)


def killed_at_each_statement(store: Store, work: Callable[[], None]) -> Iterator[int]:
    """Run `work` in children that are killed at statement 1, 2, 3, … until one survives."""
    for statement in range(1, 500):

        def child(statement: int = statement) -> None:
            kill_at(store, statement)
            work()

        code = join(fork(child))
        assert code in (0, -signal.SIGKILL)
        yield code
        if code == 0:
            return
    raise AssertionError("the work has no end")


def test_law_8_append_killed_at_every_statement(store: Store) -> None:
    store.append(batch(1))
    cases = [make_case(2, 0, reward=None), make_case(2, 0, attempt=1), make_case(2, 1)]
    kills = 0
    for code in killed_at_each_statement(store, lambda: store.append(cases)):
        kills += code != 0
        assert_sound(store.path)
        stored = len(rows(store.path, "SELECT 1 FROM judgements")) - 8
        assert stored in ((0,) if code else (3,))  # all or nothing
        assert store.count(scored=None) == (8 if code else 10)
    assert kills >= 12  # BEGIN, three inserts for each case and more, COMMIT
    store.append(cases)
    assert store.count(scored=None) == 10
    assert_sound(store.path)


def test_law_8_no_decision_is_half_written(store: Store) -> None:
    better = make_rubric("Better")
    refinement = Refinement(
        rubric=better,
        proposals=tuple(Proposal(rollout_id="a", rubric=make_rubric(f"P{n}")) for n in range(5)),
    )
    decision = Decision(
        step=9,
        parent=SEED.id,
        proposed=better.id,
        accepted=True,
        reason="r",
        refinement=refinement,
    )

    def decide() -> None:
        store.decide(decision)

    kills = 0
    for code in killed_at_each_statement(store, decide):
        kills += code != 0
        assert_sound(store.path)
        assert (store.head(), len(store.rubrics())) == ((SEED, 1) if code else (better, 7))
    assert kills >= 8


def test_law_8_a_stream_killed_at_any_moment(path: Path, store: Store) -> None:
    for turn in range(4):
        pipe, out = os.pipe()
        start = (store.last_step() or 0) + 1

        def child(start: int = start, out: int = out) -> None:
            for step in range(start, start + 10_000):
                store.append(batch(step, 16))
                os.write(out, b"%d\n" % step)

        pid = fork(child)
        os.close(out)
        with os.fdopen(pipe) as told:
            for _ in range(10 + 7 * turn):  # then at whatever it is doing
                told.readline()
            os.kill(pid, signal.SIGKILL)
            assert join(pid) == -signal.SIGKILL
            committed = [start - 1 + 10 + 7 * turn, *(int(line) for line in told)][-1]
        # At most the batch in flight is in the file without having been reported.
        assert store.last_step() in (committed, committed + 1)
        assert {summary.n for summary in store.steps()} == {16}
        assert len(store.steps()) == store.last_step()
    assert_sound(path)


def test_two_processes_append_the_same_cases(store: Store) -> None:
    def work(shift: int) -> None:
        for step in range(1, 16):
            cases = batch(step, 16)
            store.append(cases[shift:] + cases[:shift])

    pids = [fork(lambda: work(0)), fork(lambda: work(8))]
    assert [join(pid) for pid in pids] == [0, 0]
    assert {summary.n for summary in store.steps()} == {16}
    assert len(rows(store.path, "SELECT key FROM judgements")) == 15 * 16
    assert store.usage()["rm"].calls == 15 * 16
    seqs = [seq for (seq,) in rows(store.path, "SELECT seq FROM scorings ORDER BY seq")]
    assert all(later == seq + 1 for seq, later in pairwise(seqs))
    assert_sound(store.path)


def test_processes_that_create_the_store_at_once_agree(path: Path, tmp_path: Path) -> None:
    def create(out: Path) -> None:
        out.write_text(Store(path).uuid)

    outs = [tmp_path / f"{number}.txt" for number in range(6)]
    pids = [fork(lambda out=out: create(out)) for out in outs]  # type: ignore[misc]
    assert [join(pid) for pid in pids] == [0] * 6
    assert len({out.read_text() for out in outs}) == 1


# ------------------------------------------------------------------- threads, forks, pickles


def test_many_threads_share_a_store(store: Store) -> None:
    errors: list[BaseException] = []

    def work(thread: int) -> None:
        try:
            for step in range(1, 6):
                store.append([make_case(step, 100 * thread + n) for n in range(4)])
                assert store.count(after_step=step - 1, up_to_step=step) >= 4
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.count() == 8 * 5 * 4
    assert_sound(store.path)


def test_a_forked_store_survives_the_close_of_its_parent(path: Path) -> None:
    # With an inherited connection the child would hold no lock: the parent's close would delete
    # the log that the child writes to.
    store = Store(path)
    store.decide(seed_decision(), SEED)
    closed, written = os.pipe(), os.pipe()

    def child() -> None:
        store.append(batch(1))
        os.write(written[1], b"x")
        os.read(closed[0], 1)
        store.append(batch(2))
        os.kill(os.getpid(), signal.SIGKILL)  # before any tidying up

    pid = fork(child)
    os.read(written[0], 1)
    store.close()
    os.write(closed[1], b"x")
    assert join(pid) == -signal.SIGKILL
    for end in (*closed, *written):
        os.close(end)
    with Store(path, create=False) as again:
        assert steps(again) == [1, 2]
    assert_sound(path)


def test_forks_while_another_thread_writes(store: Store) -> None:
    stop = threading.Event()
    written: list[int] = []

    def write() -> None:
        step = 1
        while not stop.is_set():
            store.append(batch(step))
            written.append(step)
            step += 1

    thread = threading.Thread(target=write)
    thread.start()
    pids = []
    for number in range(8):
        pids.append(fork(lambda n=number: store.append([make_case(10_000, n)])))  # type: ignore[misc]
        time.sleep(0.01)
    codes = [join(pid) for pid in pids]
    stop.set()
    thread.join()
    assert codes == [0] * 8
    assert steps(store) == [*written, 10_000]
    assert store.steps()[-1].n == 8
    assert_sound(store.path)


def test_a_pickled_store_reopens_in_another_interpreter(store: Store) -> None:
    pickled = pickle.dumps(store)
    assert store.secret not in pickled
    assert store.secret.hex().encode() not in pickled
    script = (
        "import pickle, sys; store = pickle.loads(bytes.fromhex(sys.argv[1])); "
        "store.set_meta('who', 'child'); print(store.head().id)"
    )
    source = str(Path(mpo.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", script, pickled.hex()],
        env={**os.environ, "PYTHONPATH": source},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == SEED.id
    assert store.meta("who") == "child"


def test_a_pickle_of_a_deleted_store_makes_no_new_one(path: Path) -> None:
    store = Store(path)
    pickled = pickle.dumps(store)
    store.close()
    path.unlink()
    with pytest.raises(StoreError, match="no such file"):
        pickle.loads(pickled)
    assert not path.exists()


def test_a_closed_store_says_so(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.head()
