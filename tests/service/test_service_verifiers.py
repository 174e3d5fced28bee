"""verifiers 0.4: its own runner and a real environment, with a policy that streams and a real
service. `make test-verifiers`; skipped where verifiers is not installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("verifiers.v1")

from mpo.service.wire import METRICS
from service.conftest import PATHS, TESTS, Node

EXAMPLE = TESTS.parent / "examples" / "verifiers"


def evaluate(node: Node, folder: Path, *, mode: str, policy: str) -> list[dict]:
    """Traces of `vf-eval` on the example: four prompts, two rollouts each."""
    program = [str(Path(sys.executable).with_name("vf-eval")), "tea-essays", "-n", "4", "-r", "2"]
    program += ["--no-push", "--no-rich", "--output-dir", str(folder), "--model", "policy"]
    program += ["--env.agent.harness.id", "null", "--env.agent.runtime.type", "subprocess"]
    program += ["--client.base-url", policy, "--client.api-key-var", "POLICY_KEY"]
    paths = os.pathsep.join([PATHS, str(EXAMPLE)])
    given = {"PYTHONPATH": paths, "MPO_URL": node.url, "MODE": mode, "POLICY_KEY": "none"}
    done = subprocess.run(
        program, env=os.environ | given, cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (file,) = folder.rglob("traces.jsonl")
    episodes = [json.loads(line) for line in file.read_text().splitlines()]
    return [trace for episode in episodes for trace in episode.get("traces", [episode])]


def test_rollouts_are_graded_by_the_evolving_rubric(node: Node, tmp_path: Path) -> None:
    policy = subprocess.Popen(
        [sys.executable, str(TESTS / "service" / "fake_policy.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert policy.stdout is not None
        url = f"http://127.0.0.1:{policy.stdout.readline().strip()}/v1"
        first = evaluate(node, _new(tmp_path / "train"), mode="train", policy=url)
        assert node.get("/v1/state")[1]["scored"] == len(first) == 8
        assert node.post("/v1/meta_step", {"step": 10})[1]["changed"]
        second = evaluate(node, _new(tmp_path / "eval"), mode="eval", policy=url)
        assert node.get("/v1/state")[1]["scored"] == 8, "evaluation is not counted"
    finally:
        policy.communicate("")
    for traces, version in ((first, 0), (second, 1)):
        for trace in traces:
            assert not trace["errors"]
            assert 0 <= trace["rewards"]["mpo"]["score"] <= 1
            assert set(METRICS) <= set(trace["metrics"])
            assert trace["metrics"]["mpo_rubric_version"] == version
            assert trace["info"]["judge_calls"][0]["rationales"]


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
