"""PPO's trajectories are pinned: what a run computes changes only on purpose.

The figures were recorded on one machine; another one may round differently, and the tolerance is
for that. Record them again with

    python tests/training/test_ppo_golden.py
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from training.tiny import Lengths, make_model, tiny_reward  # noqa: E402
from training.tiny_ppo import LORA, ppo, tiny_ppo  # noqa: E402

GOLDEN = Path(__file__).parent / "ppo_golden.json"
SETTINGS: dict[str, dict[str, Any]] = {
    "shared critic": {},
    "separate critic": {
        "critic": "separate",
        "minibatches": 2,
        "kl_target": 0.5,
        "kl_horizon": 20,
    },
    "lora": {"lora": LORA.model_dump(), "missing_eos": "absolute"},
    "whitened": {"whiten_rewards": True, "kl_estimator": "k3", "gamma": 0.9},
    "micro-batches": {"micro_batch_size": 3, "minibatches": 2, "max_grad_norm": None},
    "checkpointing": {"gradient_checkpointing": True, "micro_batch_size": 4, "top_p": 0.8},
}


def trajectory(name: str, model: str, folder: Path) -> list[list[float]]:
    """Per step: reward, gold, KL divergence, value loss, gradient norm; last: the weights' norm."""
    from safetensors.torch import load_file

    steps: list[list[float]] = []
    tiny_ppo(
        folder,
        model,
        tiny_reward(folder),
        settings=ppo(**SETTINGS[name]),
        gold_scorer=Lengths(),
        progress=lambda r: steps.append([r.reward, r.gold, r.kl]),
    )
    checkpoint = folder / "checkpoints" / "checkpoint-6"
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    for step, line in zip(steps, history, strict=True):
        step += [line["loss/value"], line["grad_norm"]]
    weights = [w for file in checkpoint.glob("*.safetensors") for w in load_file(file).values()]
    norms = torch.stack([w.double().norm() for w in weights])
    return [*steps, [float(norms.norm())]]


@pytest.mark.parametrize("name", list(SETTINGS))
def test_a_trajectory_is_the_recorded_one(name: str, model: str, tmp_path: Path) -> None:
    recorded = json.loads(GOLDEN.read_text())[name]
    for step, expected in zip(trajectory(name, model, tmp_path), recorded, strict=True):
        assert step == pytest.approx(expected, rel=1e-6, abs=1e-9)


def record() -> None:
    torch.set_num_threads(1)
    base = Path(tempfile.mkdtemp())
    model = make_model(base / "model")
    figures = {name: trajectory(name, model, base / name) for name in SETTINGS}
    GOLDEN.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(record())
