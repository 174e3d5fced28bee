"""Speed of our PPO beside TRL 0.17.0's PPOTrainer on the same prompts.

    result = compare(folder, peer=Path(".venv-peer/bin/python"))

Conditions as in the published code's measurement: a random Qwen2 of 1.26M weights, LoRA r=64 on
all linear layers and the output head, batch 16, responses of 64 tokens that never end early,
prompts of 162 tokens on average, 4 PPO epochs, float32, one thread, a reward that costs nothing.
Each run is a process of its own; in every round they follow one another, so that a ratio compares
neighbours in time. CPU seconds are given beside wall seconds: on a busy machine they say more.

Also a program, for one run: python benchmarks/train_ppo.py FOLDER CRITIC UPDATES
"""

from __future__ import annotations

import dataclasses
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mpo.chat import Message, Schema, ScriptedChat
from mpo.errors import ConfigError
from mpo.evolve.options import Evolve
from mpo.reward import EvolvingReward
from mpo.task import Task, load_task
from mpo.training.model import quiet
from mpo.training.ppo.trainer import train_ppo
from mpo.training.reporting import StepReport
from mpo.training.settings import LoraSettings, PPOSettings, TrainerSettings

__all__ = [
    "CONDITIONS",
    "bench_task",
    "compare",
    "make_inputs",
    "ratios",
    "run_child",
    "run_ours",
    "run_peer",
    "same_score",
]

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
CONDITIONS: Mapping[str, Any] = {
    "model": {
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": 0,
    },
    "pad": "<pad>",
    "eos": "<eos>",
    "batch": 16,
    "response": 64,
    "prompt": 162,
    "prompt_spread": 24,
    "epochs": 4,
    "lora_r": 64,
    "lora_alpha": 128,
    "lora_targets": LINEAR,
    "learning_rate": 3e-6,
    "temperature": 0.7,
    "kl_coef": 0.02,
}
"""`prompt`: mean tokens; they are spread evenly, `prompt_spread` to either side."""


def make_inputs(folder: Path, *, spread: int | None = None) -> None:
    """Write model, tokenizer, prompts and conditions for both sides.

    Args:
        folder: Made if missing.
        spread: Instead of `prompt_spread`.
    """
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    folder.mkdir(parents=True, exist_ok=True)
    conditions = {**CONDITIONS, "tokenizer": str(folder / "model" / "tokenizer.json")}
    conditions |= {"scratch": str(folder / "peer")}
    if spread is not None:
        conditions["prompt_spread"] = spread
    torch.manual_seed(0)
    model: Any = Qwen2ForCausalLM(Qwen2Config(**conditions["model"]))
    with quiet():
        model.save_pretrained(folder / "model")
    tokenizer = _tokenizer(conditions)
    tokenizer.save_pretrained(folder / "model")
    texts = _prompts(tokenizer, conditions)
    ids = [tokenizer(text)["input_ids"] for text in texts]
    (folder / "texts.json").write_text(json.dumps(texts))
    (folder / "prompts.json").write_text(json.dumps(ids))
    (folder / "conditions.json").write_text(json.dumps(conditions))


def _words() -> list[str]:
    rng = random.Random("mpo:bench:words")
    return ["".join(rng.choices("aeioubcdfglmnprst", k=rng.randint(2, 7))) for _ in range(4000)]


