"""Store: what it keeps, what it refuses, and what survives kills, forks and full disks.

Processes here are real: `fork` runs a function in a child, which may kill itself with SIGKILL at a
chosen SQL statement (SQLite's own trace hook tells it where it is).
"""

from __future__ import annotations

import json
import math
import os
import pickle
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import pytest

import mpo
from mpo.errors import NewerStoreError, StoreError
from mpo.records import (
    Analysis,
    Case,
    CriterionScore,
    Decision,
    Judgement,
    Proposal,
    Refinement,
    Rollout,
    Usage,
    content_hash,
)
from mpo.rubric import Rubric, parse_rubric
from mpo.store import Choice, Store

COST = Usage(calls=1, prompt_tokens=100, cached_tokens=10, completion_tokens=7)


def make_rubric(title: str = "Seed") -> Rubric:
    return parse_rubric(f"# {title}\n## Flow  (weight 1)\nIdeas follow.\n- 0: no\n- 5: yes\n")


SEED = make_rubric()


def make_case(
    step: int = 1,
    index: int = 0,
    *,
    rubric: Rubric = SEED,
    reward: float | None = 0.5,
    attempt: int = 0,
    cohort: str = "",
    mode: Any = "train",
    usage: Usage = COST,
) -> Case:
    rollout = Rollout(
        prompt="Write.",
        completion=f"text {step} {index}",
        columns={"topic": "rivers"},
        step=step,
        index=index,
        cohort=cohort,
        mode=mode,
    )
    judgement = Judgement(
        key=content_hash([rollout.id, rubric.id]) + (f"~{attempt}" if attempt else ""),
        rollout_id=rollout.id,
        rubric_id=rubric.id,
        step=step,
        cohort=cohort,
        mode=mode,
        scores=() if reward is None else (CriterionScore(criterion="flow", score=3),),
        reward=reward,
        normalized=reward,
        unscored="truncated: no answer" if reward is None else None,
        usage=usage,
    )
    return Case(rollout=rollout, judgement=judgement)


def batch(step: int, n: int = 8, **options: Any) -> list[Case]:
    return [make_case(step, index, **options) for index in range(n)]


def seed_decision(rubric: Rubric = SEED, cohort: str = "") -> Decision:
    return Decision(
        kind="seed", cohort=cohort, proposed=rubric.id, accepted=True, reason="the seed"
    )


def evolve(store: Store, title: str, step: int = 10, **options: Any) -> Rubric:
    """Put a new rubric in force."""
    rubric, head = make_rubric(title), store.head(options.get("cohort", ""))
    assert head is not None
    decision = Decision(
        step=step, parent=head.id, proposed=rubric.id, accepted=True, reason="better", **options
    )
    store.decide(decision, rubric)
    return rubric


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mpo.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as store:
        store.decide(seed_decision(), SEED)
        yield store


