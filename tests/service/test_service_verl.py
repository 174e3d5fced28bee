"""veRL 0.9: real Ray workers and veRL's own classes, against a real service. `make test-verl`.

Skipped where veRL is not installed: it brings a torch and a Ray of its own.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("verl")
os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import ray
import torch
from hydra import compose, initialize_config_module
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop import RewardLoopManager
from verl.experimental.reward_loop.reward_loop import migrate_legacy_reward_impl
from verl.trainer.ppo.checkpoint_callback import build_checkpoint_callback

from mpo.errors import ConfigError
from mpo.integrations.verl import MPORewardManager, restore
from mpo.service.wire import METRICS
from service.conftest import PATHS, Node

EXAMPLE = Path(__file__).parents[2] / "examples" / "verl" / "paper_ppo.sh"
WORDS = "tea rain stone river light paper bread song BROKEN a of".split()
IMPORTLIB = [
    "reward.reward_manager.source=importlib",
    "reward.reward_manager.module.path=pkg://mpo.integrations.verl",
    "reward.reward_manager.name=MPORewardManager",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    folder = str(tmp_path_factory.mktemp("tokenizer"))
    PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    kind = ["LlamaForCausalLM"]
    LlamaConfig(hidden_size=32, vocab_size=32, architectures=kind).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(
        num_cpus=4,
        include_dashboard=False,
        runtime_env={"env_vars": {"PYTHONPATH": PATHS, "HF_HUB_OFFLINE": "1"}},
    )
    yield
    ray.shutdown()


def config_for(node: Node, tokenizer: str, *overrides: str) -> Any:
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer",
            [
                f"actor_rollout_ref.model.path={tokenizer}",
                "reward.num_workers=2",
                f"+mpo.url={node.url}",
                *overrides,
            ],
        )
    return migrate_legacy_reward_impl(config)


def batch(texts: list[str], *, step: int, split: str = "train") -> Any:
    """What veRL's agent loop hands to a reward worker: prompts of two tokens, padded responses."""
    ids = {word: i + 3 for i, word in enumerate(WORDS)}
    longest = max(len(text.split()) for text in texts)
    responses = torch.zeros(len(texts), longest, dtype=torch.int64)
    mask = torch.zeros(len(texts), 2 + longest, dtype=torch.int64)
    mask[:, :2] = 1
    for row, text in enumerate(texts):
        words = [ids[word] for word in text.split()]
        responses[row, : len(words)] = torch.tensor(words)
        mask[row, 2 : 2 + len(words)] = 1
    prompts = torch.full((len(texts), 2), 3)
    tensors = {"prompts": prompts, "responses": responses, "attention_mask": mask}
    tensors["input_ids"] = torch.cat([prompts, responses], dim=1)
    turns = [{"role": "user", "content": "Write about tea."}]
    rows = {
        "raw_prompt": [turns] * len(texts),
        "uid": ["u1"] * len(texts),
        "session_id": list(range(len(texts))),
        "global_steps": [step] * len(texts),
        "data_source": ["essays"] * len(texts),
        "reward_model": [{"ground_truth": np.float32(1.0)}] * len(texts),
        "extra_info": [{"split": split, "index": np.int64(3)}] * len(texts),
    }
    columns = {}
    for name, values in rows.items():
        columns[name] = np.empty(len(texts), dtype=object)
        columns[name][:] = values
    return DataProto(TensorDict(tensors, batch_size=len(texts)), columns)


TEXTS = ["tea rain", "tea rain", "stone river light", "paper BROKEN bread", "song a of tea"]


def test_workers_ask_the_service(cluster: None, node: Node, tokenizer: str, tmp_path: Path) -> None:
    config = config_for(
        node,
        tokenizer,
        *IMPORTLIB,
        "trainer.checkpoint_callback_class=mpo.integrations.verl.MPOCheckpoint",
    )
    manager = RewardLoopManager(config)
    assert manager.reward_manager_cls is MPORewardManager
    manager.compute_rm_score(batch(TEXTS[:3], step=10))  # so that there is a mean of the group
    scored = manager.compute_rm_score(batch(TEXTS, step=10))

    # A scalar on the last token of each response, and no 0 for what has no score.
    rewards = scored.batch["rm_scores"]
    ends = [len(text.split()) - 1 for text in TEXTS]
    given = [float(rewards[row, end]) for row, end in enumerate(ends)]
    assert torch.count_nonzero(rewards) == sum(reward != 0 for reward in given)
    assert scored.meta_info["reward_extra_keys"] == ["mpo_score", *METRICS]
    columns = scored.non_tensor_batch
    assert list(columns["mpo_unscored"]) == [0, 0, 0, 1, 0]
    assert list(columns["mpo_fallback"]) == [0, 0, 0, 1, 0]
    others = [reward for row, reward in enumerate(given) if row != 3]
    assert min(others) <= given[3] <= max(others)
    state = node.get("/v1/state")[1]
    assert (state["scored"], state["step"]) == (4, 9), "equal completions are two; no call twice"

    # Evaluation is told by the data set's split, and is no evidence.
    manager.compute_rm_score(batch(["light light"], step=10, split="test"))
    assert node.get("/v1/state")[1]["scored"] == 4

    # A checkpoint holds the rubric of its meta step; a later one is taken back by restore().
    callback = build_checkpoint_callback(config)
    folder = tmp_path / "global_step_10"
    folder.mkdir()
    callback.on_save(trainer=None, global_step=10, checkpoint_dir=str(folder), async_save=False)
    changed = node.get("/v1/state")[1]
    assert changed["rubric_version"] == 1
    later = manager.compute_rm_score(batch(TEXTS, step=11))
    assert set(later.non_tensor_batch["mpo_rubric_version"]) == {1.0}
    node.post("/v1/meta_step", {"step": 20})
    assert node.get("/v1/state")[1]["rubric_version"] == 2
    back = restore(folder, node.url)
    assert (back["rubric_version"], back["rubric_id"]) == (1, changed["rubric_id"])
    with pytest.raises(ConfigError, match="MPOCheckpoint"):
        restore(tmp_path, node.url)


