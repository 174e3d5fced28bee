"""A PPO run small enough for a test; the model, the task and the chat are those of `tiny`.

Also a program, for tests that need another process:

    python tests/training/tiny_ppo.py FOLDER MODEL [--kill-at JUDGEMENT] [--break-at META_CALL]
"""

from __future__ import annotations

import argparse
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mpo.chat import Message, Schema
from mpo.errors import BudgetError, ChatTransportError
from mpo.reward import EvolvingReward
from mpo.training.ppo.trainer import train_ppo
from mpo.training.settings import LoraSettings, PPOSettings, TrainerSettings
from training.tiny import ROWS, SAMPLES, Lengths, answer, tiny_reward

SETTINGS = TrainerSettings(
    algorithm="ppo",
    steps=6,
    batch_size=8,
    num_generations=2,
    learning_rate=1e-2,
    beta=0.05,
    save_every=3,
    ppo=PPOSettings(epochs=2),
)
LORA = LoraSettings(r=4, alpha=8)


def ppo(**changes: Any) -> TrainerSettings:
    """`SETTINGS` with changes, to keys of `trainer` or of `trainer.ppo`."""
    own = {name: changes.pop(name) for name in PPOSettings.model_fields if name in changes}
    values = SETTINGS.model_dump() | changes
    return TrainerSettings.model_validate(values | {"ppo": values["ppo"] | own})


def tiny_ppo(folder: Path, model: str, reward: EvolvingReward, **options: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {"settings": SETTINGS, "rows": ROWS, "seed": 0}
    return train_ppo(reward=reward, model=model, folder=folder, **(defaults | options))


def main() -> None:
    import torch

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("model")
    parser.add_argument("--settings", default="{}", help="changes, as JSON")
    parser.add_argument("--kill-at", type=int, default=0, help="rubric judgement to die in")
    parser.add_argument("--break-at", type=int, default=0, help="meta call to fail in")
    parser.add_argument("--lose", type=int, default=0, help="meta step whose calls all fail")
    options = parser.parse_args()
    torch.set_num_threads(1)
    asked = {"judgement": 0, "analysis": 0}

    def reply(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
        assert schema is not None
        title = str(schema["title"])
        asked[title] = asked.get(title, 0) + 1
        if options.kill_at and asked["judgement"] == options.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if title == "analysis" and asked[title] == options.break_at:
            raise BudgetError("the budget of this test is spent")
        if title == "analysis" and (asked[title] - 1) // SAMPLES == options.lose - 1:
            raise ChatTransportError("unreachable: the MRM of this test is down")
        return answer(messages, schema, seed)

    told: list[dict[str, Any]] = []
    summary = tiny_ppo(
        options.folder,
        options.model,
        tiny_reward(options.folder, reply),
        settings=ppo(**json.loads(options.settings)),
        gold_scorer=Lengths(),
        progress=lambda r: told.append({"step": r.step, "reward": r.reward, "kl": r.kl}),
    )
    if os.environ.get("RANK", "0") == "0":
        (options.folder / "summary.json").write_text(json.dumps(summary))
        (options.folder / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