def _tokenizer(conditions: Mapping[str, Any]) -> Any:
    """Byte-level BPE, as the model's type wants it, over made-up words."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=int(conditions["model"]["vocab_size"]),
        special_tokens=[conditions["pad"]],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_words(), trainer)
    # The end token comes after the model's vocabulary: no response ends early, on either side.
    inner.add_special_tokens([conditions["eos"]])
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=inner,
        pad_token=conditions["pad"],
        eos_token=conditions["eos"],
        padding_side="left",
    )


def _prompts(tokenizer: Any, conditions: Mapping[str, Any], n: int = 512) -> list[str]:
    rng = random.Random("mpo:bench:prompts")
    words, texts = _words(), []
    for _ in range(n):
        spread = int(conditions["prompt_spread"])
        wanted = int(conditions["prompt"]) + rng.randint(-spread, spread)
        text = " ".join(rng.choices(words, k=wanted))
        ids = tokenizer(text)["input_ids"][:wanted]
        texts.append(tokenizer.decode(ids))
    return texts


# ---------------------------------------------------------------------- one run


def run_ours(folder: Path, critic: str, updates: int) -> dict[str, list[float]]:
    """In this process: wall and CPU seconds of each step after the first, tokens per response."""
    import torch

    torch.set_num_threads(1)
    c = json.loads((folder / "conditions.json").read_text())
    task = bench_task(c["response"])
    settings = TrainerSettings(
        algorithm="ppo",
        steps=updates,
        batch_size=c["batch"],
        num_generations=1,
        learning_rate=c["learning_rate"],
        temperature=c["temperature"],
        beta=c["kl_coef"],
        ppo=PPOSettings(epochs=c["epochs"], critic="shared" if critic == "shared" else "separate"),
        lora=LoraSettings(
            r=c["lora_r"], alpha=c["lora_alpha"], target_modules=list(c["lora_targets"])
        ),
        dtype="float32",
        save_every=0,
    )
    marks: list[tuple[float, float]] = []

    def mark(report: StepReport) -> None:
        marks.append((time.perf_counter(), time.process_time()))

    with tempfile.TemporaryDirectory() as scratch:
        summary = train_ppo(
            reward=EvolvingReward(
                task,
                ScriptedChat(same_score),
                Path(scratch) / "mpo.db",
                evolve=Evolve(every=None),
            ),
            settings=settings,
            model=str(folder / "model"),
            rows=[{"prompt": text} for text in json.loads((folder / "texts.json").read_text())],
            folder=Path(scratch),
            seed=0,
            progress=mark,
        )
        state = json.loads((Path(summary["checkpoint"]) / "trainer_state.json").read_text())
    pairs = list(pairwise(marks))
    return {
        "wall": [b[0] - a[0] for a, b in pairs],
        "cpu": [b[1] - a[1] for a, b in pairs],
        "length": [line["completions/length"] for line in state["log_history"]],
    }


def bench_task(max_tokens: int) -> Task:
    """The essay task, with responses of at most that many tokens and no rule about their words."""
    task = load_task("essay")
    response = task.spec.response.model_copy(update={"max_tokens": max_tokens, "min_words": 0})
    return dataclasses.replace(task, spec=task.spec.model_copy(update={"response": response}))


def same_score(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    """The script of a model that gives every criterion a 3."""
    properties = (schema or {}).get("properties", {})
    return json.dumps({name: {"rationale": "", "score": 3} for name in properties})


def run_peer(python: Path, folder: Path, updates: int) -> dict[str, Any]:
    """The same for TRL 0.17.0, in its own Python.

    Raises:
        ConfigError: It is not there, or failed.
    """
    if not python.exists():
        raise ConfigError(f"no peer at {python}: make bench-peer builds it")
    script = Path(__file__).with_name("train_peer.py")
    return _process([str(python), "-P", str(script), str(folder), str(updates)])


def run_child(script: str, *arguments: str) -> dict[str, Any]:
    """Run a script of this folder as a program; its last line of output, which is JSON.

    Raises:
        ConfigError: It failed; the message has the end of its error output.
    """
    return _process([sys.executable, script, *arguments])


def _process(command: list[str]) -> dict[str, Any]:
    environment = dict(os.environ, OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    process = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if process.returncode:
        raise ConfigError(f"{' '.join(command)} failed: {process.stderr.strip()[-800:]}")
    result: dict[str, Any] = json.loads(process.stdout.strip().splitlines()[-1])
    return result


# ---------------------------------------------------------------------- the comparison


def compare(
    folder: Path,
    *,
    peer: Path | None,
    updates: int = 5,
    rounds: int = 3,
    spread: int | None = None,
    say: Callable[[str], None] = lambda message: None,
) -> dict[str, Any]:
    """Sequences per second of both critics and the peer, and ratios within each round.

    Args:
        folder: Folder for model and prompts; made if missing.
        peer: Python with TRL 0.17.0; None to leave it out.
        updates: Timed per run, after one that is not.
        rounds: Rounds of all runs, one after the other.
        spread: Spread of prompt lengths; the condition's own if None.
        say: Called with a line before each run.

    Raises:
        ConfigError: A run failed.
    """
    make_inputs(folder, spread=spread)
    rows: list[dict[str, Any]] = []
    for number in range(rounds):
        row: dict[str, Any] = {"load": os.getloadavg()[0]}
        for name in ("shared", "separate"):
            say(f"round {number + 1} of {rounds}: PPO, {name} critic")
            row[name] = _rates(run_child(__file__, str(folder), name, str(updates + 1)))
        if peer is not None:
            say(f"round {number + 1} of {rounds}: PPO, TRL 0.17.0")
            row["peer"] = _rates(run_peer(peer, folder, updates + 1))
        rows.append(row)
    return ratios(rows)


def _rates(run: Mapping[str, Any]) -> dict[str, float]:
    batch = float(CONDITIONS["batch"])
    return {kind: batch / median(run[kind]) for kind in ("wall", "cpu")}


def ratios(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Medians over rounds, and ratios to the peer of the same round."""
    found: dict[str, Any] = {"rounds": list(rows)}
    for name in ("shared", "separate", "peer"):
        if name in rows[0]:
            found[name] = {
                kind: round(median(row[name][kind] for row in rows), 3) for kind in ("wall", "cpu")
            }
    if "peer" in rows[0]:
        for name in ("shared", "separate"):
            for kind in ("wall", "cpu"):
                each = sorted(row[name][kind] / row["peer"][kind] for row in rows)
                found.setdefault("ratio", {}).setdefault(name, {})[kind] = {
                    "median": round(median(each), 3),
                    "min": round(each[0], 3),
                }
    return found


def main() -> None:
    folder, critic, updates = sys.argv[1:]
    sys.stdout.write(json.dumps(run_ours(Path(folder), critic, int(updates))) + "\n")


if __name__ == "__main__":
    main()
