"""What `mpo bench train` is made of: the same inputs for both sides, and ratios within a round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")

from mpo.errors import ConfigError
from mpo.training.bench import CONDITIONS, make_inputs, ratios, run_ours, run_peer


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    make_inputs(folder)
    return folder


def test_the_inputs_are_what_the_conditions_say(inputs: Path) -> None:
    from transformers import AutoModelForCausalLM

    prompts = json.loads((inputs / "prompts.json").read_text())
    lengths = [len(ids) for ids in prompts]
    assert sum(lengths) / len(lengths) == pytest.approx(CONDITIONS["prompt"], abs=2)
    assert max(max(ids) for ids in prompts) < CONDITIONS["model"]["vocab_size"]
    model = AutoModelForCausalLM.from_pretrained(inputs / "model")
    assert model.num_parameters() == 1_263_744  # as in the published code's measurement
    again = inputs / "again"
    make_inputs(again)
    assert (again / "prompts.json").read_text() == (inputs / "prompts.json").read_text()


def test_our_side_runs_and_no_response_ends_early(inputs: Path) -> None:
    run = run_ours(inputs, "shared", 2)
    assert len(run["wall"]) == len(run["cpu"]) == 1
    assert run["length"] == [64.0, 64.0]


def test_ratios_are_taken_within_each_round() -> None:
    def row(shared: float, separate: float, peer: float) -> dict:
        names = {"shared": shared, "separate": separate, "peer": peer}
        return {n: {"wall": v, "cpu": v} for n, v in names.items()} | {"load": 0.0}

    found = ratios([row(8, 4, 2), row(3, 2, 1), row(10, 6, 2)])
    assert found["shared"]["wall"] == 8
    assert found["ratio"]["shared"]["wall"] == {"median": 4.0, "min": 3.0}
    assert found["ratio"]["separate"]["cpu"] == {"median": 2.0, "min": 2.0}
    alone = ratios(
        [{"load": 0.0, "shared": {"wall": 1, "cpu": 1}, "separate": {"wall": 1, "cpu": 1}}]
    )
    assert "ratio" not in alone


def test_a_missing_peer_is_named(inputs: Path) -> None:
    with pytest.raises(ConfigError, match="make bench-peer"):
        run_peer(Path("/no/such/python"), inputs, 1)
