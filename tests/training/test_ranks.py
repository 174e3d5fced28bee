"""Two processes, one store: law 12.

With torchrun, since `accelerate launch --cpu` runs one process and says nothing.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mpo.store import Store
from training.tiny import history

pytestmark = pytest.mark.slow


def torchrun(folder: Path, model: str, *options: str) -> subprocess.CompletedProcess[str]:
    program = str(Path(__file__).parent / "tiny.py")
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "2",
            program,
            str(folder),
            model,
            *options,
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_both_ranks_see_the_same_rubric_at_each_step(model: str, tmp_path: Path) -> None:
    done = torchrun(tmp_path, model)
    assert done.returncode == 0, done.stderr[-3000:]
    store = Store(tmp_path / "mpo.db")
    assert (tmp_path / "summary.json").exists()

    assert [(s.n, len(s.rubric_ids)) for s in store.steps()] == [(8, 1)] * 6
    for step in range(6):
        cases = store.window(after_step=step - 1, up_to_step=step, scored=None)
        assert [c.rollout.index for c in cases] == list(range(8))  # 4 of each rank
    decided = [(d.step, d.kind, d.accepted) for d in store.lineage()]
    assert decided == [(0, "seed", True), *((n, "evolve", True) for n in (2, 4, 6))]
    rubrics = [s.rubric_ids[0] for s in store.steps()]
    heads = [d.head for d in store.lineage()]
    assert rubrics == [heads[0], heads[0], heads[1], heads[1], heads[2], heads[2]]

    before = history(store)
    store.close()
    shutil.rmtree(tmp_path / "checkpoints" / "checkpoint-6")
    again = torchrun(tmp_path, model)
    assert again.returncode == 0, again.stderr[-3000:]
    assert history(Store(tmp_path / "mpo.db")) == before


def test_a_meta_step_that_fails_on_rank_0_leaves_both_ranks_at_one_head(
    model: str, tmp_path: Path
) -> None:
    done = torchrun(tmp_path, model, "--lose", "2")
    assert done.returncode == 0, done.stderr[-3000:]
    store = Store(tmp_path / "mpo.db")
    decided = [(d.step, d.kind, d.accepted) for d in store.lineage()]
    kinds = [(2, "evolve", True), (4, "evolve", False), (6, "evolve", True)]
    assert decided == [(0, "seed", True), *kinds]
    failed = store.lineage()[2]
    assert "the MRM of this test is down" in failed.reason
    heads = [d.head for d in store.lineage()]
    for step, head in enumerate([heads[0]] * 2 + [heads[1]] * 4):
        cases = store.window(after_step=step - 1, up_to_step=step, scored=None)
        assert [c.rollout.index for c in cases] == list(range(8))  # 4 of each rank
        assert {c.judgement.rubric_id for c in cases} == {head}


@pytest.mark.parametrize("where", ["--break-at", "--kill-at"])
def test_a_failure_of_one_rank_ends_all(model: str, tmp_path: Path, where: str) -> None:
    started = time.monotonic()
    done = torchrun(tmp_path, model, where, "5")
    assert done.returncode != 0
    assert time.monotonic() - started < 120
    if where == "--break-at":
        assert "BudgetError: the budget of this test is spent" in done.stderr
        assert "rank 0 stopped with BudgetError: the budget" in done.stderr  # said by rank 1
