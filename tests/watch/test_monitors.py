"""Monitors: each on a made run that shows its fault, and on the recorded real runs."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from statistics import fmean

import pytest

from mpo.records import Case, CriterionScore, Judgement, Rollout
from mpo.rubric import Rubric, read_rubric
from mpo.watch import thresholds
from mpo.watch.canaries import Canary, auc
from mpo.watch.monitors import Reading, observe
from mpo.watch.second_judge import read_gaps, smooth
from mpo.watch.state import MonitorState, distinct, log_odds_z, phrases, words
from shared_data import shared_data

WORDS = (
    "honey bread music chess glass paper salt silk rain wool steel garden teacher farmer doctor "
    "sailor village city valley harbor winter summer carries makes gives takes knows needs the of "
    "and with under over between quiet useful simple old rich common"
).split()

Write = Callable[[random.Random, int], str]
Grade = Callable[[str, random.Random], float | None]


def prose(rng: random.Random, length: int = 60) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(length + rng.randrange(-15, 15)))


def fair(text: str, rng: random.Random) -> float | None:
    return round(rng.uniform(0.2, 0.9), 2)


def batch(
    step: int,
    write: Write = lambda rng, n: prose(rng),
    grade: Grade = fair,
    *,
    count: int = 64,
    group: int = 8,
    criteria: Callable[[float], Sequence[int]] = lambda share: (round(5 * share), round(4 * share)),
    rule: str | None = None,
    flags: dict[str, int] | None = None,
    mode: str = "train",
) -> list[Case]:
    rng = random.Random(f"batch {step}")
    cases = []
    for n in range(count):
        rollout = Rollout(
            prompt=f"Write about item {step * 100 + n // group}.",
            completion=write(rng, n),
            step=step,
            index=n,
            mode=mode,
        )
        share = grade(rollout.completion, rng)
        cases.append(
            Case(
                rollout=rollout,
                judgement=Judgement(
                    key=rollout.id,
                    rollout_id=rollout.id,
                    rubric_id="r",
                    mode=mode,
                    reward=share,
                    normalized_reward=share,
                    unscored=None if share is not None else "timeout: slow",
                    scores=()
                    if share is None
                    else tuple(
                        CriterionScore(criterion=f"c{k}", score=s)
                        for k, s in enumerate(criteria(share))
                    ),
                    rule=rule,
                    injection_flags=flags or {},
                ),
            )
        )
    return cases


def run(batches: Sequence[list[Case]], **more: object) -> list[Reading]:
    state, readings = MonitorState(), []
    for step, cases in enumerate(batches):
        state, reading = observe(state, step, cases, **more)  # type: ignore[arg-type]
        readings.append(reading)
    return readings


def calls(readings: Sequence[Reading]) -> list[str]:
    return list(dict.fromkeys(alarm.monitor for r in readings for alarm in r.alarms))


SOUND = [batch(step) for step in range(5)]


def then(*batches: list[Case]) -> list[Reading]:
    """Readings of a sound start followed by these steps, without the start's."""
    return run([*SOUND, *batches])[len(SOUND) :]


# --- made runs --------------------------------------------------------------------------------


def test_a_sound_run_calls_nothing() -> None:
    readings = run([*SOUND, *(batch(step) for step in range(5, 15))])
    assert calls(readings) == []
    figures = readings[-1].figures
    for name in (
        "length_mean",
        "length_p95",
        "length_reward",
        "distinct_2",
        "compressed",
        "saturated",
        "dead_criteria",
        "flat_groups",
        "unscored",
        "flagged",
        "reward_mean",
        "reward_std",
    ):
        assert name in figures
    assert 55 < figures["length_mean"] < 65 < figures["length_p95"]
    assert figures["reward_mean"] == pytest.approx(0.55, abs=0.03)


FAULTS: dict[str, Callable[[int], list[Case]]] = {
    "length": lambda s: batch(s, lambda rng, n: prose(rng, 20)),
    "length_reward": lambda s: batch(s, grade=lambda text, rng: min(1.0, len(text) / 500)),
    "repetition": lambda s: batch(s, lambda rng, n: " ".join([prose(rng, 15)] * 4)),
    "alike": lambda s: batch(s, lambda rng, n: prose(random.Random(n % 7))),
    "saturated": lambda s: batch(s, grade=lambda text, rng: rng.choice((1.0, 1.0, 0.9))),
    "dead_criteria": lambda s: batch(s, criteria=lambda share: (3, round(5 * share))),
    "flat_groups": lambda s: batch(s, grade=lambda text, rng: 0.6),
    "phrase": lambda s: batch(s, lambda rng, n: prose(rng) + " feel free to empower"),
}


