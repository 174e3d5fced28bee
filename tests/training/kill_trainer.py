"""Runs of real trainers on the tiny model, that kill themselves where they are told to (see
`killing`).

A job is `{"trainer": "grpo" or "ppo", "folder": …, "model": …, "kill": [event, n]}`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
import trl  # noqa: F401  (imported once, for all children)
from transformers import AutoModelForCausalLM  # noqa: F401  (the same)

from killing import Job, Killer, serve
from mpo.chat import Message, Schema
from training.tiny import Lengths, answer, tiny_reward, tiny_train
from training.tiny_ppo import tiny_ppo

TRAINERS = {"grpo": tiny_train, "ppo": tiny_ppo}


def work(job: Job) -> None:
    torch.set_num_threads(1)
    killer, folder = Killer(*job.get("kill", ())), Path(job["folder"])

    def reply(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        assert schema is not None
        merging = any("<PROPOSAL" in message["content"] for message in messages)
        killer.at("merge" if merging else str(schema["title"]))
        return answer(messages, schema, seed)

    # In the background: after updates 2, 4 and 6, decided one update later.
    reward = tiny_reward(folder, reply, delay=1)
    summary = TRAINERS[job["trainer"]](folder, job["model"], reward, gold_scorer=Lengths())
    (folder / "summary.json").write_text(json.dumps(summary))


if __name__ == "__main__":
    serve(work)
