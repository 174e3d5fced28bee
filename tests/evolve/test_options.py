"""Options of EvolvingReward: validated where they are made, the same in Python and in a config."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

import mpo
from fakes import batch, loop_chat, make_reward
from mpo.chat.event_loop import run_in_loop
from mpo.config import load_config
from mpo.evolve.gate import AllOf, Always, Probes
from mpo.evolve.options import Evolve
from mpo.evolve.schedule import Every, Never, Selection
from mpo.judge.options import Scoring
from mpo.records import Case


def test_the_defaults_are_the_checked_ones(tmp_path: Path) -> None:
    reward = mpo.EvolvingReward("essay", loop_chat(), tmp_path / "a.db")
    assert isinstance(reward.gate, Probes)
    assert (reward.evolve.lint, reward.evolve.delay, reward.watch.canaries is not None) == (
        (True, 4, True)
    )
    assert (reward.scoring, reward.evolve) == (mpo.Scoring(), mpo.Evolve())


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"gate": "probe"}, "unknown gate 'probe'; write always, probes, pairs:FILE, or a list"),
        ({"gate": "pairs:"}, "unknown gate 'pairs:'"),
        ({"gate": ["probes", "no"]}, "unknown gate 'no'"),
        ({"gate": []}, "an empty list names no gate"),
        ({"gate": Always}, "pass an object with check"),
        ({"selection": "best"}, "'uniform', 'stratified', 'prescreen' or 'prescreen.uniform'"),
        ({"selection": object()}, "an object with pick, needs_labels"),
        ({"every": 0}, "an integer of at least 1, or null, not 0"),
        ({"every": "often"}, "an integer of at least 1, or null, not 'often'"),
        ({"every": 4}, "delay=4 must be below every=4"),
        ({"apply_after": 4}, "Extra inputs are not permitted"),
    ],
)
def test_unknown_options_are_refused_where_they_are_made(
    options: dict[str, Any], fault: str
) -> None:
    with pytest.raises(ValueError, match=fault):
        Evolve(**options)


def test_scoring_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ValueError, match="'normalized', 'raw' or 'anchored', or an object with"):
        Scoring(scale="huge")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'observe', 'penalize' or 'refuse'"):
        Scoring(on_injection="penalise")  # type: ignore[arg-type]


def test_canaries_follow_the_gate_unless_they_are_set() -> None:
    assert Evolve().reads_canaries
    assert not Evolve(gate="always").reads_canaries
    assert Evolve(gate=["always", "probes"]).reads_canaries
    assert not Evolve(every=None).reads_canaries
    assert Evolve(every=None, alarm_distance=5).reads_canaries
    assert Evolve(gate="always", canaries=True).reads_canaries
    assert not Evolve(canaries=False).reads_canaries


def test_names_and_objects_make_the_same_parts() -> None:
    assert isinstance(Evolve(every=None).make_schedule(), Never)
    every = Evolve(every=7, delay=2).make_schedule()
    assert isinstance(every, Every)
    assert every.k == 7
    own = Every(3)
    assert Evolve(every=own).make_schedule() is own
    gates = Evolve(gate=["always", Always()]).make_gate(None, None, 0)  # type: ignore[arg-type]
    assert isinstance(gates, AllOf)


@pytest.mark.parametrize("task", ["essay", "ethics", "math", "summarization"])
def test_the_paper_presets_are_the_published_method(task: str) -> None:
    meta = load_config(f"paper/{task}").meta
    own = {name: getattr(meta, name) for name in ("every", "samples", "selection", "analysis")}
    published = Evolve.paper(**own)
    assert published.model_dump(exclude={"canaries"}) == meta.model_dump(exclude={"canaries"})
    assert not published.reads_canaries
    assert not meta.reads_canaries


class Worst(Selection):
    """A prescreen of a user's own."""

    needs_labels = True

    def pick(
        self, cases: Sequence[Case], n: int, rng: random.Random, labels: Mapping[str, str]
    ) -> list[Case]:
        return [case for case in cases if labels.get(case.rollout.id) == "bad"][:n]


def test_a_selection_of_ones_own_gets_labels(tmp_path: Path) -> None:
    reward = make_reward("essay", loop_chat(), tmp_path / "a.db", every=1, selection=Worst())

    async def hold() -> Any:
        await reward.score(batch(0))
        return await reward.step(1)

    decision = asyncio.run(hold())
    labels = decision.refinement.labels
    assert len(labels) == 8
    assert {labels[id] for id in decision.refinement.evidence} == {"bad"}


def test_a_pending_meta_step_is_not_pickled(tmp_path: Path) -> None:
    reward = make_reward("essay", loop_chat(), tmp_path / "a.db", every=2, delay=1)
    asyncio.run(reward.score(batch(0)))
    assert asyncio.run(reward.step(2)) is None
    assert reward.pending_steps == [2]
    assert reward.__getstate__()["_pending"] == {}
    decision = asyncio.run(reward.step(3))
    assert decision is not None
    assert decision.due == 2


def test_score_and_step_in_the_shared_loop_wait_for_nothing_in_it(tmp_path: Path) -> None:
    reward = make_reward("essay", loop_chat(), tmp_path / "a.db", every=2, delay=1)
    run_in_loop(reward.score(batch(0)))
    assert run_in_loop(reward.step(2)) is None
    decision = run_in_loop(reward.step(3))
    assert decision is not None
    assert decision.accepted
    run_in_loop(reward.aclose())
