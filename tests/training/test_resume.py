"""Law 5: a run that was stopped and continued is the run that was not stopped, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mpo.errors import ConfigError, StoreError
from mpo.store import Store
from mpo.training.reporting import StepReport
from training.tiny import SETTINGS, Lengths, history, tiny_reward, tiny_train


class Stop(Exception):
    """What stops the run from outside."""


def stop_after(step: int):
    def progress(report: StepReport) -> None:
        if report.step == step:
            raise Stop

    return progress


def same_weights(a: Path, b: Path) -> bool:
    """Whether both runs ended with the same policy, to the bit."""
    names = [folder / "checkpoints" / "checkpoint-6" / "model.safetensors" for folder in (a, b)]
    return names[0].read_bytes() == names[1].read_bytes()


def test_a_stopped_run_continues_bit_for_bit(whole: Path, model: str, tmp_path: Path) -> None:
    # After step 5: steps 3 to 5 are sampled, judged and decided a second time.
    reward = tiny_reward(tmp_path)
    with pytest.raises(Stop):
        tiny_train(tmp_path, model, reward, gold_scorer=Lengths(), progress=stop_after(5))
    judged = reward.store.usage()["rm"].calls
    reward.store.close()

    again = tiny_reward(tmp_path)
    summary = tiny_train(tmp_path, model, again, gold_scorer=Lengths())

    assert summary["resumed_from"] == 3
    assert history(again.store) == history(Store(whole / "mpo.db"))
    assert same_weights(tmp_path, whole)
    assert len({d.proposed for d in again.store.lineage()}) == 4  # rubrics did change
    # What was judged before the stop is not asked again; the meta step after update 4 is.
    asked = [call.schema["title"] for call in again.chat.calls]
    assert judged + asked.count("judgement") == Store(whole / "mpo.db").usage()["rm"].calls
    assert asked.count("analysis") == 2 * 3


def test_a_run_stopped_before_its_first_checkpoint_begins_again(
    whole: Path, model: str, tmp_path: Path
) -> None:
    reward = tiny_reward(tmp_path)
    with pytest.raises(Stop):
        tiny_train(tmp_path, model, reward, gold_scorer=Lengths(), progress=stop_after(2))
    assert len(reward.store.lineage()) == 2  # a rubric was accepted already

    summary = tiny_train(tmp_path, model, reward, gold_scorer=Lengths())

    assert summary["resumed_from"] is None
    assert reward.store.snapshot(6)["branch"] == 2  # set aside, not deleted
    assert history(reward.store) == history(Store(whole / "mpo.db"))


def test_a_killed_process_loses_nothing(whole: Path, model: str, tmp_path: Path) -> None:
    # In the middle of the judgements of the fifth batch, one update after the checkpoint.
    command = [sys.executable, str(Path(__file__).parent / "tiny.py"), str(tmp_path), model]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [*command, "--kill-at", "37"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    reward = tiny_reward(tmp_path)
    before = reward.store.usage()["rm"].calls
    summary = tiny_train(tmp_path, model, reward, gold_scorer=Lengths())

    assert summary["resumed_from"] == 3
    assert history(reward.store) == history(Store(whole / "mpo.db"))
    assert 24 < before < 37  # what was in flight when it died was not committed
    whole_usage = Store(whole / "mpo.db").usage()
    assert reward.store.usage()["rm"] == whole_usage["rm"]  # and none was asked twice


def test_a_finished_run_is_not_repeated(whole: Path, model: str, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    reward = tiny_reward(tmp_path)
    summary = tiny_train(tmp_path, "no such model", reward, gold_scorer=Lengths())
    assert (summary["resumed_from"], summary["rubrics"]) == (6, 4)
    assert reward.chat.calls == []


def test_fewer_steps_than_were_done_are_refused(whole: Path, model: str) -> None:
    settings = SETTINGS.model_copy(update={"steps": 4})
    with pytest.raises(ConfigError, match=r"beyond steps=4"):
        tiny_train(whole, model, tiny_reward(whole), settings=settings)


def test_a_checkpoint_of_another_run_is_refused(whole: Path, model: str, tmp_path: Path) -> None:
    shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")
    settings = SETTINGS.model_copy(update={"steps": 8})
    with pytest.raises(StoreError, match="belongs to another run"):
        tiny_train(tmp_path, model, tiny_reward(tmp_path), settings=settings)


def test_an_incomplete_checkpoint_is_skipped(whole: Path, model: str, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    torn = tmp_path / "checkpoints" / "checkpoint-6" / "trainer_state.json"
    torn.write_text(torn.read_text()[:100])
    reward = tiny_reward(tmp_path)
    summary = tiny_train(tmp_path, model, reward, gold_scorer=Lengths())
    assert summary["resumed_from"] == 3
    assert json.loads(torn.read_text())["global_step"] == 6
    assert history(reward.store) == history(Store(whole / "mpo.db"))
