"""The peer of `train.py`: TRL 0.17.0's PPOTrainer, in a Python of its own.

    .venv-peer/bin/python -P train_peer.py FOLDER UPDATES

FOLDER holds what `train_ppo.make_inputs` wrote. The script prints one line of JSON: wall and CPU
seconds of each update. It imports nothing of this package, which that Python does not have.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


def main() -> None:
    folder, updates = Path(sys.argv[1]), int(sys.argv[2])
    torch: Any = importlib.import_module("torch")
    torch.set_num_threads(1)
    c = json.loads((folder / "conditions.json").read_text())
    trainer, clock = make_trainer(c, json.loads((folder / "prompts.json").read_text()), updates)
    out, sys.stdout = sys.stdout, sys.stderr  # it prints as it goes
    trainer.train()
    sys.stdout = out
    marks = clock.marks
    steps = [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]
    packages = ("trl", "transformers", "peft", "torch")
    versions = {name: str(importlib.import_module(name).__version__) for name in packages}
    trained = sum(p.numel() for p in trainer.model.parameters() if p.requires_grad)
    print(
        json.dumps(
            {
                "wall": [wall for wall, _ in steps],
                "cpu": [cpu for _, cpu in steps],
                "trained_weights": trained,
                "versions": versions,
            }
        )
    )


def make_trainer(c: dict[str, Any], prompts: list[list[int]], updates: int) -> tuple[Any, Any]:
    torch: Any = importlib.import_module("torch")
    transformers: Any = importlib.import_module("transformers")
    trl: Any = importlib.import_module("trl")
    peft: Any = importlib.import_module("peft")
    datasets: Any = importlib.import_module("datasets")

    torch.manual_seed(0)
    config = transformers.Qwen2Config(**c["model"])
    policy = transformers.Qwen2ForCausalLM(config)
    critic = transformers.Qwen2ForSequenceClassification(
        transformers.Qwen2Config(**c["model"], num_labels=1)
    )

    class Backbone(torch.nn.Module):  # type: ignore[misc]
        def forward(self, input_ids: Any, **_: Any) -> Any:
            states = torch.zeros(*input_ids.shape, 1)
            return transformers.modeling_outputs.BaseModelOutput(hidden_states=(states,))

    class Constant(torch.nn.Module):  # type: ignore[misc]
        base_model_prefix = "backbone"

        def __init__(self) -> None:
            super().__init__()
            self.backbone = Backbone()

        def score(self, states: Any) -> Any:
            return states

    class Clock(transformers.TrainerCallback):  # type: ignore[misc]
        def __init__(self) -> None:
            self.marks: list[tuple[float, float]] = []

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.marks.append((time.perf_counter(), time.process_time()))

    clock = Clock()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=c["tokenizer"], pad_token=c["pad"], eos_token=c["eos"], padding_side="left"
    )
    rows = datasets.Dataset.from_list([{"input_ids": ids} for ids in prompts])
    arguments = trl.PPOConfig(
        output_dir=c["scratch"],
        use_cpu=True,
        learning_rate=c["learning_rate"],
        per_device_train_batch_size=c["batch"],
        gradient_accumulation_steps=1,
        num_mini_batches=1,
        local_rollout_forward_batch_size=c["batch"],
        num_ppo_epochs=c["epochs"],
        total_episodes=c["batch"] * updates,
        response_length=c["response"],
        temperature=c["temperature"],
        missing_eos_penalty=1.0,
        kl_coef=c["kl_coef"],
        num_sample_generations=0,
        report_to="none",
        save_strategy="no",
        seed=0,
    )
    trainer = trl.PPOTrainer(
        args=arguments,
        processing_class=tokenizer,
        model=policy,
        ref_model=None,
        reward_model=Constant(),
        value_model=critic,
        train_dataset=rows,
        eval_dataset=rows.select(range(c["batch"])),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        peft_config=peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=c["lora_r"],
            lora_alpha=c["lora_alpha"],
            lora_dropout=0.0,
            target_modules=c["lora_targets"],
        ),
        callbacks=[clock],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.remove_callback(transformers.ProgressCallback)
    return trainer, clock


if __name__ == "__main__":
    main()