def fork(work: Callable[[], None]) -> int:
    """Run `work` in a child process; its pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc(file=sys.__stderr__)
        finally:
            os._exit(code)
    return pid


def join(pid: int) -> int:
    """Exit code of a child, negative where a signal ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def rows(path: Path, query: str) -> list[Any]:
    """What is in the file, asked past the Store."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def assert_sound(path: Path) -> None:
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    assert rows(path, "SELECT key FROM judgements GROUP BY key HAVING count(*) > 1") == []
    doubled = "SELECT 1 FROM scorings GROUP BY branch, judgement HAVING count(*) > 1"
    assert rows(path, doubled) == []


# ------------------------------------------------------------------------------ round trip


def test_everything_comes_back_from_a_reopened_file(path: Path) -> None:
    better = make_rubric("Better")
    refinement = Refinement(
        rubric=better,
        evidence=("a", "b"),
        labels={"a": "hack"},
        analyses=(Analysis(rollout_id="a", verdict="too_high", findings="stuffed"),),
        proposals=(Proposal(rollout_id="a", rubric=make_rubric("Proposed")),),
        skipped=("b: no answer",),
    )
    decision = Decision(
        step=10,
        parent=SEED.id,
        proposed=better.id,
        accepted=True,
        reason="gate",
        figures={"ratio": math.inf, "margin": 0.1},
        refinement=refinement,
        usage=COST,
    )
    cases = [make_case(1, 0), make_case(1, 1, reward=None)]
    with Store(path) as store:
        store.decide(seed_decision(), SEED)
        first, second = (store.decide(decision), store.put_rubric(make_rubric("Other")))
        store.append(cases)
        uuid, secret = store.uuid, store.secret
    assert first > 0
    assert second == make_rubric("Other").id
    with Store(path, create=False) as store:
        assert (store.uuid, store.secret, store.path) == (uuid, secret, path)
        assert len(secret) == 32
        assert store.head() == better
        assert store.lineage() == [seed_decision(), decision]
        assert store.window(scored=None) == cases
        assert store.rollout(cases[0].rollout.id) == cases[0].rollout
        assert store.judgements_of(cases[1].rollout.id) == [cases[1].judgement]
        titles = [rubric.title for rubric in store.rubrics().values()]
        assert titles == ["Seed", "Better", "Proposed", "Other"]
        assert all(rubric.id == id for id, rubric in store.rubrics().items())


def test_two_stores_have_different_identities(tmp_path: Path) -> None:
    one, two = Store(tmp_path / "a.db"), Store(tmp_path / "b.db")
    assert one.uuid != two.uuid
    assert one.secret != two.secret


@pytest.mark.parametrize("text", ["lone \ud800 surrogate", "nul \0 byte", "é\u2028😀", "\\ud800"])
def test_any_text_of_a_policy_round_trips(store: Store, text: str) -> None:
    rollout = Rollout(
        prompt="p", completion=text, columns={"x": text, "big": 10**30, "n": math.inf}
    )
    judgement = Judgement(
        key="k", rollout_id=rollout.id, rubric_id=SEED.id, reward=0.1 + 0.2, normalized=1 / 3
    )
    store.append([Case(rollout=rollout, judgement=judgement)])
    assert store.window() == [Case(rollout=rollout, judgement=judgement)]


# --------------------------------------------------------------------- rubrics and decisions


def test_rubrics_are_found_by_unique_prefix(store: Store) -> None:
    assert store.rubric(SEED.id[:4]) == SEED
    with pytest.raises(StoreError, match=SEED.id):
        store.rubric(SEED.id[:3])  # too short, but named as the nearest
    with pytest.raises(StoreError, match="nearest are .*" + SEED.id):
        store.rubric(SEED.id[:15] + "x")
    seen: dict[str, Rubric] = {}
    for number in range(5000):  # two ids that share four digits turn up after a few hundred
        rubric = make_rubric(f"R{number}")
        twin = seen.setdefault(rubric.id[:4], rubric)
        if twin is not rubric:
            break
    store.put_rubric(rubric)
    store.put_rubric(twin)
    with pytest.raises(StoreError, match=f"fits {min(rubric.id, twin.id)[:4]}.*, .*more digits"):
        store.rubric(rubric.id[:4])


def test_head_follows_accepted_decisions_only(store: Store) -> None:
    better = evolve(store, "Better")
    rejected = make_rubric("Rejected")
    store.decide(
        Decision(step=20, parent=better.id, proposed=rejected.id, accepted=False, reason="gate"),
        rejected,
    )
    store.decide(Decision(step=30, parent=better.id, accepted=False, reason="no answer"))
    assert store.head() == better
    assert store.rubric(rejected.id) == rejected
    rollback = Decision(
        step=40, kind="rollback", parent=better.id, proposed=SEED.id, accepted=True, reason="worse"
    )
    assert store.decide(rollback) > 0
    assert store.head() == SEED
    assert [decision.step for decision in store.lineage()] == [0, 10, 20, 30, 40]


def test_cohorts_have_heads_of_their_own(store: Store) -> None:
    algebra = make_rubric("Algebra")
    assert store.head("algebra") is None
    store.decide(seed_decision(algebra, "algebra"), algebra)
    assert store.heads() == {"": SEED.id, "algebra": algebra.id}
    better = evolve(store, "Better algebra", cohort="algebra")
    assert store.heads() == {"": SEED.id, "algebra": better.id}
    assert store.head() == SEED
    assert [d.proposed for d in store.lineage("algebra")] == [algebra.id, better.id]
    assert len(store.lineage()) == 3


def test_law_2_no_rubric_comes_in_force_unknown_or_past_the_head(store: Store) -> None:
    better, other = make_rubric("Better"), make_rubric("Other")
    accept = Decision(step=9, parent=SEED.id, proposed=better.id, accepted=True, reason="r")
    with pytest.raises(StoreError, match=f"{better.id}.*not in the store"):
        store.decide(accept)
    with pytest.raises(StoreError, match="pass the one that it names"):
        store.decide(accept, other)
    store.decide(accept, better)
    stale = Decision(step=9, parent=SEED.id, proposed=other.id, accepted=True, reason="r")
    with pytest.raises(StoreError, match=f"the head of cohort '' is '{better.id}'"):
        store.decide(stale, other)
    with pytest.raises(StoreError, match="another writer"):
        store.decide(seed_decision(other), other)
    assert other.id not in store.rubrics()  # the refused decisions left nothing behind
    accepted = {decision.proposed for decision in store.lineage() if decision.accepted}
    assert set(store.heads().values()) <= accepted


def test_law_2_every_reward_has_a_stored_rubric(store: Store) -> None:
    unknown = make_rubric("Unknown")
    with pytest.raises(StoreError, match=f"{unknown.id}.*put_rubric"):
        store.append([make_case(1, 0), make_case(1, 1, rubric=unknown)])
    assert store.count(scored=None) == 0  # all of a batch, or none
    with pytest.raises(StoreError, match="not in the store"):
        store.pin([("g", 1)], unknown.id)


def test_two_processes_that_decide_at_once_cannot_both_win(store: Store) -> None:
    def decide(title: str) -> None:
        rubric = make_rubric(title)
        decision = Decision(step=5, parent=SEED.id, proposed=rubric.id, accepted=True, reason=title)
        store.decide(decision, rubric)

    codes = sorted(join(pid) for pid in [fork(lambda: decide("A")), fork(lambda: decide("B"))])
    assert codes == [0, 1]
    assert [decision.step for decision in store.lineage()] == [0, 5]


# ------------------------------------------------------------------------------------ cases


def test_window_filters_and_order(store: Store) -> None:
    store.append([make_case(step, index) for step in (3, 1, 2) for index in (10, 0, 9)])
    store.append([make_case(2, 1, cohort="algebra"), make_case(2, 1, mode="eval")])
    store.append([make_case(2, 5, reward=None)])

    def places(**options: Any) -> list[tuple[int, int]]:
        found = store.window(**options)
        assert store.count(**options) == len(found)
        return [(case.rollout.step, case.rollout.index) for case in found]

    assert places(after_step=1, up_to_step=2) == [(2, 0), (2, 9), (2, 10)]
    assert len(places()) == 9
    assert places(up_to_step=0) == []
    assert places(cohort="algebra") == [(2, 1)]
    assert len(places(cohort=None)) == 10
    assert places(scored=False) == [(2, 5)]
    assert len(places(scored=None)) == 10
    assert (store.first_step(), store.first_step("algebra"), store.first_step("x")) == (1, 2, None)
    assert places(mode="eval") == [(2, 1)]  # law 7: nothing of it in any window above
    assert store.last_step() == 3


def test_equal_places_are_ordered_by_rollout_id(store: Store) -> None:
    ranks = [
        Rollout(prompt="p", completion=f"from rank {rank}", step=1, index=0) for rank in range(6)
    ]
    for rollout in sorted(ranks, key=lambda rollout: rollout.completion):
        judgement = make_case().judgement.model_copy(
            update={"key": rollout.id, "rollout_id": rollout.id}
        )
        store.append([Case(rollout=rollout, judgement=judgement)])
    ids = [case.rollout.id for case in store.window()]
    assert ids == sorted(ids)
    assert ids != [rollout.id for rollout in ranks]


def test_a_batch_appended_again_changes_nothing(store: Store) -> None:
    first = make_case(1, 0)
    store.append([first, first, make_case(1, 1)])
    other_answer = make_case(1, 0, reward=0.9)
    store.append([other_answer, make_case(1, 1)])
    assert [case.judgement.reward for case in store.window()] == [0.5, 0.5]
    assert [step.mean_reward for step in store.steps()] == [0.5]
    assert len(store.judgements_of(first.rollout.id)) == 1
    assert_sound(store.path)


def test_the_last_attempt_counts_and_all_attempts_are_kept(store: Store) -> None:
    asked, again = make_case(1, 0, reward=None), make_case(1, 0, reward=0.7, attempt=1)
    store.append([asked])
    assert store.count(scored=False) == 1
    store.append([again])
    store.append([asked])  # a late repetition does not bring the first attempt back
    assert store.window(scored=None) == [again]
    assert (store.count(), store.count(scored=False)) == (1, 0)
    assert store.judgements_of(asked.rollout.id) == [asked.judgement, again.judgement]
    assert store.steps()[0].n == 1
    better = evolve(store, "Better")
    store.append([make_case(1, 0, rubric=better, reward=0.1)])
    assert [case.judgement.reward for case in store.window()] == [0.7, 0.1]


def test_attempts_come_in_order_and_from_any_branch(store: Store) -> None:
    before = store.snapshot(0)
    cases = [make_case(1, 0, attempt=n, reward=None) for n in range(12)]
    store.append(cases)
    store.restore(before)
    base = cases[0].judgement.key
    found = store.attempts(["unknown", base, base[:-1]])
    assert list(found) == ["unknown", base, base[:-1]]
    assert found[base] == [case.judgement for case in cases]  # ~10 after ~2
    assert found["unknown"] == found[base[:-1]] == []
    assert store.window(scored=None) == []  # stored, and not visible
    store.append([cases[0]])
    assert store.window(scored=None) == [cases[0]]
    assert_sound(store.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rollout_id": "other"}, "rollout id 'other'"),
        ({"mode": "eval"}, "mode 'eval'"),
        ({"cohort": "algebra"}, "cohort 'algebra'"),
        ({"reward": math.nan}, "nan"),
        ({"normalized": math.inf}, "inf"),
    ],
)
def test_cases_that_do_not_fit_are_refused(
    store: Store, change: dict[str, Any], message: str
) -> None:
    case = make_case()
    wrong = case.judgement.model_copy(update=change)
    with pytest.raises(StoreError, match=message):
        store.append([make_case(1, 1), Case(rollout=case.rollout, judgement=wrong)])
    assert store.count(scored=None) == 0


def test_law_3_unscored_is_never_zero(store: Store) -> None:
    better = make_rubric("Better")
    store.put_rubric(better)
    store.append([make_case(1, 0, reward=None), make_case(1, 1, reward=None)])
    store.append([make_case(2, 0, reward=0.9, rubric=better), make_case(2, 1, reward=None)])
    store.append([make_case(2, 2, reward=0.3), make_case(2, 3, reward=0.0, mode="eval")])
    first, second = store.steps()
    assert (first.n, first.scored, first.unscored) == (2, 0, 2)
    assert first.mean_reward is None
    assert first.mean_normalized is None
    assert (second.n, second.scored, second.unscored) == (3, 2, 1)
    assert second.mean_reward == pytest.approx(0.6)
    assert second.rubric_ids == (better.id, SEED.id)  # in the order of their use, not of their ids
    assert store.steps(cohort="algebra") == []


def test_law_4_usage_counts_what_was_paid_once(store: Store) -> None:
    start = store.snapshot(0)
    calls = [*batch(1, 3), make_case(1, 0, attempt=1), make_case(1, 9, reward=None)]
    store.append(calls)
    store.append(calls[:2])
    evolve(store, "Better", usage=COST)
    store.restore(start)
    store.append(calls[:1])  # reused: not paid again
    store.append(batch(2, 2, usage=Usage(calls=2, prompt_tokens=1)))
    evolve(store, "Better", usage=COST)  # the meta step was paid twice
    rm = Usage(calls=5 + 4, prompt_tokens=502, cached_tokens=50, completion_tokens=35)
    assert store.usage() == {"rm": rm, "mrm": COST + COST}


def test_an_empty_store_has_no_numbers(path: Path) -> None:
    with Store(path) as store:
        assert store.head() is None
        assert store.last_step() is None
        assert store.first_step() is None
        assert (store.heads(), store.lineage(), store.rubrics(), store.steps()) == ({}, [], {}, [])
        assert store.usage() == {"rm": Usage(), "mrm": Usage()}
        store.append([])
        with pytest.raises(StoreError, match="no rubric yet"):
            store.rubric("abcd")
        with pytest.raises(StoreError, match="no seed decision"):
            store.genesis()
        with pytest.raises(StoreError, match="no rollout 'x'"):
            store.rollout("x")


# --------------------------------------------------------------------------------- branches


def titles(store: Store) -> list[str]:
    """Of the rubrics in the order in which they came in force."""
    return [store.rubric(d.proposed).title for d in store.lineage() if d.accepted and d.proposed]


def steps(store: Store) -> list[int]:
    assert [s.step for s in store.steps()] == sorted({c.rollout.step for c in store.window()})
    return [summary.step for summary in store.steps()]


def test_restore_takes_back_what_came_after_and_deletes_nothing(store: Store) -> None:
    store.append(batch(1))
    snapshot = json.loads(json.dumps(store.snapshot(1)))  # a checkpoint is a JSON file
    store.append(batch(2))
    evolve(store, "Abandoned")
    store.log_choice("evidence", 2, 7, ["a"])
    store.pin([("g", 2)], SEED.id)
    store.audit([(make_case(2, 0).rollout.id, 0.5, {})])
    before = rows(store.path, "SELECT count(*) FROM scorings")

    store.restore(snapshot)
    assert (steps(store), titles(store), store.last_step()) == ([1], ["Seed"], 1)
    assert store.first_step(None) == 1
    assert store.head() == SEED
    assert (store.choices(), store.audits()) == ([], {})
    assert store.judgements_of(make_case(2, 0).rollout.id) == []
    other = evolve(store, "Other")
    assert store.pin([("g", 2)], other.id) == {("g", 2): other.id}
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


# ------------------------------------------------------------------ pins, choices, audits, facts


def test_law_11_the_first_rubric_of_a_group_stays(store: Store) -> None:
    assert store.pin([("g", 1), ("h", 1)], SEED.id) == {("g", 1): SEED.id, ("h", 1): SEED.id}
    snapshot = store.snapshot(1)
    better = evolve(store, "Better")
    pairs = [("h", 1), ("g", 2), ("g", 1)]
    expected = {("h", 1): SEED.id, ("g", 2): better.id, ("g", 1): SEED.id}
    assert store.pin(pairs, better.id) == expected
    assert list(store.pin(pairs, better.id)) == pairs
    assert store.pin([("g", 1)], better.id, cohort="algebra") == {("g", 1): better.id}
    store.restore(snapshot)
    assert store.pin([("g", 1), ("g", 2)], SEED.id) == {("g", 1): SEED.id, ("g", 2): SEED.id}


def test_law_11_holds_when_two_processes_pin_at_once(store: Store, tmp_path: Path) -> None:
    better = evolve(store, "Better")
    groups = [(f"g{number}", 1) for number in range(60)]

    def race(rubric: Rubric, order: int, out: Path) -> None:
        got = {}
        for group in groups[::order]:  # from both ends: each wins some
            got.update(store.pin([group], rubric.id))
        out.write_text(json.dumps(sorted((group, id) for (group, _), id in got.items())))

    outs = [tmp_path / "0.json", tmp_path / "1.json"]
    pids = [fork(lambda: race(SEED, 1, outs[0])), fork(lambda: race(better, -1, outs[1]))]
    assert [join(pid) for pid in pids] == [0, 0]
    assert outs[0].read_text() == outs[1].read_text()
    assert rows(store.path, "SELECT count(*) FROM pins") == [(60,)]


def test_law_6_choices_are_logged_with_their_results(store: Store) -> None:
    store.log_choice("evidence", 10, 42, ["a", "b"])
    store.log_choice("probes", 10, "10:probes", {"kept": [1, 2]})
    assert store.choices("evidence") == [Choice("evidence", 10, 42, ["a", "b"])]
    assert [choice.name for choice in store.choices()] == ["evidence", "probes"]
    with pytest.raises(StoreError, match="JSON"):
        store.log_choice("evidence", 10, 42, object())


def test_audits_are_kept_apart_and_never_become_zero(store: Store) -> None:
    store.append(batch(1, 2) + batch(2, 1))
    one, two, three = (case.rollout.id for case in store.window())
    store.audit([(one, 0.25, {"likelihood": 0.5}), (two, None, {}), (three, 1.0, {})])
    store.audit([(one, 0.75, {})], name="second judge")
    found = store.audits()
    assert {id: audit.value for id, audit in found.items()} == {one: 0.25, two: None, three: 1.0}
    assert found[one].parts == {"likelihood": 0.5}
    assert list(store.audits(up_to_step=1)) == [one, two]
    assert list(store.audits(after_step=1)) == [three]
    assert {id: audit.value for id, audit in store.audits("second judge").items()} == {one: 0.75}
    store.audit([(one, 0.5, {})])
    assert store.audits()[one].value == 0.5
    wrong: list[tuple[str, float]] = [("x", 1.0), (two, math.nan)]
    for (id, value), message in zip(wrong, ["append it first", "nan"], strict=True):
        with pytest.raises(StoreError, match=message):
            store.audit([(two, 0.9, {}), (id, value, {})])
    assert store.audits()[two].value is None


def test_facts_outlive_a_restore(store: Store) -> None:
    snapshot = store.snapshot(0)
    assert store.meta("config") is None
    store.set_meta("config", "a")
    store.set_meta("config", "b")
    store.restore(snapshot)
    assert store.meta("config") == "b"
    with pytest.raises(StoreError, match="cannot be stored"):
        store.set_meta("config", "\ud800")


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


# -------------------------------------------------------------------------------- refusals


def test_a_newer_file_is_refused_with_its_number(store: Store) -> None:
    store.close()
    connection = sqlite3.connect(store.path)
    connection.execute("PRAGMA user_version = 42")
    connection.close()
    with pytest.raises(NewerStoreError, match="schema 42"):
        Store(store.path)


def test_the_migrations_that_ran_are_in_the_file(store: Store) -> None:
    ran = rows(store.path, "SELECT * FROM migrations")
    assert ran == [(1, "m001_initial"), (2, "m002_replies")]
    assert rows(store.path, "PRAGMA user_version") == [(2,)]
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
            evolve(store, f"R{number} " + "long " * 4000)

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
