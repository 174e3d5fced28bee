"""A run that had come to its end, and is given more updates and other checkpoints, is the run that
was asked for all of them at the start."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpo.store import Store
from mpo.training.settings import TrainerSettings
from training.tiny import SETTINGS, history, tiny_reward, tiny_train
from training.tiny_ppo import ppo, tiny_ppo

pytest.importorskip("trl")

Train = Callable[..., dict[str, Any]]


@pytest.mark.parametrize(
    ("train", "settings"),
    [
        (tiny_train, SETTINGS.model_copy(update={"lr_schedule": "constant"})),
        (tiny_ppo, ppo(lr_schedule="constant")),
    ],
    ids=["grpo", "ppo"],
)
def test_more_updates_after_the_end(
    tmp_path: Path, model: str, train: Train, settings: TrainerSettings
) -> None:
    def go(name: str, **changes: Any) -> list[tuple[Any, ...]]:
        reward = tiny_reward(tmp_path / name, every=2, delay=1)
        now = settings.model_copy(update=changes)
        train(tmp_path / name, model, reward, settings=now)
        reward.store.close()
        with Store(tmp_path / name / "mpo.db", create=False) as store:
            return history(store)

    short = go("a", steps=2, save_every=0)
    assert [step for step, kind, *_ in decisions(short)] == [0], "the one at 2 is not started"
    longer = go("a", steps=5, save_every=1)
    assert longer == go("b", steps=5, save_every=0)
    assert [step for step, kind, *_ in decisions(longer)] == [0, 3, 5]
    kept = {path.name for path in (tmp_path / "a" / "checkpoints").glob("checkpoint-*")}
    assert {f"checkpoint-{step}" for step in (2, 3, 4, 5)} <= kept
    weights = "checkpoints/checkpoint-5/model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()


def decisions(lines: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return [line for line in lines if line[1] in ("seed", "evolve", "given_up")]
