"""`mpo bench judge`: the figures have the stated shape, and the counts are right."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cli.conftest import Mpo
from mpo.cli.bench_judge import PUBLISHED, costs


@pytest.fixture(scope="module")
def cost() -> dict[str, dict[int, dict[str, int]]]:
    return costs()


def test_load_and_cost_in_one_json(run: Mpo) -> None:
    printed = run.ok(
        "bench", "judge", "--json", "--in-flight", "4,8", "--latency", "0.05", "--repeat", "1"
    )
    told: dict[str, Any] = json.loads(printed)
    assert [row["in_flight"] for row in told["load"]] == [4, 8]
    for row in told["load"]:
        assert set(row) == {
            "in_flight",
            "latency_s",
            "judgements_per_s",
            "fraction_of_ideal",
            "cpu_ms_per_judgement",
            "peak_mb",
        }
        assert row["latency_s"] == 0.05
        ideal = row["in_flight"] / row["latency_s"]
        assert row["fraction_of_ideal"] == pytest.approx(row["judgements_per_s"] / ideal, abs=0.01)
        assert 0 < row["fraction_of_ideal"] <= 1, "more than the ideal cannot be"
        assert 0 < row["cpu_ms_per_judgement"] < 100
        assert 10 < row["peak_mb"] < 500
    assert set(told["cost"]["single"]) == {"1", "5", "10", "20"}
    assert told["machine"]["cores"] >= 1
    assert (told["openai"] is None) == bool(told["openai_note"])


@pytest.mark.parametrize("in_flight", ["many", "0", "4,", "-1"])
def test_a_wrong_number_is_one_line(run: Mpo, in_flight: str) -> None:
    assert "--in-flight" in run.refused("bench", "judge", f"--in-flight={in_flight}")


def test_calls_are_those_of_the_protocol(cost: Any) -> None:
    for n in (1, 5, 10, 20):
        assert cost["single"][n]["calls"] == 1
        assert cost["per_criterion"][n]["calls"] == n
        assert cost["dialogue"][n]["calls"] == cost["published"][n]["calls"] == 2 * n
    assert cost["plan_execute"][1]["calls"] == 3


def test_one_call_needs_a_fifteenth_of_the_published_prompt_tokens(cost: Any) -> None:
    assert PUBLISHED[10]["prompt_tokens"] == 41_030
    assert PUBLISHED[10]["prompt_tokens"] / cost["single"][10]["prompt_tokens"] >= 15


def test_the_papers_dialogue_costs_what_the_published_one_does(cost: Any) -> None:
    """The same conversation with other instructions: a check of how tokens are counted."""
    for n, published in PUBLISHED.items():
        ours = cost["dialogue"][n]["prompt_tokens"]
        assert ours == pytest.approx(published["prompt_tokens"], rel=0.15)


def test_what_a_prefix_cache_serves_is_part_of_the_prompt(cost: Any) -> None:
    for by_number in cost.values():
        for entry in by_number.values():
            assert 0 < entry["prompt_tokens_cached"] < entry["prompt_tokens"]
    # What is new of the one call: the response and what stands around it, whatever the rubric.
    new = {e["prompt_tokens"] - e["prompt_tokens_cached"] for e in cost["single"].values()}
    assert max(new) - min(new) <= 2
    assert max(new) < 600
