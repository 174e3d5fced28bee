"""The presets of the sandbox as a user runs them, and what a comparison prints of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mpo
from mpo.cli.results import results_table
from mpo.cli.tables import print_table
from mpo_sandbox.environments import ENVIRONMENTS


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str]) -> Callable[[dict[str, Any]], list[str]]:
    def lines(compare: dict[str, Any]) -> list[str]:
        print_table(results_table(compare))
        return capsys.readouterr().out.splitlines()

    return lines


def seed(number: int, end: float, measure: str | None = "verdict accuracy") -> dict[str, Any]:
    return {
        "seed": number,
        "measure": measure,
        "reward": {"start": 0.5, "end": 0.9},
        "gold": {"start": 0.7, "peak": 0.8, "end": end},
        "hacked_share_end": 0.25,
        "rubrics": 3,
    }


def test_the_table_names_the_measure_and_shows_the_spread_over_seeds(
    printed: Callable[[dict[str, Any]], list[str]],
) -> None:
    arms = {"fixed": {"seeds": [seed(0, 0.3), seed(1, 0.5), seed(2, 0.7)]}}
    lines = printed({"simulated": {"policy": True, "data": True, "judge": False}, "arms": arms})
    assert lines[0].strip() == (
        "reward and verdict accuracy by arm (sandbox policy and data, real judge)"
    )
    (mean,) = (line for line in lines if line.startswith("fixed mean"))
    (spread,) = (line for line in lines if line.startswith("fixed ± sd"))
    assert mean.split()[-4] == "0.50"
    assert spread.split()[-4:] == ["0.20", "0.25", "0.00", "0.0"]


def test_one_seed_has_no_spread_and_an_older_run_no_measure(
    printed: Callable[[dict[str, Any]], list[str]],
) -> None:
    lines = printed(
        {"simulated": {"policy": False}, "arms": {"mpo": {"seeds": [seed(0, 0.3, None)]}}}
    )
    assert lines[0].strip() == "reward and gold by arm"
    assert "gold start" in lines[1]
    assert not [line for line in lines if "±" in line]


@pytest.mark.slow
@pytest.mark.parametrize("task", sorted(ENVIRONMENTS))
def test_a_preset_trains_and_says_what_it_measured(task: str, tmp_path: Path) -> None:
    """Trains the task's policy first if the cache lacks it: about a minute each."""
    pytest.importorskip("trl")
    command = [sys.executable, "-m", "mpo", "train", f"sandbox/{task}", "--name", "a"]
    settings = ["trainer.steps=3", "meta.every=2", "meta.delay=0"]
    done = subprocess.run(
        [*command, *settings, "--progress", "plain"],
        cwd=tmp_path,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "PYTHONPATH": str(Path(mpo.__file__).parents[1]),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    assert "step 3/3" in done.stderr
    summary = json.loads((tmp_path / "runs" / "a" / "summary.json").read_text())
    assert summary["measure"] == ENVIRONMENTS[task].measure
    assert 0.0 < summary["gold"]["start"] <= 1.0
    assert summary["unscored"] == {}
    assert summary["trainer"]["steps"] == 3
