"""What a user of TRL is shown of a run: metrics, texts in trackers, and lines in the log."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import mpo
from fakes import loop_chat, make_reward
from mpo.chat import ScriptedChat
from mpo.chat.ledger import Budget, Price
from mpo.errors import ConfigError
from mpo.integrations.run_log import ALARM, DIFF, RUBRIC, RunLog
from mpo.integrations.trl import MPOCallback, TRLReward
from mpo.watch import MONITOR
from training.test_trackers import logged
from training.test_trl import Caller, trainer_of
from training.tiny import answer, tiny_reward, tiny_task


def test_a_users_own_program_logs_what_mpo_train_logs(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("tensorboard")
    reward = tiny_reward(tmp_path)
    trainer = trainer_of(
        tmp_path,
        model,
        reward,
        max_steps=5,
        logging_steps=2,
        eval_strategy="steps",
        eval_steps=4,
        per_device_eval_batch_size=8,
        report_to="tensorboard",
    )
    with caplog.at_level(logging.WARNING, logger="mpo"):
        trainer.train()

    changes = [d for d in reward.store.lineage() if d.accepted and d.kind == "evolve"]
    assert changes, "the rubric has changed"
    announced = [m for m in caplog.messages if m.startswith("new rubric after update")]
    assert len(announced) == len(changes)
    assert f"after update {changes[0].step}: {changes[0].proposed}" in announced[0]

    history = trainer.state.log_history
    training = [line for line in history if "mpo/rubric_changes" in line]
    assert [line["step"] for line in training] == [2, 4, 5]
    last = training[-1]
    assert last["mpo/rubric_changes"] == last["mpo/rubric_number"] == len(changes)
    assert last["mpo/rubric_age"] == 5 - changes[-1].step
    assert last["mpo/cost/calls"] == sum(u.calls for u in reward.store.usage().values())
    assert "mpo/cost/usd" not in last
    # Over both updates since the log before, not over the last one alone.
    cases = reward.store.window(after_step=1, up_to_step=3, scored=None)
    rewards = [c.judgement.normalized_reward for c in cases]
    assert training[1]["mpo/reward_normalized"] == pytest.approx(sum(rewards) / 16)
    assert [name for name in training[1] if name.startswith("mpo/criterion/")]
    evaluations = [line for line in history if "eval_mpo/unscored" in line]
    assert [line["step"] for line in evaluations] == [4, 5]
    judged = reward.store.window(after_step=3, up_to_step=4, mode="eval")
    assert evaluations[0]["eval_mpo/reward_normalized"] == pytest.approx(
        sum(c.judgement.normalized_reward for c in judged) / 16
    )

    texts, scalars = logged(tmp_path / "out")
    assert len(texts[RUBRIC]) == 1 + len(changes)
    assert len(texts[DIFF]) == len(changes)
    assert {"train/mpo/unscored", "train/mpo/alarms", "eval/mpo/unscored"} <= scalars


def test_an_alarm_is_counted_and_shown_once(tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)

    def alarm(name: str, new: bool) -> dict[str, Any]:
        return {"monitor": name, "message": "too long\nby far", "new": new}

    for step, alarms in enumerate([[], [alarm("length", True)], [alarm("length", False)]], start=1):
        entry = {"figures": {"scale_jump": 0.25, "unscored": 0.0}, "alarms": alarms, "hint": ""}
        reward.store.log_event(MONITOR, step, 0, entry)
    log = RunLog(reward.store)
    figures = log.metrics(3)
    assert (figures["mpo/alarms"], figures["mpo/alarm/length"]) == (1.0, 1.0)
    assert figures["mpo/monitor/scale_jump"] == 0.25
    assert log.metrics(3)["mpo/alarms"] == 1.0
    assert [text for text in log.texts() if text[0] == ALARM] == [
        (ALARM, "length: too long\nby far", 2)
    ]
    assert log.texts() == []


def test_dollars_are_logged_where_every_model_has_a_price(tmp_path: Path) -> None:
    budget = Budget()
    chat = budget.chat(ScriptedChat(answer), "rm", Price(prompt=1.0, completion=2.0))
    reward = mpo.EvolvingReward(tiny_task(), chat, tmp_path / "mpo.db")
    Caller().call(TRLReward(reward), 0)
    callback = MPOCallback(reward)
    state = SimpleNamespace(
        global_step=1, is_world_process_zero=True, log_history=[{}], stateful_callbacks={}
    )
    logs = {"loss": 0.5}
    callback.on_log(None, state, None, logs=logs)
    spent = budget.ledger["rm"].usd
    assert spent > 0
    assert logs["mpo/cost/usd"] == state.log_history[0]["mpo/cost/usd"] == pytest.approx(spent)


def test_other_ranks_log_nothing(tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)
    state = SimpleNamespace(global_step=1, is_world_process_zero=False, log_history=[{}])
    logs = {"loss": 0.5}
    MPOCallback(reward).on_log(None, state, None, logs=logs)
    assert logs == {"loss": 0.5}


# ---------------------------------------------------------------------- one without the other


@pytest.mark.parametrize("rank", [0, 1])
def test_a_reward_without_its_callback_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rank: int
) -> None:
    adapter, caller = TRLReward(tiny_reward(tmp_path)), Caller()
    caller.accelerator.process_index = rank
    warnings = []
    for step in (0, 1, 2, 3):
        caller.call(adapter, step)
        warnings.append([m for m in caplog.messages if "no MPOCallback" in m])
    assert warnings[:2] == [[], []]
    assert [len(found) for found in warnings[2:]] == ([1, 1] if rank == 0 else [0, 0])


def test_nobody_is_missed_where_the_rubric_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adapter = TRLReward(tiny_reward(tmp_path, every=None))
    for step in (0, 50):
        Caller().call(adapter, step)
    assert not caplog.messages


@pytest.mark.parametrize("scored", [False, True])
def test_a_callback_without_its_reward_warns_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, scored: bool
) -> None:
    reward = tiny_reward(tmp_path)
    callback = MPOCallback(reward)
    if scored:
        Caller().call(TRLReward(reward), 0)
    caplog.clear()
    for step in (1, 2, 3):
        state = SimpleNamespace(global_step=step, max_steps=9, is_world_process_zero=True)
        callback.on_step_end(None, state, None)
    missing = [m for m in caplog.messages if "no completion was scored" in m]
    assert len(missing) == (0 if scored else 1)


def test_settings_that_would_break_it_are_refused_at_once(tmp_path: Path) -> None:
    class OnlineDPOConfig:
        pass

    class Mine(OnlineDPOConfig):
        pass

    callback = MPOCallback(tiny_reward(tmp_path))
    with pytest.raises(ConfigError, match="OnlineDPOConfig counts a completion without a score"):
        callback.on_init_end(Mine(), None, None)
    restoring = SimpleNamespace(restore_callback_states_from_checkpoint=True)
    with pytest.raises(ConfigError, match="restore_callback_states_from_checkpoint=False"):
        callback.on_init_end(restoring, None, None)
    dropping = SimpleNamespace(remove_unused_columns=True)
    callback.on_init_end(dropping, None, None)  # the essay task needs no column
    math = make_reward("math", loop_chat(), tmp_path / "math.db")
    with pytest.raises(ConfigError, match="column 'solution', which TRL drops"):
        MPOCallback(math).on_init_end(dropping, None, None)
    with pytest.raises(ConfigError, match="MPOCallback takes an EvolvingReward, not TRLReward"):
        MPOCallback(TRLReward(math))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="TRLReward takes an EvolvingReward, not str"):
        TRLReward("essay")  # type: ignore[arg-type]


PLAIN = """
import asyncio
from pathlib import Path
from fakes import loop_chat, make_reward
from mpo import Rollout

async def main():
    reward = make_reward("essay", loop_chat(), Path("mpo.db"), every=1, samples=1)
    await reward.score([Rollout(prompt="tea", completion=f"song {i}") for i in range(4)])
    await reward.step(1)

asyncio.run(main())
"""


def test_a_program_without_logging_shows_a_change_in_one_line(tmp_path: Path) -> None:
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", PLAIN],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert len([line for line in lines if line.startswith("new rubric after update 1: ")]) == 1
    assert all(line.startswith(("new rubric", "alarm after")) for line in lines)
    assert done.stdout == ""
