"""A run small enough for a test: a random Llama of 20,000 weights, and a scripted chat whose
answers depend on the texts that it is shown.

Also a program, for tests that need another process:

    python tests/training/tiny.py FOLDER MODEL [--kill-at STEP] [--break-at STEP]
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fakes import make_reward
from mpo.chat import Message, Schema, ScriptedChat
from mpo.chat.cache import normalize_fence_ids
from mpo.errors import BudgetError, ChatTransportError
from mpo.reward import EvolvingReward
from mpo.store import Store
from mpo.task import Task, load_task
from mpo.training.settings import TrainerSettings
from mpo.training.trl_trainer import train_trl

WORDS = "tea rain stone river light paper bread song glass wool the a of and is was in".split()
SETTINGS = TrainerSettings(
    steps=6, batch_size=8, num_generations=4, learning_rate=1e-2, save_every=3, beta=0.04
)
SAMPLES = 3
"""Rollouts per meta step, each with one analysis."""
ROWS = [{"prompt": f"{a} and {b}", "topic": a} for a in WORDS[:6] for b in WORDS[6:9]]


def make_model(folder: Path) -> str:
    """A checkpoint folder; the same weights every time."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocab = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
    )
    config = LlamaConfig(
        vocab_size=len(vocab),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_task() -> Task:
    """The essay task with answers of at most 12 tokens."""
    task = load_task("essay")
    response = task.spec.response.model_copy(update={"max_tokens": 12})
    return dataclasses.replace(task, spec=task.spec.model_copy(update={"response": response}))


def answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    """An answer of the asked shape, decided by the conversation's text and nothing else."""
    assert schema is not None
    # The fences carry the store's random secret, which differs between the runs to be compared.
    text = json.dumps(normalize_fence_ids(messages))
    number = int(hashlib.sha256(text.encode()).hexdigest(), 16)
    if schema["title"] == "judgement":
        scores = {
            key: value["properties"]["score"]["enum"] for key, value in schema["properties"].items()
        }
        return json.dumps(
            {k: {"rationale": "why", "score": v[number % len(v)]} for k, v in scores.items()}
        )
    if schema["title"] == "analysis":
        return json.dumps({"findings": f"f{number % 7}", "verdict": "fair", "advice": "more"})
    criterion = {
        "name": f"Quality {number % 9973}",
        "text": "how good it is",
        "weight": 1,
        "lowest": 0,
        "highest": 5,
        "levels": [{"score": 0, "text": "bad"}, {"score": 5, "text": "good"}],
    }
    return json.dumps({"reasons": "because", "criteria": [criterion]})


Answer = Callable[[Sequence[Message], Schema | None, int | None], Any]


def tiny_reward(folder: Path, reply: Answer = answer, **options: Any) -> EvolvingReward:
    """A reward with a meta step after every second update."""
    folder.mkdir(parents=True, exist_ok=True)
    defaults: dict[str, Any] = {
        "every": 2,
        "samples": SAMPLES,
        "context_cases": 1,
        "baseline_cases": 1,
    }
    return make_reward(tiny_task(), ScriptedChat(reply), folder / "mpo.db", **(defaults | options))


class Lengths:
    """A gold scorer: gold falls with each word; it has no opinion of some texts."""

    def score(self, rollouts: Sequence[Any]) -> list[tuple[str, float | None, dict[str, float]]]:
        return [
            (r.id, None if r.completion.startswith("the") else 1 / (1 + n), {"words": float(n)})
            for r in rollouts
            for n in [len(r.completion.split())]
        ]


def tiny_train(folder: Path, model: str, reward: EvolvingReward, **options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"settings": SETTINGS, "rows": ROWS, "seed": 0}
    return train_trl(reward=reward, model=model, folder=folder, **(defaults | options))


def history(store: Store) -> list[tuple[Any, ...]]:
    """What happened, step by step: each rollout with its rubric and reward, and each decision."""
    cases = [
        (
            c.rollout.step,
            c.rollout.id,
            c.rollout.completion,
            c.judgement.rubric_id,
            c.judgement.reward,
            c.judgement.unscored,
        )
        for c in store.window(cohort=None, scored=None)
    ]
    decisions = [
        (d.step, d.kind, d.parent, d.proposed, d.accepted, d.refinement and d.refinement.evidence)
        for d in store.lineage()
    ]
    audits = [(id, audit.value) for id, audit in sorted(store.external_scores().items())]
    return [*cases, *decisions, *audits]


def main() -> None:
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--kill-at", type=int, default=0, help="judgement to die in")
    parser.add_argument("--break-at", type=int, default=0, help="meta call to fail in")
    parser.add_argument("--lose", type=int, default=0, help="meta step whose calls all fail")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = {"judgement": 0, "analysis": 0}

    def reply(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        assert schema is not None
        title = str(schema["title"])
        asked[title] = asked.get(title, 0) + 1
        if title == "judgement" and asked[title] == options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if title == "analysis" and asked[title] == options.break_at:
            raise BudgetError("the budget of this test is spent")
        if title == "analysis" and (asked[title] - 1) // SAMPLES == options.lose - 1:
            raise ChatTransportError("unreachable: the MRM of this test is down")
        return answer(messages, schema, seed)

    reward = tiny_reward(options.folder, reply)
    summary = tiny_train(options.folder, options.model, reward, gold_scorer=Lengths())
    if os.environ.get("RANK", "0") == "0":
        (options.folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    main()
