"""A spent budget stops a command cleanly, and a larger one lets it go on; costs are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Endpoint, Mpo
from mpo.store import Store
from mpo_sandbox import corpus

PROMPTS = [{"prompt": f"{a} and {b}"} for a in ("tea", "rain", "stone") for b in ("wool", "glass")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("trl")
    from training.tiny import make_model

    return make_model(tmp_path_factory.mktemp("model"))


def test_a_spent_budget_stops_training_and_a_larger_one_goes_on(run: Mpo, model: str) -> None:
    run.write("p.jsonl", PROMPTS)
    config = {
        "task": "essay",
        "model": model,
        "arm": "fixed",
        "data": {"path": "p.jsonl"},
        "chat": {"plugin": "sandbox"},
        "trainer": {"steps": 2, "batch_size": 4, "num_generations": 2, "save_every": 1},
        "budget": {"calls": 5},
    }
    run.write("c.yaml", json.dumps(config))
    told = run.refused("train", "c.yaml", "--name", "a")
    assert "budget.calls is used up: 5 of 5" in told
    assert "Raise budget.calls and resume" in told
    folder = run.folder / "runs" / "a"
    assert not (folder / "summary.json").exists()
    assert calls(folder) == 5

    done = run("train", "c.yaml", "budget.calls=8", "--name", "a", "--progress", "plain")
    assert done.returncode == 0, done.stderr
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    cost = summary["cost"]["rm"]
    # Eight completions, of which a rule may decide some: nothing is paid for twice.
    assert 5 < cost["calls"] == calls(folder) <= 8
    assert cost["usd"] == 0.0, "the simulated model is free"
    assert summary["unscored"] == {}
    assert f"rm: {cost['calls']} calls, {cost['prompt_tokens']:,} prompt tokens" in done.stdout


def calls(folder: Path) -> int:
    with Store(folder / "mpo.db", create=False) as store:
        return store.usage()["rm"].calls


def test_score_and_evolve_show_what_they_cost(run: Mpo, endpoint: Endpoint) -> None:
    essays = corpus.generate(0, 6, "a")
    file = run.write("a.jsonl", [{"prompt": e.prompt, "completion": e.text} for e in essays])
    chat = ["--chat", endpoint.url, "--model", "sandbox-3"]
    told = run.ok("score", file, *chat, "--price", "1,10")
    spent = next(line for line in told.splitlines() if line.startswith("rm: 7 calls"))
    assert spent.endswith(" USD"), "six judgements and the probe"
    again = run.ok("score", file, *chat)
    assert "rm: 7 calls" in again, "what was spent before is remembered"
    assert "no price given" in again
    evolved = json.loads(run.ok("evolve", file, *chat, "--price", "1,10", "--json"))
    assert evolved["cost"]["mrm"]["calls"] == evolved["usage"]["mrm"]["calls"] > 0
    assert evolved["cost"]["mrm"]["usd"] > 0
    assert "in US dollars per million tokens" in run.refused(
        "score", file, *chat, "--price", "cheap"
    )