@pytest.mark.parametrize("monitor", FAULTS)
def test_each_fault_is_called_by_its_monitor(monitor: str) -> None:
    make = FAULTS[monitor]
    readings = then(*(make(step) for step in range(5, 11)))
    found = calls(readings)
    assert monitor in found
    alarm = next(a for r in readings for a in r.alarms if a.monitor == monitor)
    assert len(alarm.rollouts) == 3
    assert alarm.figures
    assert re.search(r"\d", alarm.message)
    shown = {case.rollout.id for case in make(alarm.step)}
    assert set(alarm.rollouts) <= shown


def test_what_needs_no_start_calls_at_once() -> None:
    for monitor, cases in (
        ("unscored", batch(0, grade=lambda t, rng: rng.choice((None, 0.5)))),
        ("ruled", batch(0, rule="too_short")),
        ("flagged", batch(0, flags={"zero_width": 2})),
    ):
        assert calls(run([cases])) == [monitor]


def test_while_the_start_is_gathered_nothing_is_compared() -> None:
    stubs = [batch(step, lambda rng, n: prose(rng, 20)) for step in range(3)]
    assert calls(run([SOUND[0], *stubs])) == []


def test_an_alarm_holds_and_says_when_it_began() -> None:
    readings = then(*(FAULTS["length"](step) for step in range(5, 12)))
    told = [[a.new for a in r.alarms if a.monitor == "length"] for r in readings]
    told = [news for news in told if news]
    assert told[0] == [True]
    assert all(news == [False] for news in told[1:])
    assert len(told) > 2


def test_the_hint_is_one_line_per_alarm() -> None:
    reading = then(*(FAULTS["phrase"](step) for step in range(5, 10)))[-1]
    assert "feel free to empower" in reading.hint
    assert len(reading.hint.split("\n")) == len(reading.alarms)
    assert run([SOUND[0]])[0].hint == ""


def test_a_phrase_of_the_prompt_or_of_one_group_is_none() -> None:
    def echo(rng: random.Random, n: int) -> str:
        return prose(rng) + " Write about item"

    def topic(rng: random.Random, n: int) -> str:
        return prose(rng) + f" chapter{n // 8} tale{n // 8} start{n // 8}"

    for write in (echo, topic):
        assert "phrase" not in calls(then(*(batch(step, write) for step in range(5, 10))))


def test_evaluation_rollouts_and_unscored_ones_do_not_count_as_low() -> None:
    aside = [*batch(5), *batch(5, lambda rng, n: "x", mode="eval")]
    assert run([*SOUND, aside])[-1].figures["length_mean"] > 50
    some = batch(6, grade=lambda text, rng: None if rng.random() < 0.15 else 0.8)
    figures = run([some])[0].figures
    assert figures["reward_mean"] == pytest.approx(0.8)
    assert 0 < figures["unscored"] < 0.3
    nothing = run([batch(0, grade=lambda t, rng: None), []])
    assert "reward_mean" not in nothing[-1].figures


def test_a_change_of_rubric_is_no_correlation() -> None:
    """Short texts under a strict rubric, then long ones under a mild one: within each, no link."""
    low = [
        batch(s, lambda rng, n: prose(rng, 45), lambda t, rng: rng.uniform(0.1, 0.4))
        for s in range(5, 7)
    ]
    high = [
        batch(s, lambda rng, n: prose(rng, 80), lambda t, rng: rng.uniform(0.6, 0.9))
        for s in range(7, 9)
    ]
    readings = then(*low, *high)
    assert all(abs(r.figures["length_reward"]) < 0.3 for r in readings)


def test_it_is_a_pure_function_and_survives_json() -> None:
    batches = [*SOUND, *(FAULTS["phrase"](step) for step in range(5, 9))]
    whole = run(batches)
    state = MonitorState()
    for step, cases in enumerate(batches):
        before = state
        first = observe(state, step, cases)
        assert observe(before, step, cases) == first
        state = MonitorState.from_json(json.loads(json.dumps(first[0].to_json())))
        assert state == first[0]
        assert first[1] == whole[step]
    assert len(json.dumps(state.to_json())) < 200_000
    text = json.dumps(state.to_json())
    assert SOUND[0][0].rollout.completion[:40] not in text


