"""Gates: what they accept and refuse, by hand-written reward models and by the simulated one."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from mpo.errors import BudgetError, DataError
from mpo.evolve.gate import (
    AllOf,
    Always,
    Gate,
    GateResult,
    Pair,
    Pairs,
    Probes,
    ProbeScorer,
    Tolerances,
    load_pairs,
)
from mpo.evolve.gate.bootstrap import compare
from mpo.evolve.gate.damage import DAMAGES, INJECTIONS, sentences
from mpo.judge import JudgeResult
from mpo.judge.scale import normalized
from mpo.records import Case, CriterionScore, Judgement, Refinement, Rollout, Usage
from mpo.rubric import Criterion, Rubric
from mpo.task import load_task

TASK = load_task("essay")

# --- doubles ----------------------------------------------------------------------------------

PRAISE = ("excellent", "perfect", "brilliant", "flawless", "superb", "masterly", "outstanding")


def _order(prompt: str, text: str) -> float:
    """Share of neighbours in the order of their numbers: what shuffling destroys."""
    numbers = [int(word) for word in text.replace(".", " ").split() if word.isdigit()]
    pairs = list(itertools.pairwise(numbers))
    return sum(a < b for a, b in pairs) / len(pairs) if pairs else 0.0


def _distinct(prompt: str, text: str) -> float:
    found = sentences(text)
    return len(dict.fromkeys(found)) / max(6, len(found))


def _modest(prompt: str, text: str) -> float:
    return 0.0 if any(word in text.lower() for word in PRAISE) else 1.0


MEASURES: Mapping[str, Callable[[str, str], float]] = {
    "length": lambda prompt, text: min(1.0, len(text.split()) / 60),
    "order": _order,
    "distinct": _distinct,
    "topic": lambda prompt, text: float(prompt.split()[-1] in text),
    "modest": _modest,
    "praise": lambda prompt, text: 1.0 - _modest(prompt, text),
    "quality": lambda prompt, text: (len(text) % 7) / 6,
    "flat": lambda prompt, text: 0.5,
    "noise": lambda prompt, text: (zlib.crc32(text.encode()) % 100) / 99,
}


class Measuring:
    """A reward model that scores a criterion by the measure that it is named after."""

    protocol, model, template_hash = "double", "double", "0"

    def __init__(self, fails: Callable[[Rollout, Rubric], bool] = lambda r, b: False) -> None:
        self.fails = fails
        self.asked: list[tuple[Rollout, Rubric]] = []

    async def judge(self, rollout: Rollout, rubric: Rubric) -> JudgeResult:
        self.asked.append((rollout, rubric))
        if self.fails(rollout, rubric):
            return JudgeResult(unscored="timeout: too slow", usage=Usage(calls=1))
        measures = [MEASURES[criterion.name.split()[0]] for criterion in rubric.criteria]
        return JudgeResult(
            scores=tuple(
                CriterionScore(
                    criterion=key, score=round(10 * measure(rollout.prompt, rollout.completion))
                )
                for key, measure in zip(rubric.criterion_ids, measures, strict=True)
            ),
            usage=Usage(calls=1, prompt_tokens=100),
        )


def rubric(*names: str) -> Rubric:
    return Rubric(criteria=tuple(Criterion(name=n, scores=tuple(range(11))) for n in names))


HEAD = rubric("length", "order", "distinct", "topic", "modest", "quality")
MODEL = Measuring()


def evidence(count: int = 40, steps: Sequence[int] = (0, 9), under: Rubric = HEAD) -> list[Case]:
    cases = []
    for n in range(count):
        topic = ("honey", "bread", "chess", "rain")[n % 4]
        body = " ".join(
            f"Point {k} is that {topic} has {('much', 'some', 'a very long')[(n + k) % 3]} history."
            for k in range(1, 7 + n % 3)
        )
        rollout = Rollout(
            prompt=f"Write about {topic}", completion=body, step=steps[n % len(steps)], index=n
        )
        share = normalized(under, asyncio.run(MODEL.judge(rollout, under)).scores)
        cases.append(
            Case(
                rollout=rollout,
                judgement=Judgement(
                    key=str(n),
                    rollout_id=rollout.id,
                    rubric_id=under.id,
                    reward=share,
                    normalized_reward=share,
                ),
            )
        )
    return cases


EVIDENCE = evidence()


def probes(model: Measuring | None = None, **more: object) -> Probes:
    return Probes(model or Measuring(), TASK, normalized, **more)  # type: ignore[arg-type]


def rule(
    gate: Gate, proposal: Rubric, cases: Sequence[Case] = EVIDENCE, **more: object
) -> GateResult:
    refinement = Refinement(rubric=proposal, **more)  # type: ignore[arg-type]
    return asyncio.run(gate.check(HEAD, refinement, cases))


# --- probes: what is accepted and refused -----------------------------------------------------


def test_a_proposal_that_sees_the_same_is_accepted() -> None:
    same = rubric("length x", "order x", "distinct x", "topic x", "modest x", "quality x")
    ruling = rule(probes(), same)
    assert ruling.accepted
    assert ruling.figures["probe_rank_new"] == ruling.figures["probe_rank_head"] > 0.9
    assert ruling.figures["probe_pairs"] == 32


def test_a_better_proposal_is_accepted() -> None:
    weak = rubric("length", "quality")
    gate = probes()
    ruling = asyncio.run(gate.check(weak, Refinement(rubric=HEAD), evidence(under=weak)))
    assert ruling.accepted
    assert ruling.figures["probe_rank_new"] > ruling.figures["probe_rank_head"]


def test_the_rubric_in_force_is_no_change() -> None:
    assert not rule(probes(), HEAD).accepted
    assert "in effect" in rule(Pairs(MODEL, TASK, normalized, PAIRS), HEAD).reason


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (("flat",), "spread"),
        (("flat", "flat x", "flat y"), "spread"),
        (("noise",), "damaged copies"),
        (("praise", "topic", "quality"), "self praise"),
        (("length", "distinct", "topic", "modest", "quality"), "shuffled"),
        (("order", "distinct", "length", "modest", "quality"), "other answer"),
        (("quality",), "damaged copies"),
    ],
)
def test_a_proposal_that_loses_something_is_refused(names: tuple[str, ...], why: str) -> None:
    ruling = rule(probes(kinds=6), rubric(*names))
    assert not ruling.accepted
    assert why in ruling.reason


def test_a_proposal_that_sees_no_damage_is_refused_even_under_a_blind_head() -> None:
    blind = rubric("noise")
    cases = evidence(under=blind)
    gate = probes()
    ruling = asyncio.run(gate.check(blind, Refinement(rubric=rubric("quality", "noise z")), cases))
    assert "next to no damage" in ruling.reason
    better = asyncio.run(gate.check(blind, Refinement(rubric=HEAD), cases))
    assert better.accepted


class Fooled(Measuring):
    """Gives full marks to whatever speaks to the grader, under one rubric."""

    def __init__(self, under: Rubric) -> None:
        super().__init__()
        self.under = under

    async def judge(self, rollout: Rollout, rubric: Rubric) -> JudgeResult:
        verdict = await super().judge(rollout, rubric)
        if rubric == self.under and rollout.completion in INJECTIONS:
            full = tuple(s.model_copy(update={"score": 10}) for s in verdict.scores)
            return JudgeResult(scores=full, usage=verdict.usage)
        return verdict


def test_injections_must_stay_at_the_floor() -> None:
    same = rubric("length x", "order x", "distinct x", "topic x", "modest x", "quality x")
    ruling = rule(probes(Fooled(same)), same)
    assert not ruling.accepted
    assert "injections" in ruling.reason
    assert ruling.figures["probe_floor_new"] > 0.5
    # A head that is fooled already is no reason to refuse what is fooled as much.
    assert rule(probes(Fooled(HEAD)), same).accepted


# --- probes: robustness -----------------------------------------------------------------------


def test_single_failures_are_left_out_and_a_storm_refuses() -> None:
    def some(share: int) -> Callable[[Rollout, Rubric], bool]:
        return lambda r, b: zlib.crc32((r.completion + b.id).encode()) % 100 < share

    same = rubric("length x", "order x", "distinct x", "topic x", "modest x", "quality x")
    ruling = rule(probes(Measuring(some(10))), same)
    assert ruling.accepted
    assert 0 < ruling.figures["probe_unscored"] < ruling.figures["probe_calls"]
    assert ruling.figures["probe_pairs"] < 32
    storm = rule(probes(Measuring(some(80))), same)
    assert not storm.accepted
    assert "stayed unscored" in storm.reason
    nothing = rule(probes(Measuring(lambda r, b: True)), same)
    assert not nothing.accepted


def test_an_unscored_answer_is_no_zero() -> None:
    """Were it one, a proposal whose originals fail would seem to rank them last."""
    same = rubric("length x", "order x", "distinct x", "topic x", "modest x", "quality x")
    originals = {case.rollout.completion for case in EVIDENCE[::3]}
    model = Measuring(lambda r, b: b == same and r.completion in originals)
    assert rule(probes(model), same).accepted


def test_a_spent_budget_stops_the_check() -> None:
    class Poor(Measuring):
        async def judge(self, rollout: Rollout, rubric: Rubric) -> JudgeResult:
            raise BudgetError("the budget is spent")

    with pytest.raises(BudgetError):
        rule(probes(Poor()), rubric("length"))


def test_no_evidence_and_only_stubs_leave_nothing_to_damage() -> None:
    better = rubric("length", "topic")
    stubs = [
        Case(rollout=Rollout(prompt="Write about x", completion="x.", index=n), judgement=j)
        for n, j in enumerate(case.judgement for case in EVIDENCE[:8])
    ]
    for cases in ([], stubs):
        ruling = rule(probes(), better, cases)
        assert ruling.figures["probe_pairs"] <= 32
        assert "nan" not in str(ruling.figures)


# --- probes: cost, draws, secrecy -------------------------------------------------------------


def test_cost_is_bounded_and_counted() -> None:
    model = Measuring()
    gate = probes(model)
    ruling = rule(gate, rubric("length", "topic", "quality"))
    assert len(model.asked) == ruling.figures["probe_calls"] == ruling.usage.calls
    assert 0 < len(model.asked) <= gate.calls()
    assert gate.calls(per_judgement=6) == 6 * gate.calls()
    assert ruling.usage.prompt_tokens == 100 * len(model.asked)


def test_what_the_run_has_paid_for_is_not_asked_again() -> None:
    model = Measuring()
    rule(probes(model), rubric("length", "topic", "quality"))
    texts = {case.rollout.completion for case in EVIDENCE}
    under_head = [r for r, b in model.asked if b == HEAD and r.completion in texts]
    # Only answers to another prompt are asked about: as such nobody has judged them.
    prompts = {(case.rollout.prompt, case.rollout.completion) for case in EVIDENCE}
    assert all((r.prompt, r.completion) not in prompts for r in under_head)


def test_probes_rotate_with_seed_and_step_and_repeat_otherwise() -> None:
    def texts(seed: int, steps: tuple[int, ...]) -> list[str]:
        model = Measuring()
        rule(probes(model, seed=seed), rubric("length", "topic"), evidence(steps=steps))
        return [rollout.completion for rollout, _ in model.asked]

    first = texts(0, (0, 9))
    assert texts(0, (0, 9)) == first
    assert texts(1, (0, 9)) != first
    assert texts(0, (0, 19)) != first


def test_rollouts_that_the_mrm_has_not_seen_come_first() -> None:
    model = Measuring()
    seen = tuple(case.rollout.id for case in EVIDENCE[:20])
    proposal = rubric("length", "topic")
    rule(probes(model), proposal, evidence=seen)
    by_id = {(c.rollout.prompt, c.rollout.completion): c.rollout.id for c in EVIDENCE}
    asked = {by_id.get((r.prompt, r.completion)) for r, b in model.asked[:16] if b == proposal}
    assert asked
    assert not asked & set(seen)


def test_originals_come_from_the_start_of_the_run_where_the_evidence_has_it() -> None:
    model = Measuring()
    rule(probes(model), rubric("length", "topic"), evidence(steps=(0, 9)))
    real = {case.rollout.completion for case in EVIDENCE}
    made = [r for r, _ in model.asked if r.completion not in real | set(INJECTIONS)]
    assert len(made) >= 20
    assert {r.step for r in made} == {0}


def test_every_kind_of_damage_is_worse_and_different() -> None:
    text = EVIDENCE[2].rollout.completion
    for name, damage in DAMAGES.items():
        copy = damage(text, EVIDENCE[1].rollout.completion, random.Random(1))
        assert copy is not None
        assert copy != text, name
    for name in ("first_sentence", "title_only", "shuffled", "repeated"):
        assert DAMAGES[name]("One sentence", "", random.Random(1)) is None
    assert sorted(sentences(DAMAGES["shuffled"](text, "", random.Random(2)) or "")) == sorted(
        sentences(text)
    )


def test_a_rule_is_the_floor_and_asks_nobody() -> None:
    model = Measuring()
    panel = ProbeScorer(model, TASK, normalized)
    texts = [Rollout(prompt="p", completion=text) for text in ("", " . ", "Solution")]
    assert asyncio.run(panel.scores(texts, HEAD)) == [0.0, 0.0, 0.0]
    assert model.asked == []


# --- statistics -------------------------------------------------------------------------------


def test_tolerance_edges() -> None:
    def lost(head_wins: int, new_wins: int, tolerance: float = 0.05) -> bool:
        clusters = [[(float(n < head_wins), float(n < new_wins))] for n in range(20)]
        found = compare(clusters, "edge")
        assert found is not None
        return found.lost(tolerance, 0.9)

    assert not lost(20, 20)
    assert not lost(20, 19)  # a loss of 0.05 is within the tolerance
    assert not lost(20, 18, tolerance=0.15)
    assert lost(20, 16)
    assert not lost(10, 14)


def test_a_loss_by_chance_does_not_count() -> None:
    # Three lost and two won of 20: worse by 0.05 and more, but not in nine of ten resamples.
    clusters = [[(1.0, 0.0)]] * 3 + [[(0.0, 1.0)]] * 2 + [[(1.0, 1.0)]] * 4
    found = compare(clusters, "chance")
    assert found is not None
    assert found.change < -0.05
    assert not found.lost(0.05, 0.9)
    assert compare([], "none") is None
    assert compare([[], []], "none") is None


def test_tolerances_are_the_callers() -> None:
    shuffling_unseen = rubric("length", "distinct", "topic", "modest", "quality")
    assert not rule(probes(kinds=6), shuffling_unseen).accepted
    loose = Tolerances(rank=1.0, kind=1.0, spread=0.0)
    assert rule(probes(kinds=6, tolerances=loose), shuffling_unseen).accepted


# --- pairs ------------------------------------------------------------------------------------

PAIRS = [
    Pair(
        case.rollout.prompt,
        case.rollout.completion,
        DAMAGES["shuffled"](case.rollout.completion, "", random.Random(n)) or "",
    )
    for n, case in enumerate(EVIDENCE)
]


def test_pairs_accept_what_agrees_as_often_as_the_head() -> None:
    gate = Pairs(Measuring(), TASK, normalized, PAIRS, sample=12)
    fine = rule(gate, rubric("order", "length"))
    assert fine.accepted
    assert fine.figures["pairs_new"] >= fine.figures["pairs_head"] > 0.9
    assert fine.figures["pairs_calls"] <= gate.calls()
    bad = rule(gate, rubric("length", "topic"))
    assert not bad.accepted
    assert bad.figures["pairs_new"] == pytest.approx(0.5)


def test_pairs_rotate_and_survive_failures() -> None:
    model = Measuring(lambda r, b: zlib.crc32(r.completion.encode()) % 7 == 0)
    gate = Pairs(model, TASK, normalized, PAIRS, sample=12)
    assert rule(gate, rubric("order", "length")).accepted
    dead = Pairs(Measuring(lambda r, b: True), TASK, normalized, PAIRS)
    assert "unscored" in rule(dead, rubric("order")).reason
    first = rule(Pairs(Measuring(), TASK, normalized, PAIRS, sample=4), rubric("noise"))
    again = rule(Pairs(Measuring(), TASK, normalized, PAIRS, sample=4), rubric("noise"))
    assert first.figures == again.figures


def test_pairs_are_read_in_the_form_of_llmbar(tmp_path: Path) -> None:
    path = tmp_path / "pairs.json"
    entries = [
        {"input": "p", "output_1": "good", "output_2": "bad", "label": 1},
        {"input": "q", "output_1": "bad", "output_2": "good", "label": "2"},
    ]
    path.write_text(json.dumps(entries))
    assert load_pairs(path) == (Pair("p", "good", "bad"), Pair("q", "good", "bad"))
    for broken, fault in (
        ([], "is empty"),
        ([{"input": "p", "output_1": "a", "label": 1}], "row 1: 'output_2' is missing"),
        ([{**entries[0], "label": 3}], "row 1: 'label' must be 1 or 2"),
        ([7], "row 1: must be a JSON object"),
    ):
        path.write_text(json.dumps(broken))
        with pytest.raises(DataError, match=fault):
            load_pairs(path)
    with pytest.raises(DataError, match="no such file"):
        load_pairs(tmp_path / "missing.json")


# --- all of -----------------------------------------------------------------------------------


class Saying:
    def __init__(self, accepted: bool, name: str) -> None:
        self.ruling = GateResult(accepted, name, {name: 1.0}, Usage(calls=1))
        self.asked = 0

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        self.asked += 1
        return self.ruling


def test_all_of_needs_every_gate_and_stops_at_the_first_refusal() -> None:
    yes, no, never = Saying(True, "a"), Saying(False, "b"), Saying(True, "c")
    ruling = rule(AllOf([yes, no, never]), rubric("length"))
    assert (ruling.accepted, ruling.reason) == (False, "b")
    assert dict(ruling.figures) == {"a": 1.0, "b": 1.0}
    assert ruling.usage.calls == 2
    assert never.asked == 0
    both = rule(AllOf([yes, Always()]), rubric("length"))
    assert both.accepted
    assert both.reason.startswith("a; ")
    with pytest.raises(ValueError, match="at least one"):
        AllOf([])
