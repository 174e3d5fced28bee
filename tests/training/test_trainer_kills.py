"""Law 5 with real trainers: GRPO of TRL and our PPO, killed and continued by another process.

A driver without torch is killed at many more points in `tests/test_kill_points.py`.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from killing import Driver
from mpo.store import Store
from training.tiny import history

pytestmark = pytest.mark.slow

POINTS = [
    ("judgement", 21),  # within a batch, before the first checkpoint
    ("judgement", 37),  # after it, where a meta step is under way
    ("analysis", 2),  # in the first meta step
    ("merge", 2),  # in the last call of the second one
    ("SQL INSERT INTO decisions", 2),  # inside the transaction that decides the second one
    ("write trainer_state.json", 2),  # in the last checkpoint, whose other files are there
]
"""Event, and the how-many-eth of these events."""
BEFORE_A_CHECKPOINT = (POINTS[0], POINTS[2])


@pytest.fixture(scope="module")
def driver() -> Iterator[Driver]:
    driver = Driver(Path(__file__).parent / "kill_trainer.py")
    yield driver
    driver.close()


def outcome(folder: Path) -> dict[str, Any]:
    """What was scored, decided and learned, to the bit."""
    store = Store(folder / "mpo.db", create=False)
    last = folder / "checkpoints" / "checkpoint-6"
    return {
        "history": history(store),
        "decisions": store.lineage(),
        "weights": {file.name: file.read_bytes() for file in sorted(last.glob("*.safetensors"))},
        "rubrics": {file.name: file.read_text() for file in (folder / "rubrics").iterdir()},
    }


@pytest.fixture(scope="module", params=["grpo", "ppo"])
def whole(
    request: pytest.FixtureRequest,
    driver: Driver,
    model: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[str, dict[str, Any]]:
    """A trainer, and what its run comes to if nothing stops it."""
    folder = tmp_path_factory.mktemp(request.param)
    assert driver.run(trainer=request.param, folder=str(folder), model=model) == 0
    made = outcome(folder)
    assert len({d.proposed for d in made["decisions"] if d.accepted}) == 3
    return request.param, made


@pytest.mark.parametrize(("event", "n"), POINTS)
def test_a_killed_trainer_ends_as_one_that_was_not(
    driver: Driver,
    whole: tuple[str, dict[str, Any]],
    model: str,
    tmp_path: Path,
    event: str,
    n: int,
) -> None:
    trainer, expected = whole
    job = {"trainer": trainer, "folder": str(tmp_path), "model": model}
    assert driver.run(**job, kill=[event, n]) == -signal.SIGKILL
    assert driver.run(**job) == 0
    found = outcome(tmp_path)
    for name, value in expected.items():
        assert found[name] == value, name
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["resumed_from"] == (None if (event, n) in BEFORE_A_CHECKPOINT else 3)
