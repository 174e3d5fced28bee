"""TRLReward with a PEFT model: the policy is an adapter, the reference the model under it."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.test_trl import trainer_of
from training.tiny import tiny_reward

peft = pytest.importorskip("peft")


def test_an_adapter_is_trained_and_the_rubric_evolves(model: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    reward = tiny_reward(tmp_path)
    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", task_type="CAUSAL_LM")
    policy = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(model), lora)
    trainer_of(tmp_path, policy, reward, learning_rate=1e-2, beta=0.04).train()
    weights = dict(policy.named_parameters())
    assert any(bool(w.any()) for name, w in weights.items() if "lora_B" in name), "nothing learned"
    cases = reward.store.window(scored=None)
    assert len(cases) == 2 * 8
    assert [d.step for d in reward.store.lineage()] == [0, 2]
