"""PPO on two processes (torchrun, gloo): one update as on one process, and one head for all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from safetensors.torch import load_file  # noqa: E402

from mpo.store import Store  # noqa: E402
from training.tiny import ROWS, history  # noqa: E402
from training.tiny_ppo import LORA  # noqa: E402

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def run(ranks: int, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    return start(launcher, program, *arguments)


def start(
    launcher: list[str], program: str = "", *arguments: str, folder: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), *sys.path]),
    }
    return subprocess.run(
        [sys.executable, *launcher, *([str(HERE / program)] if program else []), *arguments],
        env=environment,
        cwd=folder,
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


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch_size": 1},
        {"critic": "separate", "lora": LORA.model_dump(), "whiten_rewards": True},
        {"dtype": "bfloat16", "gradient_checkpointing": True},
    ],
    ids=["shared", "separate", "bfloat16"],
)
def test_weights_that_are_sharded_come_to_the_same(
    model: str, tmp_path: Path, changes: dict
) -> None:
    """FSDP2 as accelerate does it, on two CPUs: an update, a checkpoint, and sampling."""
    found = []
    for kind in ("whole", "sharded"):
        folder = tmp_path / kind
        folder.mkdir()
        changes = {"epochs": 2, **changes}
        done = run(2, "two_ranks.py", str(folder), model, json.dumps(changes), kind)
        assert done.returncode == 0, done.stderr[-3000:]
        found.append(torch.load(folder / "weights-0.pt"))
    whole, sharded = found
    # Policy and separate critic have one norm where weights are sharded.
    norms = [each["figures"].pop("grad_norm") for each in found]
    if "critic" not in changes:
        assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    assert sharded["figures"] == pytest.approx(whole["figures"], rel=1e-4, abs=1e-6)
    assert sharded["greedy"] == whole["greedy"]
    checkpoint = tmp_path / "sharded" / "checkpoint-1"
    name = "adapter_model.safetensors" if "lora" in changes else "model.safetensors"
    assert (checkpoint / "accelerate").is_dir()
    written = [load_file(tmp_path / k / "checkpoint-1" / name) for k in ("whole", "sharded")]
    assert list(written[0]) == list(written[1])
    for key, weight in written[0].items():
        assert torch.isclose(written[1][key], weight, atol=1e-4).float().mean() > 0.97, key


def test_the_example_config_for_cpus_starts_two_processes(model: str, tmp_path: Path) -> None:
    config = HERE.parents[1] / "examples" / "accelerate" / "cpu.yaml"
    launcher = ["-m", "accelerate.commands.launch", "--config_file", str(config)]
    done = start(launcher, "tiny_ppo.py", str(tmp_path), model, "--settings", '{"steps": 2}')
    assert done.returncode == 0, done.stderr[-3000:]
    checkpoint = tmp_path / "checkpoints" / "checkpoint-2"
    assert len(list(checkpoint.glob("rng_state_*.pth"))) == 2


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_mpo_train_on_two_ranks_is_one_run(model: str, tmp_path: Path, algorithm: str) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    trainer = {"algorithm": algorithm, "steps": 3, "batch_size": 8, "num_generations": 2}
    changes = [f"trainer.{key}={value}" for key, value in trainer.items()]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "mpo"]
    command = ["train", "sandbox/essay", f"model={model}", f"data.path={rows}", *changes]
    done = start(
        [*launcher, *command, "meta.every=2", "meta.delay=1", "--name", "two"],
        folder=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("report: ") == 1
    folder = tmp_path / "runs" / "two"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["trainer"]["steps"] == 3
    store = Store(folder / "mpo.db")
    cases = store.window(cohort=None, scored=None)
    places = sorted((c.rollout.step, c.rollout.index) for c in cases)
    assert places == [(step, index) for step in range(3) for index in range(8)]
    assert summary["cost"]["rm"]["calls"] == store.usage()["rm"].calls


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
    assert "rank 0 stopped with BudgetError" in done.stderr


def test_a_meta_step_that_fails_on_rank_0_leaves_both_ranks_at_one_head(
    model: str, tmp_path: Path
) -> None:
    settings = {"lr_schedule": "constant"}
    options = ["--settings", json.dumps(settings), "--lose", "2"]
    done = run(2, "tiny_ppo.py", str(tmp_path), model, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    store = Store(tmp_path / "mpo.db")
    decided = [(d.step, d.kind, d.accepted) for d in store.lineage()]
    kinds = [(2, "evolve", True), (4, "evolve", False), (6, "evolve", True)]
    assert decided == [(0, "seed", True), *kinds]
    assert "the MRM of this test is down" in store.lineage()[2].reason
    heads = [d.head for d in store.lineage()]
    for step, head in enumerate([heads[0]] * 2 + [heads[1]] * 4):
        cases = store.window(after_step=step - 1, up_to_step=step)
        assert sorted(c.rollout.index for c in cases) == list(range(8))
        assert {c.judgement.rubric_id for c in cases} == {head}
