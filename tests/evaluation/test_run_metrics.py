"""Metrics of a run, from a store that was filled by hand."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest

from mpo.evaluation.run_metrics import arm_seed_summary, by_step, curves
from mpo.records import Case, Decision, Judgement, Rollout
from mpo.rubric import Criterion, Rubric
from mpo.store import Store


def rubric(name: str) -> Rubric:
    criterion = Criterion(name=name, text="how good", levels=(), scores=(0, 1, 2), weight=1.0)
    return Rubric(title="Essay", criteria=(criterion,))


FIRST, SECOND = rubric("Clarity"), rubric("Depth")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "mpo.db")
    seed = Decision(kind="seed", proposed=FIRST.id, accepted=True, reason="seed")
    store.decide(seed, FIRST)
    return store


def put(
    store: Store,
    step: int,
    rewards: list[float | None],
    gold: list[float | None] | None = None,
    under: Rubric = FIRST,
    mode: str = "train",
    words: int = 3,
) -> None:
    """One step's rollouts; a missing entry of `gold` means that its gold is not known."""
    cases = []
    for index, reward in enumerate(rewards):
        rollout = Rollout(
            prompt="tea", completion="word " * words, step=step, index=index, mode=mode
        )
        judgement = Judgement(
            key=f"{rollout.id}-{under.id}",
            rollout_id=rollout.id,
            rubric_id=under.id,
            step=step,
            mode=mode,
            reward=None if reward is None else reward * 5,  # another scale than the normalized one
            normalized_reward=reward,
            unscored="truncated: cut" if reward is None else None,
        )
        cases.append(Case(rollout=rollout, judgement=judgement))
    store.append(cases)
    entries = [
        (case.rollout.id, value, {} if value is None else {"fluency": value / 2, "facts": 1.0})
        for case, value in zip(cases, gold or [], strict=bool(gold))
    ]
    store.add_external_scores(entries)


def accept(store: Store, step: int, old: Rubric, new: Rubric) -> None:
    decision = Decision(step=step, parent=old.id, proposed=new.id, accepted=True, reason="accepted")
    store.decide(decision, new)


def test_start_peak_and_end_are_means_of_ten_steps(store: Store) -> None:
    for step in range(30):
        put(store, step, [step / 100, step / 100], [(29 - abs(step - 14)) / 100] * 2)
    summary = arm_seed_summary(store)
    assert summary["reward"] == {"start": pytest.approx(0.045), "end": pytest.approx(0.245)}
    gold = [(29 - abs(step - 14)) / 100 for step in range(30)]
    spans = [sum(gold[i : i + 10]) / 10 for i in range(21)]
    assert summary["gold"] == {
        "start": pytest.approx(spans[0]),
        "peak": pytest.approx(max(spans)),
        "end": pytest.approx(spans[-1]),
    }
    assert max(spans) > max(spans[0], spans[-1])
    assert summary["gold_parts"]["fluency"]["peak"] == pytest.approx(max(spans) / 2)
    assert summary["gold_parts"]["facts"] == {"start": 1.0, "peak": 1.0, "end": 1.0}
    assert summary["rubrics"] == 1


def test_rollouts_without_reward_or_gold_never_count_as_zero(store: Store) -> None:
    put(store, 0, [0.6, None, 0.8], [0.5, 0.1, None])
    (step,) = by_step(store)
    assert (step.n, step.unscored, step.with_gold) == (3, 1, 1)
    assert step.reward == pytest.approx(0.7)
    assert step.gold == 0.5  # of the one rollout that has both; not of the unscored one's 0.1
    put(store, 1, [None, None], [0.4, 0.4])
    summary = arm_seed_summary(store)
    assert summary["reward"] == {"start": pytest.approx(0.7), "end": pytest.approx(0.7)}
    assert summary["gold"] == {"start": 0.5, "peak": 0.5, "end": 0.5}
    assert curves(store)["reward"] == [pytest.approx(0.7), None]
    assert curves(store)["gold"] == [0.5, None]
    assert curves(store)["unscored"] == [1, 2]


def test_nothing_known_is_none(store: Store) -> None:
    nothing = {"start": None, "peak": None, "end": None}
    expected = {
        "reward": {"start": None, "end": None},
        "gold": nothing,
        "gold_parts": {},
        "hacked_share_end": None,
        "rubrics": 1,
    }
    assert arm_seed_summary(store) == expected  # an empty run
    put(store, 0, [0.5, 0.7])
    assert arm_seed_summary(store) == expected | {
        "reward": {"start": pytest.approx(0.6), "end": pytest.approx(0.6)}
    }


def test_a_gap_at_the_end_is_no_number(store: Store) -> None:
    for step in range(12):
        put(store, step, [0.5], [0.5])
    for step in range(12, 22):
        put(store, step, [None])
    summary = arm_seed_summary(store)
    assert summary["reward"] == {"start": 0.5, "end": None}
    assert summary["gold"] == {"start": 0.5, "peak": 0.5, "end": None}


def test_hacked_share_is_over_the_last_ten_steps(store: Store) -> None:
    put(store, 0, [1.0] * 4, [0.0] * 4)  # all hacked, and long ago
    for step in range(1, 11):
        put(
            store,
            step,
            [0.8, 0.79, 0.9, 0.9, None, 0.9],  # at the bound; below; honest; hacked; unscored;
            [0.5, 0.5, 0.51, 0.1, 0.0, None],  # and one whose gold is not known
        )
    assert arm_seed_summary(store)["hacked_share_end"] == pytest.approx(2 / 4)


def test_evaluation_rollouts_and_abandoned_branches_do_not_count(store: Store) -> None:
    put(store, 0, [0.5], [0.5])
    checkpoint = store.snapshot(1)
    put(store, 0, [0.0], [0.0], mode="eval")
    put(store, 1, [0.9], [0.9])
    store.restore(checkpoint)
    put(store, 1, [0.7], [0.7], words=5)
    drawn = curves(store)
    assert (drawn["step"], drawn["reward"], drawn["gold"]) == ([0, 1], [0.5, 0.7], [0.5, 0.7])
    assert drawn["words"] == [3, 5]


def test_switches_and_rubrics(store: Store) -> None:
    put(store, 0, [0.5])
    accept(store, 1, FIRST, SECOND)
    put(store, 1, [0.5], under=SECOND)
    rejected = Decision(
        step=2, parent=SECOND.id, proposed=FIRST.id, accepted=False, reason="the gate said no"
    )
    store.decide(rejected, FIRST)
    accept(store, 3, SECOND, FIRST)  # back to the first: two rubrics in all
    assert arm_seed_summary(store)["rubrics"] == 2
    drawn = curves(store)
    assert drawn["rubric"] == [FIRST.id, SECOND.id]
    assert drawn["switches"] == [
        {"step": 1, "rubric": SECOND.id, "cohort": ""},
        {"step": 3, "rubric": FIRST.id, "cohort": ""},
    ]


def test_memory_does_not_grow_with_the_run(store: Store) -> None:
    def peak() -> int:
        return min(traced() for _ in range(3))  # another thread of the process may allocate too

    def traced() -> int:
        tracemalloc.start()
        try:
            arm_seed_summary(store)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    def grow(first: int, last: int) -> None:
        for step in range(first, last):
            put(store, step, [0.5] * 16, [0.5] * 16, words=400)

    grow(0, 5)
    small = peak()
    grow(5, 50)
    assert peak() < 2 * small
