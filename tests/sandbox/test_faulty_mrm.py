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


def test_a_text_is_cut_at_any_word() -> None:
    """The linter is not tested on its own word list: it sees only a cut that shows."""
    whole = SOUND["criteria"][-1]["text"].split()
    lengths: Counter[int] = Counter()
    faults: dict[str, bool] = {}
    for n in range(3000):
        answer = make_faulty(SOUND, key=f"prompt {n}")
        if kind(answer) == "truncated":
            (criterion,) = answer["criteria"]
            words = criterion["text"].split()
            assert words == whole[: len(words)]
            lengths[len(words)] += 1
            faults[criterion["text"]] = has_errors(lint(as_rubric(criterion)))
    assert sorted(lengths) == list(range(1, len(whole)))
    assert faults["Look at length. A good text has neither too much nor"]
    assert not faults["Look at length."]


def as_rubric(criterion: dict[str, Any]) -> Rubric:
    levels = tuple(Level(**level) for level in criterion["levels"])
    read = Criterion(
        name=criterion["name"], text=criterion["text"], levels=levels, scores=tuple(range(6))
    )
    return Rubric(criteria=(read,))
