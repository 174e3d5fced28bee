"""What the store keeps: round trips, rubrics, decisions, cases, pins, choices, audits."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from mpo.errors import StoreError
from mpo.records import Analysis, Case, Decision, Judgement, Proposal, Refinement, Rollout, Usage
from mpo.rubric import Rubric
from mpo.store import Event, Store
from store.store_doubles import (
    COST,
    SEED,
    assert_sound,
    batch,
    evolve,
    fork,
    join,
    make_case,
    make_rubric,
    rows,
    seed_decision,
)

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
        key="k", rollout_id=rollout.id, rubric_id=SEED.id, reward=0.1 + 0.2, normalized_reward=1 / 3
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
        store.pin({("", "g", 1): unknown.id})


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
    with store.reading() as view:
        assert view.attempts(base) == [case.judgement for case in cases]  # ~10 after ~2
        assert view.attempts("unknown") == view.attempts(base[:-1]) == []
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
        ({"normalized_reward": math.inf}, "inf"),
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


# ------------------------------------------------------------------ pins, choices, audits, facts


def test_law_11_the_first_rubric_of_a_group_stays(store: Store) -> None:
    g, h, later = ("", "g", 1), ("", "h", 1), ("", "g", 2)
    assert store.pin({g: SEED.id, h: SEED.id}) == {g: SEED.id, h: SEED.id}
    snapshot = store.snapshot(1)
    better = evolve(store, "Better")
    pins = dict.fromkeys([h, later, g], better.id)
    assert store.pin(pins) == {h: SEED.id, later: better.id, g: SEED.id}
    assert list(store.pin(pins)) == [h, later, g]
    with store.reading() as view:
        assert [view.pinned(group) for group in (g, later, ("", "x", 1))] == [
            SEED.id,
            better.id,
            None,
        ]
    algebra = ("algebra", "g", 1)
    assert store.pin({algebra: better.id}) == {algebra: better.id}
    store.restore(snapshot)
    assert store.pin({g: SEED.id, later: SEED.id}) == {g: SEED.id, later: SEED.id}


def test_law_11_holds_when_two_processes_pin_at_once(store: Store, tmp_path: Path) -> None:
    better = evolve(store, "Better")
    groups = [("", f"g{number}", 1) for number in range(60)]

    def race(rubric: Rubric, order: int, out: Path) -> None:
        got = {}
        for group in groups[::order]:  # from both ends: each wins some
            got.update(store.pin({group: rubric.id}))
        out.write_text(json.dumps(sorted((group, id) for (_, group, _), id in got.items())))

    outs = [tmp_path / "0.json", tmp_path / "1.json"]
    pids = [fork(lambda: race(SEED, 1, outs[0])), fork(lambda: race(better, -1, outs[1]))]
    assert [join(pid) for pid in pids] == [0, 0]
    assert outs[0].read_text() == outs[1].read_text()
    assert rows(store.path, "SELECT count(*) FROM pins") == [(60,)]


def test_law_6_choices_are_logged_with_their_results(store: Store) -> None:
    store.log_event("evidence", 10, 42, ["a", "b"])
    store.log_event("probes", 10, "10:probes", {"kept": [1, 2]})
    assert store.events("evidence") == [Event("evidence", 10, 42, ["a", "b"])]
    assert [choice.name for choice in store.events()] == ["evidence", "probes"]
    with pytest.raises(StoreError, match="JSON"):
        store.log_event("evidence", 10, 42, object())


def test_audits_are_kept_apart_and_never_become_zero(store: Store) -> None:
    store.append(batch(1, 2) + batch(2, 1))
    one, two, three = (case.rollout.id for case in store.window())
    store.add_external_scores([(one, 0.25, {"likelihood": 0.5}), (two, None, {}), (three, 1.0, {})])
    store.add_external_scores([(one, 0.75, {})], name="second judge")
    found = store.external_scores()
    assert {id: audit.value for id, audit in found.items()} == {one: 0.25, two: None, three: 1.0}
    assert found[one].parts == {"likelihood": 0.5}
    assert list(store.external_scores(up_to_step=1)) == [one, two]
    assert list(store.external_scores(after_step=1)) == [three]
    assert {id: audit.value for id, audit in store.external_scores("second judge").items()} == {
        one: 0.75
    }
    store.add_external_scores([(one, 0.5, {})])
    assert store.external_scores()[one].value == 0.5
    wrong: list[tuple[str, float]] = [("x", 1.0), (two, math.nan)]
    for (id, value), message in zip(wrong, ["append it first", "nan"], strict=True):
        with pytest.raises(StoreError, match=message):
            store.add_external_scores([(two, 0.9, {}), (id, value, {})])
    assert store.external_scores()[two].value is None


def test_facts_outlive_a_restore(store: Store) -> None:
    snapshot = store.snapshot(0)
    assert store.meta("config") is None
    store.set_meta("config", "a")
    store.set_meta("config", "b")
    store.restore(snapshot)
    assert store.meta("config") == "b"
    with pytest.raises(StoreError, match="cannot be stored"):
        store.set_meta("config", "\ud800")
