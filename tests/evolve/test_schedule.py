from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from mpo.evolve.gate import Always
from mpo.evolve.schedule import Every, Selection, Stratified, Uniform, seeded
from mpo.records import Case, Judgement, Refinement, Rollout
from mpo.rubric import Criterion, Rubric


def cases(rewards: list[float]) -> list[Case]:
    out = []
    for n, reward in enumerate(rewards):
        rollout = Rollout(prompt="p", completion=f"text {n}", index=n)
        judgement = Judgement(
            key=str(n),
            rollout_id=rollout.id,
            rubric_id="r",
            reward=reward,
            normalized_reward=reward,
        )
        out.append(Case(rollout=rollout, judgement=judgement))
    return out


def test_an_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, not 0"):
        Every(0)


@pytest.mark.parametrize("make", [Uniform, Stratified])
def test_n_come_out_where_n_exist_each_once(make: Callable[[], Selection]) -> None:
    pool = cases([n / 20 for n in range(20)])
    for n in (0, 1, 7, 16, 20, 99):
        picked = make().pick(pool, n, random.Random(1), {})
        ids = [case.rollout.id for case in picked]
        assert len(ids) == len(dict.fromkeys(ids)) == min(n, 20)


@pytest.mark.parametrize("make", [Uniform, Stratified])
def test_the_seed_decides(make: Callable[[], Selection]) -> None:
    pool = cases([n / 20 for n in range(20)])
    first = make().pick(pool, 6, seeded(3, "evidence", 10), {})
    assert make().pick(pool, 6, seeded(3, "evidence", 10), {}) == first
    assert make().pick(pool, 6, seeded(4, "evidence", 10), {}) != first


def test_stratified_takes_equal_shares_of_the_thirds() -> None:
    pool = cases([0.0] * 24 + [0.5] * 3 + [1.0] * 3)
    picked = Stratified().pick(pool, 6, random.Random(0), {})
    # The upper third of 30 holds 4 zeros and all six others: two of the six picked come from it.
    assert len(picked) == 6
    assert sum(case.judgement.reward == 0.0 for case in picked) >= 4
    low = cases([0.1] * 10 + [0.9] * 10)
    halves = Stratified(2).pick(low, 4, random.Random(0), {})
    assert sorted(case.judgement.reward or 0 for case in halves) == [0.1, 0.1, 0.9, 0.9]


async def _ruling(proposal: Rubric, parent: Rubric) -> bool:
    return (await Always().check(parent, Refinement(rubric=proposal), [])).accepted


def test_always_accepts_all_but_the_rubric_in_force() -> None:
    import asyncio

    old, new = (Rubric(criteria=(Criterion(name=name),)) for name in ("Old", "New"))
    assert asyncio.run(_ruling(new, old))
    assert not asyncio.run(_ruling(old, old))


def test_rollout_ids_are_their_content() -> None:
    one = Rollout(prompt="p", completion="c", columns={"label": 1})
    assert one.id == Rollout(prompt="p", completion="c", columns={"label": 1}).id
    assert one.id != Rollout(prompt="p", completion="c", columns={"label": 2}).id
    assert one.id != Rollout(prompt="p", completion="c", columns={"label": 1}, index=1).id
    assert Rollout.model_validate_json(one.model_dump_json()) == one
    with pytest.raises(ValueError, match="JSON values"):
        Rollout(prompt="p", completion="c", columns={"x": object()})
    assert Rollout(prompt="\ud800", completion="c").id
