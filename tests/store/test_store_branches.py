"""Restoring takes back what came after, and deletes nothing."""

import json
from pathlib import Path

import pytest

from mpo.errors import NewerStoreError, StoreError
from mpo.store import Store
from store.store_doubles import (
    SEED,
    assert_sound,
    batch,
    evolve,
    make_case,
    make_rubric,
    rows,
    seed_decision,
    steps,
)


def titles(store: Store) -> list[str]:
    """Of the rubrics in the order in which they came in force."""
    return [store.rubric(d.proposed).title for d in store.lineage() if d.accepted and d.proposed]


def test_restore_takes_back_what_came_after_and_deletes_nothing(store: Store) -> None:
    store.append(batch(1))
    snapshot = json.loads(json.dumps(store.snapshot(1)))  # a checkpoint is a JSON file
    store.append(batch(2))
    evolve(store, "Abandoned")
    store.log_event("evidence", 2, 7, ["a"])
    store.pin({("", "g", 2): SEED.id})
    store.add_external_scores([(make_case(2, 0).rollout.id, 0.5, {})])
    before = rows(store.path, "SELECT count(*) FROM scorings")

    store.restore(snapshot)
    assert (steps(store), titles(store), store.last_step()) == ([1], ["Seed"], 1)
    assert store.first_step(None) == 1
    assert store.head() == SEED
    assert (store.events(), store.external_scores()) == ([], {})
    assert store.judgements_of(make_case(2, 0).rollout.id) == []
    other = evolve(store, "Other")
    assert store.pin({("", "g", 2): other.id}) == {("", "g", 2): other.id}
    store.append(batch(2))
    store.append(batch(3))
    assert (steps(store), titles(store), store.last_step()) == ([1, 2, 3], ["Seed", "Other"], 3)
    assert store.count(scored=None) == 24
    assert rows(store.path, "SELECT count(*) FROM scorings") == [(before[0][0] + 16,)]
    assert "Abandoned" in [rubric.title for rubric in store.rubrics().values()]


def test_branches_nest_and_abandoned_ones_come_back(store: Store) -> None:
    snapshots = {}

    def go(name: str, step: int) -> None:
        store.append(batch(step))
        evolve(store, name, step=step)
        snapshots[name] = store.snapshot(step)

    go("A1", 1)
    go("A2", 2)
    store.restore(snapshots["A1"])
    go("B2", 2)
    go("B3", 3)
    store.restore(snapshots["A1"])  # the same snapshot again: the first return is abandoned
    go("C2", 2)
    assert titles(store) == ["Seed", "A1", "C2"]
    store.restore(snapshots["B2"])  # a snapshot of an abandoned branch
    assert (titles(store), steps(store)) == (["Seed", "A1", "B2"], [1, 2])
    go("D3", 3)
    store.restore(snapshots["A2"])
    assert titles(store) == ["Seed", "A1", "A2"]
    store.restore(snapshots["D3"])  # four branches deep
    assert (titles(store), steps(store)) == (["Seed", "A1", "B2", "D3"], [1, 2, 3])
    with Store(store.path, create=False) as other:
        assert titles(other) == titles(store)
    assert_sound(store.path)


def test_reasked_attempts_follow_their_branch(store: Store) -> None:
    asked, again = make_case(1, 0, reward=None), make_case(1, 0, reward=0.7, attempt=1)
    store.append([asked])
    snapshot = store.snapshot(1)
    store.append([again])
    store.restore(snapshot)
    assert store.window(scored=None) == [asked]  # the replacement happened elsewhere
    store.append([again])
    assert store.window(scored=None) == [again]


def test_restoring_where_nothing_happened_since_adds_no_branch(store: Store) -> None:
    store.append(batch(1))
    snapshot = store.snapshot(1)
    store.restore(snapshot)
    assert store.snapshot(1) == snapshot
    store.append(batch(2))
    for _ in range(3):  # three ranks resume from one checkpoint
        store.restore(snapshot)
    assert rows(store.path, "SELECT count(*) FROM branches") == [(2,)]
    store.append(batch(2))
    store.restore(snapshot)
    assert rows(store.path, "SELECT count(*) FROM branches") == [(3,)]
    assert steps(store) == [1]


def test_genesis_is_right_after_the_seeds(path: Path) -> None:
    with Store(path) as store:
        algebra = make_rubric("Algebra")
        store.decide(seed_decision(), SEED)
        store.decide(seed_decision(algebra, "algebra"), algebra)
        genesis = store.genesis()
        store.append(batch(1))
        evolve(store, "Better")
        late = make_rubric("Late")
        store.decide(seed_decision(late, "late"), late)
        assert store.genesis() == genesis
        store.restore(genesis)
        assert store.heads() == {"": SEED.id, "algebra": algebra.id}
        assert steps(store) == []
        assert store.genesis() == genesis


def test_snapshots_of_other_stores_are_refused(store: Store, tmp_path: Path) -> None:
    snapshot = store.snapshot(3)
    assert snapshot["step"] == 3
    with Store(tmp_path / "other.db") as other, pytest.raises(StoreError, match="another run"):
        other.restore(snapshot)
    with pytest.raises(NewerStoreError, match="schema 99"):
        store.restore({**snapshot, "schema": 99})
    with pytest.raises(StoreError, match="older copy"):
        store.restore({**snapshot, "seq": snapshot["seq"] + 1})
    for broken in ({}, {**snapshot, "seq": "1"}, {**snapshot, "branch": None}):
        with pytest.raises(StoreError, match="not a snapshot"):
            store.restore(broken)
    assert rows(store.path, "SELECT count(*) FROM branches") == [(1,)]
