"""`mpo replay`: what another rubric would have said, without a trace in the run."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Mpo
from importers.experiment import published
from mpo.cli.replay import spearman
from mpo.config import RunFolder, load_config
from mpo.config.build import build
from mpo.records import Rollout
from mpo.store import Store
from mpo_sandbox import corpus

SETTINGS = ["meta.every=1", "meta.samples=4", "meta.gate=always", "meta.delay=0"]


def rollouts(step: int) -> list[Rollout]:
    prompts = corpus.prompts(step, 6)
    return [
        Rollout(prompt=prompt, completion=f"{prompt} " * (n + 2), step=step, index=n)
        for n, prompt in enumerate(prompts)
    ]


def make_run(folder: Path) -> Path:
    """A sandbox run of two steps, with a meta step after each, and no trainer."""
    config = load_config("sandbox/essay", [*SETTINGS, "model=none", "arm=mpo"])
    with RunFolder(folder, config) as run:
        reward = build(config, run.path).reward

        async def train() -> None:
            for step in (0, 1):
                await reward.score(rollouts(step))
                await reward.step(step + 1)
            await reward.aclose()

        asyncio.run(train())
        reward.store.close()
    return folder


def state(folder: Path) -> Any:
    with Store(folder / "mpo.db", create=False) as store:
        return store.steps(), store.lineage(), store.window(scored=None), store.usage()


def test_a_replay_asks_once_and_leaves_the_run_alone(run: Mpo) -> None:
    folder = make_run(run.folder / "runs" / "a")
    before = state(folder)
    steps, lineage, cases, _ = before
    last = [d.proposed for d in lineage if d.accepted][-1]
    paid = sum(case.judgement.rubric_id == last for case in cases)
    out = json.loads(run.ok("replay", "a", "--rubric", last[:6], "--json"))
    assert (out["rubric"], out["rollouts"], out["compared"]) == (last, 12, 12)
    assert out["asked"] == 12 - paid > 0
    assert out["unscored_now"] == 0
    assert [s["then"] for s in out["steps"]] == pytest.approx([s.mean_normalized for s in steps])
    assert 0 <= out["mean_difference"] <= 1
    again = json.loads(run.ok("replay", "a", "--rubric", last, "--json"))
    assert again == {**out, "asked": 0}
    # The seed graded the first step, so nothing is new there.
    some = run.ok("replay", "a", "--rubric", "seed", "--limit", "4")
    assert "4 rollouts" in some
    assert "rank correlation" in some
    assert state(folder) == before


def test_an_imported_run_is_replayed_by_the_model_that_is_named(run: Mpo) -> None:
    published(run.folder / "theirs")
    run.ok("import", "theirs", "--name", "a")
    assert "give --chat" in run.refused("replay", "a", "--rubric", "1")
    out = json.loads(run.ok("replay", "a", "--rubric", "1", "--chat", "sandbox", "--json"))
    # Three rows of the import are unscored; what the published model said is not ours.
    assert (out["asked"], out["compared"], out["unscored_then"]) == (7, 4, 3)
    assert out["common_scores"] == 5
    assert "rubrics 0 (the seed) to 1" in run.refused("replay", "a", "--rubric", "9")


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3], [10, 20, 30]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert spearman([1, 2, 2, 4], [1, 3, 2, 4]) == pytest.approx(0.9486833)
    assert spearman([1, 1], [1, 2]) is None
    assert spearman([], []) is None