def test_alarms_are_plain_data() -> None:
    alarm = then(*(FAULTS["length"](step) for step in range(5, 9)))[-1].alarms[0]
    assert json.loads(json.dumps(alarm.to_dict()))["monitor"] == alarm.monitor
    assert str(alarm).startswith(f"{alarm.monitor}: ")


# --- canaries and second judge ----------------------------------------------------------------


def canaries(good: float, bad: float | None) -> list[Canary]:
    return [
        Canary("essay", True, good),
        Canary("other essay", True, good + 0.1),
        Canary("truncated", False, bad),
        Canary("master key", False, 0.0),
    ]


def test_canaries() -> None:
    state, reading = observe(MonitorState(), 0, batch(0), canaries=canaries(0.7, 0.3))
    assert not reading.alarms
    assert reading.figures["canary_auc"] == 1.0
    _, closer = observe(state, 1, batch(1), canaries=canaries(0.2, 0.25))
    assert [a.monitor for a in closer.alarms] == ["canaries"]
    _, high = observe(state, 1, batch(1), canaries=canaries(0.9, 0.5))
    assert "texts without content score high" in high.alarms[0].message
    _, missing = observe(state, 1, batch(1), canaries=canaries(0.7, None))
    assert not missing.alarms
    assert auc([Canary("a", True, 0.5)]) is None


def test_the_gap_raises_an_alarm_by_the_onset_rule() -> None:
    gaps = [(0.02 * step, 0.05 * step) for step in range(20)]
    alarms = [read_gaps(gaps[: step + 1], 0.0)[1] is not None for step in range(20)]
    first = alarms.index(True)
    # The gap passes 0.10 at step 5, its mean over five steps two steps later.
    assert first == 7
    assert all(alarms[first:])


def test_a_risen_phrase_stands_for_the_shortcut() -> None:
    state = MonitorState()
    for step in range(5):
        state, _ = observe(state, step, batch(step), gap=0.0)
    for step in range(5, 15):
        state, reading = observe(state, step, FAULTS["phrase"](step), gap=0.15)
    assert [a.monitor for a in reading.alarms] == ["phrase", "audit"]
    assert "of the top-scored texts show a shortcut" in reading.alarms[1].message
    assert reading.figures["audit_gap"] == pytest.approx(0.15)


def test_without_a_known_shortcut_a_severe_gap_is_enough() -> None:
    state = MonitorState()
    for step in range(5):
        state, small = observe(state, step, batch(step), gap=0.2)
    assert not small.alarms
    for step in range(5, 10):
        state, large = observe(state, step, batch(step), gap=0.55)
    assert [a.monitor for a in large.alarms] == ["audit"]
    assert large.figures["audit_gap_rise"] == pytest.approx(0.35)


def test_a_judge_that_is_merely_stricter_or_milder_raises_no_alarm() -> None:
    false_alarms = 0
    for run in range(40):
        rng = random.Random(run)
        offset = -0.4 + 0.8 * run / 39
        state, alarmed = MonitorState(), False
        for step in range(60):
            # Three pairs a step, each with an error of 0.2 between the judges.
            gap = offset + rng.gauss(0.0, 0.2 / 3**0.5)
            state, reading = observe(state, step, [], gap=gap)
            alarmed |= any(alarm.monitor == "audit" for alarm in reading.alarms)
        false_alarms += alarmed
    assert false_alarms == 0


# --- statistics -------------------------------------------------------------------------------


def test_statistics_of_texts() -> None:
    assert words("Don't stop, Ève!") == ["don't", "stop", "ève"]
    assert distinct(words("a b a b a b")) == pytest.approx(2 / 5)
    assert distinct([]) == 1.0
    assert phrases(["in", "conclusion", "we"]) == {
        "conclusion",
        "in conclusion",
        "conclusion we",
        "in conclusion we",
    }
    assert log_odds_z(24, 24, 2, 32) == pytest.approx(4.1, abs=0.05)
    assert log_odds_z(5, 10, 50, 100) == pytest.approx(0.0, abs=0.1)


