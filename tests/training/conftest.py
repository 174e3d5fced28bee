"""Fixtures of the training tests: one tiny model, and one whole run, for all of them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from training.tiny import Lengths, make_model, tiny_reward, tiny_train  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    # Bit-identical only with equal sums in equal order; and two threads collapse on a busy machine.
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def whole(model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of six steps that nothing stopped. Not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    tiny_train(folder, model, tiny_reward(folder), gold_scorer=Lengths())
    return folder
