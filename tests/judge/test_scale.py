"""Scales: what a reward is, and what stays the same when the rubric changes."""

from __future__ import annotations

import gzip
import json
import random
from statistics import fmean, pstdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpo.judge.scale import (
    Anchored,
    Normalized,
    Raw,
    Scale,
    fit_map,
    jump,
    normalized,
    weighted_sum,
)
from mpo.records import Case, CriterionScore, Decision, Judgement, Rollout, ScaleMap
from mpo.rubric import Criterion, Rubric, read_rubric
from shared_data import shared_data

RUBRIC = Rubric(
    criteria=(
        Criterion(name="Flow", scores=(0, 1, 2, 3, 4, 5)),
        Criterion(name="Errors", scores=(-4, -2, 0), weight=2.0),
    )
)


def scores(flow: int, errors: int) -> list[CriterionScore]:
    return [
        CriterionScore(criterion="flow", score=flow),
        CriterionScore(criterion="errors", score=errors),
    ]


def test_raw_and_normalized() -> None:
    assert Raw().reward(RUBRIC, scores(3, -2)) == weighted_sum(RUBRIC, scores(3, -2)) == -1
    assert Raw().floor(RUBRIC) == -8
    assert Normalized().reward(RUBRIC, scores(3, -2)) == pytest.approx(7 / 13)
    assert Normalized().reward(RUBRIC, scores(0, -4)) == Normalized().floor(RUBRIC) == 0
    assert Normalized().reward(RUBRIC, scores(5, 0)) == 1


def test_anchored_is_normalized_until_the_rubric_changes() -> None:
    scale: Scale = Anchored()
    assert scale.reward(RUBRIC, scores(3, -2)) == Normalized().reward(RUBRIC, scores(3, -2))
    assert scale.floor(RUBRIC) == 0


shares = st.lists(st.floats(0, 1), min_size=2, max_size=40)


@given(shares, st.integers(0, 10_000), st.floats(0.5, 2), st.floats(0, 1))
def test_the_anchors_keep_mean_and_spread_within_the_bounds(
    before: list[float], seed: int, slope: float, place: float
) -> None:
    rng = random.Random(seed)
    after = [rng.random() for _ in before]
    previous = ScaleMap(slope=slope, offset=-0.5 + place * (2 - slope))
    fitted = fit_map(before, after, previous)
    assert 0.5 <= fitted.slope <= 2
    assert -0.5 - 1e-9 <= fitted(0.0) <= fitted(1.0) <= 1.5 + 1e-9
    was, now = [previous(share) for share in before], [fitted(share) for share in after]
    left, normalized_jump = fmean(now) - fmean(was), fmean(after) - fmean(before)
    if fitted.slope > 0.5:
        assert abs(left) < 1e-6
    assert abs(left) <= abs(normalized_jump) / 2 + 1e-6
    if not fitted.degenerate and fitted.slope > 0.5:
        assert pstdev(now) < pstdev(was) + 1e-6, "a bound makes a spread smaller, never larger"


def test_the_anchors_keep_mean_and_spread() -> None:
    before, after = [0.2, 0.5, 0.9, 0.4], [0.1, 0.3, 0.6, 0.3]
    previous = ScaleMap(slope=0.8, offset=0.1)
    fitted = fit_map(before, after, previous)
    was, now = [previous(share) for share in before], [fitted(share) for share in after]
    assert fmean(was) == pytest.approx(fmean(now), abs=1e-6)
    assert pstdev(was) == pytest.approx(pstdev(now), abs=1e-6)


def test_forty_ever_stricter_rubrics_stay_within_bounds_and_jump_half_as_much() -> None:
    """A policy that learns each rubric, and a next rubric that takes most of it back."""
    for run in range(20):
        rng = random.Random(run)
        scale, fitted, skill, demand = Anchored(), ScaleMap(), 0.3, 0.0

        def grade(skills: list[float], demand: float, rng: random.Random = rng) -> list[float]:
            return [min(1.0, max(0.0, s - demand + rng.gauss(0, 0.05))) for s in skills]

        first = [rng.gauss(0.3, 0.15) for _ in range(16)]
        jumps, rewards, maps = [], [], [fitted]
        for switch in range(40):
            skill += 0.2
            policy = [rng.gauss(skill, 0.12) for _ in range(200)]
            stricter = demand + rng.uniform(0.05, 0.3)
            cases = [case(0, n) for n in range(16)] + [case(switch + 1, n) for n in range(16)]
            skills = dict(zip((c.rollout.id for c in cases), first + policy[:16], strict=True))
            anchors = [skills[c.rollout.id] for c in scale.anchors(cases)]
            after_map = scale.refit(grade(anchors, demand), grade(anchors, stricter), fitted)
            was, now = grade(policy, demand), grade(policy, stricter)
            change = fmean(now) - fmean(was)
            if abs(change) > 0.05:
                jumps.append((abs(change), abs(after_map(fmean(now)) - fitted(fmean(was)))))
            fitted, demand = after_map, stricter
            rewards.append(fitted(fmean(now)))
            maps.append(fitted)
        assert -0.5 <= min(rewards) <= max(rewards) <= 1.5
        assert 0.5 <= min(m.slope for m in maps) <= max(m.slope for m in maps) <= 2
        assert fmean(j for _, j in jumps) <= fmean(n for n, _ in jumps) / 2


