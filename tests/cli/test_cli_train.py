"""`mpo train`, `mpo compare`, `mpo report`: with a real trainer on a tiny model, and bad input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Mpo, environment
from mpo.cli.children import Job, run_jobs
from mpo.store import Store

PROMPTS = [{"prompt": f"{a} and {b}"} for a in ("tea", "rain", "stone") for b in ("wool", "glass")]


# ---------------------------------------------------------------------- bad input

BAD = {
    "wrong key": (["trainer.stpes=3"], "did you mean 'trainer.steps'?"),
    "unknown arm": (["arm=mpoo"], "unknown arm 'mpoo'"),
    "unknown task": (["task=esay"], "unknown task 'esay'"),
    "missing rubric": (["rubric=gone.md"], "rubric 'gone.md': no such file"),
    "empty rubric": (["rubric=empty.md"], "rubric 'empty.md': no criterion found"),
    "missing data": (["data.path=gone.jsonl"], "gone.jsonl: no such file"),
    "empty data": (["data.path=empty.jsonl"], "empty.jsonl is empty"),
    "missing column": (["data.path=other.jsonl"], "other.jsonl:1: 'prompt' is missing"),
    "endpoint down": (
        ["chat.base_url=http://127.0.0.1:9/v1", "chat.model=m"],
        "nobody answers at http://127.0.0.1:9/v1",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line(run: Mpo, case: str) -> None:
    run.write("empty.md", "# Only a title\n")
    run.write("empty.jsonl", "")
    run.write("other.jsonl", [{"text": "a"}])
    overrides, words = BAD[case]
    # Both commands check the same way; every second case asks the other one.
    command = ("train", "compare")[list(BAD).index(case) % 2]
    assert words in run.refused(command, "sandbox/essay", *overrides, "--name", "a")
    assert not list(run.folder.glob("runs/**/mpo.db")), "nothing was begun"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "sandbox/essay", "--arms", "fixed,mop"], "did you mean 'mpo'?"),
        (["compare", "sandbox/essay", "--arms", ","], "--arms names none"),
        (["compare", "nowhere.yaml"], "no config 'nowhere.yaml'"),
        (["report", "nowhere"], "no run 'nowhere'"),
        (["report", "."], "it has no mpo.db"),
        (["rubric", "show", "nowhere"], "no run 'nowhere'"),
        (["task", "check", "nowhere"], "no task 'nowhere'"),
    ],
)
def test_what_is_not_there_is_named(run: Mpo, arguments: list[str], words: str) -> None:
    assert words in run.refused(*arguments)


def test_a_start_that_fails_leaves_the_name_free(run: Mpo) -> None:
    for command in ("train", "compare"):
        run.refused(command, "sandbox/essay", "data.path=gone.jsonl", "--name", "a")
        assert not (run.folder / "runs" / "a").exists()


# ---------------------------------------------------------------------- children


def test_a_failed_child_does_not_stop_the_others(tmp_path: Path) -> None:
    events: list[tuple[str, Any]] = []
    jobs = [
        Job("bad", ["train", "sandbox/essay", "arm=nope"], tmp_path / "bad.txt"),
        Job("usage", ["train"], tmp_path / "usage.txt"),
        Job("good", ["--version"], tmp_path / "good.txt"),
    ]
    failed = run_jobs(jobs, 1, lambda label, event: events.append((label, event["kind"])))
    assert list(failed) == ["bad", "usage"]
    assert "unknown arm 'nope'" in failed["bad"]
    assert "exit code 1" in failed["bad"]
    assert "exit code 2" in failed["usage"]
    assert events[-1] == ("good", "done")


WAITING = """
import sys
from pathlib import Path
from mpo.cli.children import Job, run_jobs
serve = ["serve", "sandbox/essay", "--port", "0", "--name"]
jobs = [Job(str(n), [*serve, str(n)], Path(f"{n}.txt")) for n in range(2)]
run_jobs(jobs, 2, lambda label, event: print(label, event["kind"], flush=True))
"""


def children_of(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("number", "inherited"),
    [
        (signal.SIGINT, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_DFL),
        (signal.SIGTERM, signal.SIG_IGN),
    ],
)
def test_an_interrupt_ends_the_children(
    tmp_path: Path, number: signal.Signals, inherited: signal.Handlers
) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=tmp_path,
        env=environment(),
        stderr=subprocess.PIPE,
        # As at a terminal, and as in the background of a shell, which lets it ignore the interrupt.
        preexec_fn=lambda: signal.signal(signal.SIGINT, inherited),
    )
    deadline = time.monotonic() + 20
    while len(children := children_of(parent.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) == 2
    time.sleep(0.5)  # past the start of their interpreters
    parent.send_signal(number)
    _, told = parent.communicate(timeout=20)  # less than the grace: nobody had to be killed
    assert b"KeyboardInterrupt" in told
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]


SWALLOWS_ONE = """
import signal, sys
if "serve" in sys.argv:
    def first(*_):
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGINT, first)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_swallowed_interrupt_is_repeated(tmp_path: Path) -> None:
    # As a library does that catches everything while it is imported.
    (tmp_path / "sitecustomize.py").write_text(SWALLOWS_ONE)
    paths = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    parent = subprocess.Popen(
        [sys.executable, "-c", WAITING],
        cwd=tmp_path,
        env=environment(PYTHONPATH=paths),
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 20
    while len(children := children_of(parent.pid)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(children) == 2
    time.sleep(0.5)
    parent.send_signal(signal.SIGTERM)
    parent.communicate(timeout=20)
    assert not [pid for pid in children if os.path.exists(f"/proc/{pid}")]


# ---------------------------------------------------------------------- the whole way


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("trl")
    from training.tiny import make_model

    return make_model(tmp_path_factory.mktemp("model"))


def test_compare_trains_reports_and_continues(run: Mpo, model: str) -> None:
    run.write("p.jsonl", PROMPTS)
    config = {
        "task": "essay",
        "model": model,
        "data": {"path": "p.jsonl"},
        "chat": {"plugin": "sandbox"},
        "meta": {"every": 2, "samples": 2, "delay": 0},
        "trainer": {"steps": 2, "batch_size": 4, "num_generations": 2},
    }
    run.write("c.yaml", json.dumps(config))
    limit = "trainer.extra.max_completion_length=8"
    assert "set it through response.max_tokens" in run.refused("compare", "c.yaml", limit)

    arguments = ["compare", "c.yaml", "--arms", "mpo", "--name", "x"]
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    assert "mpo-0  step 2/2" in done.stderr, "plain lines where there is no terminal"
    assert "reward by arm (sandbox judge, real policy and data)" in done.stdout
    assert "report: runs/x/report.html" in done.stdout
    folder = run.folder / "runs" / "x"
    told = json.loads((folder / "compare.json").read_text())
    assert told["simulated"] == {"policy": False, "data": False, "judge": True}
    assert list(told["arms"]) == ["mpo"]
    [seed] = told["arms"]["mpo"]["seeds"]
    assert seed["seed"] == 0
    assert set(seed["reward"]) == {"start", "end"}
    assert set(seed["gold"]) == {"start", "peak", "end"}
    assert seed["gold"]["end"] is None, "nobody can say, so it is not 0"
    assert {"gold_parts", "hacked_share_end", "rubrics", "exploits"} <= set(seed)
    kept = {path.name for path in (folder / "mpo-0").iterdir()}
    assert kept >= {"config.yaml", "mpo.db", "checkpoints", "rubrics", "summary.json"}
    assert (folder / "mpo-0" / "report.html").is_file()
    lineage = json.loads(run.ok("rubric", "show", "x/mpo-0", "--lineage", "--json"))
    assert [d["kind"] for d in lineage] == ["seed", "evolve"]

    summary = folder / "mpo-0" / "summary.json"
    before = summary.stat().st_mtime_ns
    again = json.loads(run.ok(*arguments, "--json"))
    assert again == told, "a finished run is not run again"
    # Another seed that fails at once: what is there already is reported all the same.
    run.write("runs/x/mpo-1", "in the way")
    partly = run(*arguments, "--seeds", "2")
    assert partly.returncode == 1
    assert "error: 1 of 2 runs failed: mpo-1: " in partly.stderr
    told = json.loads((folder / "compare.json").read_text())
    assert len(told["arms"]["mpo"]["seeds"]) == 1
    assert "mpo-1 is a file" in told["failed"]["mpo-1"]
    assert summary.stat().st_mtime_ns == before
    child = run("train", folder / "config.yaml", "--name", "x/mpo-0")
    assert "it was finished before" in child.stderr
    assert "another config (model" in run.refused("compare", "sandbox/essay", "--name", "x")
    (folder / "mpo-1").unlink()
    (folder / "mpo-2").mkdir()
    Store(folder / "mpo-2" / "mpo.db").close()  # begun, and nothing judged yet: left out
    assert run.ok("report", "x", "--out", "r.html") == "report: r.html\n"
    assert "no rollout has been judged" in run.refused("report", "x/mpo-2")