# --- recorded runs ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded() -> dict[int, list[Case]]:
    """The real run as the store would hold it: 13 updates of 320 rollouts."""
    folder = shared_data("mpo-run")
    rubrics: dict[int, Rubric] = {}
    updates: dict[int, list[Case]] = {}
    with gzip.open(folder / "rollouts.jsonl.gz", "rt") as lines:
        for number, line in enumerate(lines):
            row = json.loads(line)
            version = row["rubric_iteration"]
            if version not in rubrics:
                path = folder / "rubrics" / f"evaluation_rubric_iter_{version}.txt"
                rubrics[version] = read_rubric(path.read_text()).rubric
            updates.setdefault(row["update"], []).append(_case(row, rubrics[version], number))
    return updates


def _case(row: dict[str, object], rubric: Rubric, number: int) -> Case:
    low, high = rubric.score_range
    share = (float(str(row["junior_scores"])) - low) / (high - low)
    rollout = Rollout(
        prompt=str(row["queries"]),
        completion=str(row["student_responses"]),
        step=int(str(row["update"])),
        index=number,
    )
    told = re.findall(r"<score>\s*(\d+)", str(row["junior_evaluations"]))
    return Case(
        rollout=rollout,
        judgement=Judgement(
            key=rollout.id,
            rollout_id=rollout.id,
            rubric_id=rubric.id,
            scores=tuple(
                CriterionScore(criterion=str(k), score=int(s)) for k, s in enumerate(told)
            ),
            reward=share,
            normalized_reward=share,
        ),
    )


@pytest.mark.parametrize("size", [320, 64])
def test_the_recorded_run_is_called_in_its_collapse_and_not_otherwise(
    recorded: dict[int, list[Case]], size: int
) -> None:
    """Alarms from 30 on, none at 10 and 20, none from 90 on; 50 to 80 are free."""
    state = MonitorState()
    called: dict[int, list[str]] = {}
    for update, cases in recorded.items():
        for start in range(0, len(cases), size):
            state, reading = observe(state, update, cases[start : start + size])
            called.setdefault(update, []).extend(a.monitor for a in reading.alarms)
    assert called[10] == called[20] == []
    assert "length_reward" in called[30]
    assert "length" in called[40]
    assert [update for update in called if update >= 90 and called[update]] == []


def onset(
    gaps: Sequence[float],
    shares: Sequence[float | None],
    *,
    width: int = thresholds.GAP_STEPS,
    gap: float = thresholds.GAP,
    share: float = thresholds.GAP_SHARE,
) -> int | None:
    """Index of the first step at which both parts of CHERRL's rule hold."""
    for n in range(len(gaps)):
        mean_gap, mean_share = smooth(gaps[: n + 1], width), smooth(shares[: n + 1], width)
        if mean_gap is None or mean_share is None:
            continue
        if mean_gap >= gap and mean_share >= share:
            return n
    return None


def test_the_recorded_onset_of_cherrl_is_found() -> None:
    data = json.loads((shared_data("cherrl") / "run_C.json").read_text())
    signals = data["per_step_signals"]
    gaps = [s["G_smooth"] for s in signals]
    shares = [s["M_smooth"] / 100 if s["high_n"] >= 20 else None for s in signals]
    found = onset(gaps, shares, width=1)
    assert found is not None
    assert signals[found]["step"] == 93
    assert abs(signals[found]["step"] - data["canonical_CO"]) <= 10
    severe = onset(gaps, shares, width=1, gap=thresholds.SEVERE_GAP, share=thresholds.SEVERE_SHARE)
    assert severe is not None
    assert signals[severe]["step"] == data["SEP"]
    # Smoothed once more, as a live run would, it comes no more than ten steps late either.
    live = onset(gaps, shares)
    assert live is not None
    assert abs(signals[live]["step"] - data["canonical_CO"]) <= 10


def test_the_onset_of_cherrl_is_found_step_by_step() -> None:
    data = json.loads((shared_data("cherrl") / "run_C.json").read_text())
    gaps: list[tuple[float, float | None]] = []
    first = None
    for signal in data["per_step_signals"][:140]:
        gaps.append((signal["G_smooth"], signal["M_smooth"] / 100))
        at_start = fmean(gap for gap, _ in gaps[: thresholds.GAP_BASELINE])
        if first is None and read_gaps(gaps, at_start)[1] is not None:
            first = signal["step"]
    assert first is not None
    # Ten steps for the smoothing that looks back, one for the baseline.
    assert abs(first - data["canonical_CO"]) <= 11
