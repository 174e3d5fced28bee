"""JSON that any reader takes, and records that odd numbers do not spoil."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from mpo.records import Decision, Rollout, to_json
from mpo.store.branches import dump, load


def strict(text: str) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    text.encode()
    return json.loads(text, parse_constant=refuse)


@pytest.mark.parametrize("indent", [None, 2])
def test_json_has_no_nan_and_no_lone_surrogate(indent: int | None) -> None:
    value = {"a": [math.nan, (1.5, -math.inf)], "é\ud800": {"b": "\udfff"}, "c": math.inf, "n": 1}
    text = to_json(value, indent=indent)
    assert strict(text) == {"a": [None, [1.5, None]], "é\ud800": {"b": "\udfff"}, "c": None, "n": 1}
    assert to_json({"é": 1}) == '{"é":1}'


def test_records_keep_their_other_values() -> None:
    rollout = Rollout(prompt="p", completion="c", columns={"x": math.nan, "y": [1, math.inf]})
    assert rollout.columns == {"x": None, "y": [1, None]}
    assert load(Rollout, dump(rollout)) == rollout
    assert strict(dump(rollout))["columns"] == {"x": None, "y": [1, None]}
    decision = Decision(accepted=False, reason="r", figures={"a": math.nan, "b": 0.5})
    assert decision.figures == {"b": 0.5}
    assert load(Decision, dump(decision)) == decision
    assert strict(dump([math.nan, 1])) == [None, 1]