def case(step: int, index: int) -> Case:
    rollout = Rollout(prompt="p", completion=f"{step} {index}", step=step, index=index)
    return Case(
        rollout=rollout,
        judgement=Judgement(
            key="k", rollout_id=rollout.id, rubric_id="r", reward=0.5, normalized_reward=0.5
        ),
    )


def test_anchors_are_of_the_first_and_the_latest_steps() -> None:
    known = [case(step, n) for step in (3, 7, 8) for n in range(10)]
    steps = [c.rollout.step for c in Anchored().anchors(known)]
    assert sorted(steps) == [3] * 4 + [7] * 2 + [8] * 10
    assert Anchored().anchors(known) == Anchored().anchors(known[::-1])
    alone = Anchored().anchors([case(3, n) for n in range(20)])
    assert len(alone) == 16


def test_nothing_drifts_over_many_switches() -> None:
    rng = random.Random(4)
    before = [rng.random() for _ in range(32)]
    start = (fmean(before), pstdev(before))
    current = ScaleMap()
    for number in range(40):
        after = [0.1 + 0.8 * rng.random() if number % 2 else rng.random() for _ in before]
        current = fit_map(before, after, current)
        rewards = [current(share) for share in after]
        assert fmean(rewards) == pytest.approx(start[0], abs=1e-6)
        assert pstdev(rewards) == pytest.approx(start[1], abs=1e-6)
        before = after


def test_without_spread_the_mean_alone_is_kept() -> None:
    previous = ScaleMap(slope=1.2, offset=0.1)
    for before, after in (
        ([0.4] * 8, [0.1, 0.9] * 4),
        ([0.1, 0.9] * 4, [0.4] * 8),
        ([0.3], [0.6]),
        ([0.4, 0.42] * 4, [0.1, 0.9] * 4),
    ):
        fitted = fit_map(before, after, previous)
        assert fitted.degenerate
        assert fitted.slope == previous.slope
        assert fmean(map(fitted, after)) == pytest.approx(fmean(map(previous, before)))
    assert fit_map([], [], previous)(0.7) == previous(0.7)


def test_unscored_anchors_are_left_out_on_both_sides() -> None:
    fitted = fit_map([0.2, None, 0.8, 0.5], [0.1, 0.9, None, 0.3])
    assert fitted.anchors == 2
    assert fitted == fit_map([0.2, 0.5], [0.1, 0.3])
    assert fit_map([None], [0.5]).anchors == 0


def test_the_map_survives_with_its_decision() -> None:
    fitted = fit_map([0.1, 0.7, 0.4], [0.3, 0.9, 0.31])
    decision = Decision(
        step=10, parent="p", proposed=RUBRIC.id, accepted=True, reason="", scale_map=fitted
    )
    again = Decision.model_validate_json(decision.model_dump_json())
    assert again.scale_map == fitted  # bit for bit
    assert fitted.slope != 1.0
    scale = Anchored()
    assert scale.reward(RUBRIC, scores(3, -2), fitted) == fitted(normalized(RUBRIC, scores(3, -2)))
    assert scale.floor(RUBRIC, fitted) == fitted(0.0) < scale.reward(RUBRIC, scores(1, -4), fitted)


def test_the_jump_is_told() -> None:
    told = jump([0.2, 0.4, None], [0.6, 1.0, 0.3])
    assert told["scale_mean_before"] == pytest.approx(0.3)
    assert told["scale_mean_after"] == pytest.approx(0.8)
    assert told["scale_jump"] == pytest.approx(0.5)
    assert jump([None], [1.0]) == {}


def test_the_recorded_run_jumps_tenfold_raw_and_not_at_all_anchored() -> None:
    """Update 10 under rubric 0 against update 20 under rubric 1, as if both were one sample."""
    folder = shared_data("mpo-run")
    with gzip.open(folder / "rollouts.jsonl.gz", "rt") as lines:
        rows = [json.loads(line) for line in lines]
    rubrics = [
        read_rubric((folder / "rubrics" / f"evaluation_rubric_iter_{n}.txt").read_text()).rubric
        for n in (0, 1)
    ]
    raw = [[r["junior_scores"] for r in rows if r["update"] == u] for u in (10, 20)]
    share = [
        [(s - b.score_range[0]) / (b.score_range[1] - b.score_range[0]) for s in sums]
        for sums, b in zip(raw, rubrics, strict=True)
    ]
    assert fmean(raw[0]) == pytest.approx(3.35, abs=0.01)
    assert fmean(raw[1]) == pytest.approx(30.9, abs=0.05)
    assert abs(jump(share[0], share[1])["scale_jump"]) < 0.1
    fitted = fit_map(share[0], share[1])
    told = jump(share[0], [fitted(s) for s in share[1]])
    assert abs(told["scale_jump"]) < 1e-6
    assert abs(told["scale_std_after"] - told["scale_std_before"]) < 1e-6
