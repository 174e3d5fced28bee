"""The deliberately bad MRM: how often it is bad, and in which ways."""

from __future__ import annotations

from collections import Counter
from typing import Any

from mpo.evolve.lint import has_errors, lint
from mpo.rubric import Criterion, Level, Rubric
from mpo_sandbox.faulty_mrm import POISON, make_faulty

SOUND: dict[str, Any] = {
    "reasons": "Two things were missing.",
    "criteria": [
        {
            "name": name,
            "text": f"Look at {name}. A good text has neither too much nor too little.",
            "weight": 1,
            "lowest": 0,
            "highest": 5,
            "levels": [{"score": 0, "text": "far off"}, {"score": 5, "text": "as it should be"}],
        }
        for name in ("evidence", "hedging", "length")
    ],
}


def kind(answer: dict[str, Any]) -> str:
    names = [criterion["name"] for criterion in answer["criteria"]]
    if names == [POISON]:
        return "poisoned"
    if names == ["Seasoning"]:
        return "off_topic"
    return "sound" if len(names) == 3 else "truncated"


def test_a_third_is_faulty_in_three_ways() -> None:
    counts = Counter(kind(make_faulty(SOUND, key=f"prompt {n}")) for n in range(900))
    assert 520 < counts["sound"] < 680
    assert min(counts["poisoned"], counts["off_topic"], counts["truncated"]) > 60


def test_the_prompt_decides_and_not_the_runs_secret() -> None:
    one = make_faulty(SOUND, key='<PROPOSAL id="0123456789abcdef">\nx')
    two = make_faulty(SOUND, key='<PROPOSAL id="fedcba9876543210">\nx')
    assert one == two


def test_lint_sees_what_was_cut_off() -> None:
    cut = next(
        answer
        for n in range(900)
        if kind(answer := make_faulty(SOUND, key=f"prompt {n}")) == "truncated"
    )
    (criterion,) = cut["criteria"]
    rubric = Rubric(
        criteria=(
            Criterion(
                name=criterion["name"],
                text=criterion["text"],
                levels=tuple(Level(**level) for level in criterion["levels"]),
                scores=tuple(range(6)),
            ),
        )
    )
    assert has_errors(lint(rubric))
