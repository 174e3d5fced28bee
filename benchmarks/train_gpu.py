"""`make gpu`: PPO and GRPO in bfloat16 on a random model of 1.5 billion weights, one row each.

    result = table("1.5b", steps=4)       # needs a GPU
    result = table("tiny", steps=2)       # the same code on a CPU, to see that it runs

Says whether this package works on a GPU, how fast, and in how much memory. The weights are random
and the reward is constant: nothing is said about learning. Each row is a process of its own, so
that none inherits the memory of another; one that runs out of memory says so, and the next begins.
No checkpoint is written.

Also a program, for one row: python benchmarks/train_gpu.py FOLDER SIZE ROW STEPS
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from mpo.chat import ScriptedChat
from mpo.errors import ConfigError, MissingExtraError
from mpo.evolve.options import Evolve
from mpo.reward import EvolvingReward
from mpo.training.model import quiet
from mpo.training.reporting import StepReport
from mpo.training.settings import LoraSettings, TrainerSettings
from mpo.training.start import train
from train_ppo import bench_task, run_child, same_score

__all__ = ["ROWS", "SIZES", "make_model", "table"]

SIZES: Mapping[str, Mapping[str, Any]] = {
    # Qwen2.5-1.5B's shape as a Llama, whose tokenizer class takes any vocabulary.
    "1.5b": {
        "model": {
            "vocab_size": 151_936,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        "batch": 64,
        "micro": 8,
        "prompt": 256,
        "response": 256,
    },
    "tiny": {
        "model": {
            "vocab_size": 512,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "tie_word_embeddings": True,
        },
        "batch": 8,
        "micro": 4,
        "prompt": 16,
        "response": 8,
    },
}
"""Model, completions per step and per backward pass, tokens of a prompt and of a response."""

_LORA = LoraSettings(r=64, alpha=128)
ROWS: Mapping[str, Mapping[str, Any]] = {
    "PPO, shared critic, LoRA": {"algorithm": "ppo", "lora": _LORA},
    "PPO, shared critic, full": {"algorithm": "ppo"},
    "PPO, separate critic, full": {"algorithm": "ppo", "extra": {"critic": "separate"}},
    "GRPO, full": {"algorithm": "grpo"},
}
"""The rows, as settings of the trainer."""


class _Enough(Exception):
    """The last step is done."""


def table(
    size: str = "1.5b", *, steps: int = 4, say: Callable[[str], None] = lambda message: None
) -> dict[str, Any]:
    """Run every row, one after the other.

    Args:
        size: One of `SIZES`.
        steps: Updates per row; the first is not timed.
        say: Called with a line before each row.

    Returns:
        `device`, `torch`, `size`, `weights`, and `rows`: per row `step_s` and `sequences_per_s`
        (medians), `peak_gb` of GPU memory (None on a CPU), `kl` of the last step; or `error`.

    Raises:
        ConfigError: An unknown size, or no GPU for a size that needs one.
        MissingExtraError: Without the extra `train`.
    """
    if size not in SIZES:
        raise ConfigError(f"unknown size {size!r}: one of {', '.join(SIZES)}")
    if find_spec("torch") is None:
        raise MissingExtraError("torch", "train")
    import torch

    if size != "tiny" and not torch.cuda.is_available():
        raise ConfigError(
            f"no GPU that torch {torch.__version__} can use, and a model of {size} weights needs "
            "one: run this where there is one, or try the same code on a CPU with --size tiny"
        )
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        say(f"making a random model ({size})")
        weights = make_model(Path(scratch) / "model", size)
        for name in ROWS:
            say(name)
            try:
                rows[name] = run_child(__file__, scratch, size, name, str(steps))
            except ConfigError as error:
                rows[name] = {"error": str(error)}
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    return {
        "device": device,
        "torch": torch.__version__,
        "size": size,
        "weights": weights,
        "rows": rows,
    }


def make_model(folder: Path, size: str) -> int:
    """Write a random model in bfloat16 and its tokenizer; how many weights it has."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    shape = SIZES[size]["model"]
    vocab = {f"w{i}": i for i in range(shape["vocab_size"])}
    inner = Tokenizer(models.WordLevel(vocab, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    # The end token comes after the model's vocabulary: no response ends early.
    inner.add_special_tokens(["<eos>"])
    make: Any = PreTrainedTokenizerFast
    make(
        tokenizer_object=inner,
        pad_token="w0",
        eos_token="<eos>",
        unk_token="w0",
        padding_side="left",
    ).save_pretrained(folder)
    config = LlamaConfig(
        **shape,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        model: Any = LlamaForCausalLM(config)
    finally:
        torch.set_default_dtype(before)
    with quiet():
        model.save_pretrained(folder)
    return int(model.num_parameters())


# ---------------------------------------------------------------------- one row


def run_row(folder: Path, size: str, name: str, steps: int) -> dict[str, Any]:
    """In this process: what `table` says of one row."""
    import torch

    shape = SIZES[size]
    settings = TrainerSettings(
        steps=steps,
        batch_size=shape["batch"],
        num_generations=8,
        micro_batch_size=shape["micro"],
        dtype="bfloat16",
        gradient_checkpointing=True,
        save_every=0,
        **ROWS[name],
    )
    prompt = " ".join(f"w{1 + i % 499}" for i in range(shape["prompt"] - 1))
    marks: list[float] = []
    reports: list[StepReport] = []

    def mark(report: StepReport) -> None:
        marks.append(time.perf_counter())
        reports.append(report)
        if report.step == steps:
            raise _Enough  # before the checkpoint: 30 GB that nobody wants

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        try:
            train(
                settings=settings,
                reward=EvolvingReward(
                    bench_task(shape["response"]),
                    ScriptedChat(same_score),
                    Path(scratch) / "mpo.db",
                    evolve=Evolve(every=None),
                ),
                model=str(folder / "model"),
                rows=[{"prompt": f"w{i} {prompt}"} for i in range(1, 65)],
                folder=Path(scratch),
                seed=0,
                progress=mark,
            )
        except _Enough:
            pass
        except torch.OutOfMemoryError as error:
            return {"error": f"out of memory: {str(error).partition('.')[0]}"}
    kl = reports[-1].kl
    if any(report.unscored for report in reports) or kl is None or not math.isfinite(kl):
        return {"error": f"the last step has kl={kl}: training went wrong"}
    step_s = median(b - a for a, b in pairwise(marks))
    peak = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None
    return {
        "step_s": round(step_s, 3),
        "sequences_per_s": round(shape["batch"] / step_s, 3),
        "peak_gb": peak and round(peak, 1),
        "kl": kl,
    }


def main() -> None:
    folder, size, name, steps = sys.argv[1:]
    sys.stdout.write(json.dumps(run_row(Path(folder), size, name, int(steps))) + "\n")


if __name__ == "__main__":
    main()
