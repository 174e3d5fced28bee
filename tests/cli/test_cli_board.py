"""What a person sees while a run works: on a terminal, in a pipe, and of what it cost."""

from __future__ import annotations

import json
import os
import pty
import re
import shlex
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Mpo, environment
from mpo.cli.board import RunView, Spending, open_board, short
from mpo.cli.train import PendingStepsWatch

STEP = {
    "kind": "step",
    "step": 20,
    "steps": 80,
    "reward": 0.61,
    "gold": None,
    "audit": 0.44,
    "unscored": 2,
    "words": 212.0,
    "kl": 0.031,
    "rubric": "ab",
    "rubric_number": 2,
    "rubric_since": 12,
    "rubric_title": "Essays",
    "cost": {"calls": 1300, "tokens": 2_100_000, "usd": 1.25},
    "seconds": 4.0,
    "alarms": ["length: texts have 212 words"],
    "accepted": None,
    "reason": None,
}


def on_terminal(
    command: list[str], folder: Path, columns: int = 80, **more: str
) -> tuple[int, str]:
    """Exit code, and all that a command writes to a terminal, without its colours and moves."""
    mine, its = pty.openpty()
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(TERM="xterm", COLUMNS=str(columns), LINES="40", **more),
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    written = b""
    while True:
        try:
            part = os.read(mine, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        written += part
    os.close(mine)
    plain = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", written)
    return child.wait(60), plain.decode().replace("\r", "")


SHOWN = """
import json, sys, time
from mpo.cli.board import open_board
with open_board("auto", ["mpo-0"], "mpo train") as board:
    for event in json.loads(sys.argv[1]):
        board.take("mpo-0", event)
    time.sleep(0.4)
"""


def test_a_terminal_has_a_table_in_80_columns(tmp_path: Path) -> None:
    events = [STEP, {"kind": "meta", "due": [20]}]
    command = [sys.executable, "-c", SHOWN, json.dumps(events)]
    code, shown = on_terminal(command, tmp_path)
    assert code == 0, shown
    lines = [line.rstrip() for line in shown.splitlines()]
    assert max(map(len, lines)) <= 80
    head = next(line for line in lines if "reward" in line)
    assert head.split() == "run step reward audit KL words unscored rubric, age left".split()
    row = next(line for line in lines if line.startswith("mpo-0"))
    assert re.search(r"20/80\s+0\.61\s+0\.44\s+0\.031\s+212\s+2\s+#2, 8 steps\s+4:00", row)
    assert "meta step of update 20 under way" in lines
    assert "rubric #2: Essays" in lines
    assert "alarm at step 20: length: texts have 212 words" in lines
    assert "cost: 1.25 USD so far, about 5.00 USD in the end" in lines


def test_a_pipe_has_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with open_board("auto", ["mpo-0"], "mpo train (sandbox policy)") as board:
        board.take("mpo-0", {"kind": "meta", "due": [20]})
        board.take("mpo-0", {**STEP, "step": 40})
        board.take("mpo-0", {"kind": "meta", "due": []})
    title, meta, alarm, step = capfd.readouterr().err.splitlines()
    assert title == "mpo train (sandbox policy)"
    assert alarm == "mpo-0  step 40: alarm: length: texts have 212 words"
    assert meta == "mpo-0  meta step of update 20 under way"
    assert step == (
        "mpo-0  step 40/80  reward 0.61  audit 0.44  KL 0.031  212 words  2 unscored  "
        "rubric #2, 28 steps  cost 1.25 USD of about 2.50 USD  2:40 left"
    )


def test_cost_without_a_price_is_calls_and_tokens() -> None:
    roles = {"rm": {"calls": 1300, "prompt_tokens": 2_000_000, "completion_tokens": 100_000}}
    priced = {"rm": {**roles["rm"], "usd": 0.5}, "mrm": {**roles["rm"], "usd": None}}
    assert Spending.of(priced).usd is None, "the price of one role is not that of all"
    assert str(Spending.of(priced)) == "2.6k calls, 4.2M tokens"
    view = RunView("a")
    view.take({**STEP, "cost": asdict(Spending.of(priced))})
    assert str(view.projected) == "10.4k calls, 16.8M tokens"
    assert [short(n) for n in (0, 999, 1000, 99_960, 999_960)] == "0 999 1.0k 100k 1.0M".split()


class Reward:
    """A reward whose meta steps a test starts and ends."""

    pending_steps: list[int] = []  # noqa: RUF012 - of this double only


def test_a_meta_step_that_training_waits_for_is_told() -> None:
    told: list[list[int]] = []
    reward: Any = Reward()
    with PendingStepsWatch(reward, told.append, every_s=0.01):
        for pending in ([10], [10], []):
            reward.pending_steps = pending
            time.sleep(0.05)
    assert told == [[10], []]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("trl")
    from training.tiny import make_model

    return make_model(tmp_path_factory.mktemp("model"))


def test_train_on_a_terminal(run: Mpo, model: str) -> None:
    run.write("p.jsonl", [{"prompt": f"{a} and wool"} for a in ("tea", "rain", "stone", "glass")])
    config = {
        "task": "essay",
        "model": model,
        "data": {"path": "p.jsonl"},
        "chat": {"plugin": "sandbox"},
        "meta": {"every": 1, "samples": 2, "delay": 0},
        "trainer": {"steps": 2, "batch_size": 4, "num_generations": 2},
    }
    run.write("c.yaml", json.dumps(config))
    command = [sys.executable, "-m", "mpo", "train", "c.yaml", "--name", "x"]
    code, shown = on_terminal(command, run.folder)
    assert code == 0, shown
    assert "rubric, age" in shown
    assert re.search(r"cost: \d+ calls, [\d.]+k tokens so far", shown), shown
    assert "report: runs/x/report.html" in shown
    after = [line.strip() for line in shown.rpartition("next:")[2].splitlines() if line.strip()]
    assert len(after) == 3
    assert after[0] == "mpo report runs/x --open"
    for line in after[1:]:
        assert run.ok(*shlex.split(line)[1:]), line
