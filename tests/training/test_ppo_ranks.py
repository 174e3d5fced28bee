"""PPO on two processes (torchrun, gloo): one update as on one process, and one head for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from mpo.store import Store  # noqa: E402
from training.tiny import history  # noqa: E402
from training.tiny_ppo import LORA  # noqa: E402

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def run(ranks: int, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]),
    }
    return subprocess.run(
        [sys.executable, *launcher, str(HERE / program), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"critic": "separate", "lora": LORA.model_dump(), "whiten_rewards": True}],
    ids=["shared", "separate"],
)
def test_two_ranks_update_as_one(model: str, tmp_path: Path, changes: dict) -> None:
    changes = {"epochs": 1, **changes}
    found = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        done = run(ranks, "two_ranks.py", str(folder), model, json.dumps(changes))
        assert done.returncode == 0, done.stderr[-3000:]
        found += [torch.load(folder / f"weights-{rank}.pt") for rank in range(ranks)]
    one, first, second = found
    assert first["figures"] == pytest.approx(one["figures"], rel=1e-4, abs=1e-6)
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
        # AdamW's first step is the sign of the gradient: compare where that is not noise.
        close = torch.isclose(weight, one["weights"][name], atol=1e-4)
        assert close.float().mean() > 0.97, name


def test_two_ranks_see_one_head_and_continue_bit_for_bit(model: str, tmp_path: Path) -> None:
    def train(folder: Path, steps: int) -> dict:
        folder.mkdir(exist_ok=True)
        settings = {"steps": steps, "lr_schedule": "constant", "save_every": 3}
        done = run(2, "tiny_ppo.py", str(folder), model, "--settings", json.dumps(settings))
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads((folder / "summary.json").read_text())

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train(whole, 6)
    train(stopped, 3)
    assert train(stopped, 6)["resumed_from"] == 3
    store = Store(whole / "mpo.db")
    assert history(Store(stopped / "mpo.db")) == history(store)
    for step in range(6):
        cases = store.window(after_step=step - 1, up_to_step=step)
        assert sorted(c.rollout.index for c in cases) == list(range(8))
        assert len({c.judgement.rubric_id for c in cases}) == 1
    names = [whole / "checkpoints" / "checkpoint-6", stopped / "checkpoints" / "checkpoint-6"]
    assert sorted(p.name for p in names[0].glob("rng*")) == ["rng_state_0.pth", "rng_state_1.pth"]
    for file in ("model.safetensors", "critic.safetensors"):
        assert (names[0] / file).read_bytes() == (names[1] / file).read_bytes()
    told = json.loads((whole / "told.json").read_text())
    assert [line["step"] for line in told] == [1, 2, 3, 4, 5, 6]


def test_an_error_on_the_main_process_stops_both(model: str, tmp_path: Path) -> None:
    done = run(2, "tiny_ppo.py", str(tmp_path), model, "--break-at", "2")
    assert done.returncode != 0
    assert "the budget of this test is spent" in done.stderr
    assert "rank 0 stopped with ConfigError" in done.stderr