def test_a_sample_as_the_agent_loop_sends_it(node: Node, tokenizer: str) -> None:
    """One trajectory: numpy made arrays of its columns, a message's dictionaries included."""
    from transformers import AutoTokenizer

    sample = batch(["river light"], step=10)
    turns = [{"role": "user", "content": "Write about rivers."}]
    row = {"raw_prompt": turns, "uid": "u9", "session_id": 0, "global_steps": 10}
    row |= {"data_source": "essays", "extra_info": {"split": "train"}}
    data = DataProto(sample.batch, {name: np.array([value]) for name, value in row.items()})
    manager = MPORewardManager(
        config_for(node, tokenizer), AutoTokenizer.from_pretrained(tokenizer)
    )
    before = node.get("/v1/state")[1]["scored"]
    told = manager.loop.run_until_complete(manager.run_single(data))
    assert 0 <= told["reward_score"] <= 1
    assert list(told["reward_extra_info"]) == ["mpo_score", *METRICS]
    assert node.get("/v1/state")[1]["scored"] == before + 1
    again = {"prompt": "Write about rivers.", "completion": "river light", "group_id": "u9"}
    again |= {"id": "u9-0", "step": 9, "columns": {"split": "train", "data_source": "essays"}}
    (same,) = node.score(again)["results"]
    assert same["reward"] == told["reward_score"]
    assert node.get("/v1/state")[1]["scored"] == before + 1, "it was another item"


def test_importing_verl_loads_the_plugin() -> None:
    """A process of its own: veRL logs a plugin that fails at DEBUG only."""
    program = (
        "import sys, verl\n"
        "assert 'mpo.integrations.verl' in sys.modules\n"
        "from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls as get\n"
        "print(get('mpo').__module__)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip().endswith("mpo.integrations.verl"), done.stderr[-2000:]


def test_the_plugins_name_is_a_manager(node: Node, tokenizer: str) -> None:
    config = config_for(node, tokenizer, "reward.reward_manager.name=mpo")
    from verl.trainer.ppo.reward import load_reward_manager

    manager = load_reward_manager(config, None)
    assert isinstance(manager, MPORewardManager)
    assert manager.client.url == node.url
    with pytest.raises(ConfigError, match=r"\+mpo.url"):
        load_reward_manager(migrate_none(config), None)


def migrate_none(config: Any) -> Any:
    """The same config without the service's address."""
    from omegaconf import open_dict

    with open_dict(config):
        del config["mpo"]
    return config


def test_the_trainer_with_meta_steps_is_registered() -> None:
    pytest.importorskip("transfer_queue")
    from verl.trainer.ppo.v1 import get_trainer_cls

    from mpo.integrations.verl_trainer import MPOTrainerSync

    assert get_trainer_cls("mpo_sync") is MPOTrainerSync


def test_the_papers_script_fits_verls_own_schema(tokenizer: str) -> None:
    """Its overrides are taken by veRL's config, and its dataclasses make sense of them."""
    text = EXAMPLE.read_text()
    lines = [line.strip(" \\") for line in text.partition("verl.trainer.main_ppo")[2].splitlines()]
    overrides = [line.replace("$MODEL", tokenizer) for line in lines if "=" in line]
    assert len(overrides) > 30
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", overrides)
    assert config.algorithm.adv_estimator == "gae"
    assert config.reward.reward_manager.module.path == "pkg://mpo.integrations.verl"
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    actor = config.actor_rollout_ref
    for part in (config.critic, config.algorithm, actor.actor, actor.rollout):
        omega_conf_to_dataclass(part)
    # Without LoRA: the last check of all asks vLLM for the greatest rank, and vLLM is not here.
    config.actor_rollout_ref.model.lora_rank = 0
    validate_config(config, use_reference_policy=True, use_critic=True)
