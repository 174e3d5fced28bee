"""`mpo plan`, and the presets of the paper that it is asked about."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from cli.conftest import Mpo
from mpo.chat import Completion, Message, Schema, ScriptedChat
from mpo.cli.plan import make_plan
from mpo.config import PRESETS, load_config, preset_names
from mpo.errors import ConfigError
from mpo.evolve.gate import Probes
from mpo.judge import make_reward_model
from mpo.judge.scale import normalized
from mpo.task import BUILTIN, load_task
from mpo.watch import CANARIES_PER_RUBRIC, SECOND_JUDGE_SHARE

PAPER = ["paper/essay", "paper/ethics", "paper/math", "paper/summarization"]
KEYS = (
    "updates meta_steps rm_calls mrm_calls prompt_tokens prompt_tokens_cached output_tokens cost"
).split()


def planned(preset: str, *overrides: str, **more: Any) -> dict[str, Any]:
    return make_plan(load_config(preset, overrides), **more)


# ---------------------------------------------------------------------- the paper's presets


def test_the_papers_presets_are_there() -> None:
    assert [name for name in preset_names() if name.startswith("paper/")] == PAPER


@pytest.mark.parametrize("name", PAPER)
def test_every_line_of_a_preset_has_its_source(name: str) -> None:
    lines = (PRESETS / f"{name}.yaml").read_text("utf-8").splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("seed:"))
    for n, line in enumerate(lines[start:], start=start):
        has_value = re.match(r" *\w+: *[^ #]", line)
        if has_value and "#" not in line:
            assert lines[n - 1].lstrip().startswith("#"), f"{name}, line {n + 1}: {line}"


@pytest.mark.parametrize("name", PAPER)
def test_a_preset_is_what_the_paper_does(name: str) -> None:
    config = load_config(name)
    trainer, ppo = config.trainer, config.trainer.ppo
    assert (trainer.algorithm, trainer.beta, ppo.critic) == ("ppo", 0.02, "separate")
    assert (ppo.missing_eos, ppo.max_grad_norm) == ("absolute", None)
    assert config.reward.scale == "raw"
    meta = config.meta
    assert (meta.gate, meta.lint, meta.delay, meta.rationales) == ("always", False, 0, False)
    assert (meta.context_cases, meta.baseline_cases) == (0, 0)


@pytest.mark.parametrize(
    ("name", "updates", "meta_steps", "cohorts"),
    [
        ("essay", 406, 40, 1),
        ("summarization", 590, 29, 1),
        ("ethics", 203, 20, 1),
        ("math", 117, 3, 21),
    ],
)
def test_updates_and_meta_steps_are_the_papers(
    name: str, updates: int, meta_steps: int, cohorts: int
) -> None:
    plan = planned(f"paper/{name}")
    assert (plan["updates"], plan["meta_steps"], plan["cohorts"]) == (updates, meta_steps, cohorts)
    config = load_config(f"paper/{name}")
    assert config.data.limit is not None
    assert config.data.limit // config.trainer.batch_size == updates
    per_step = 2 if name == "math" else 2 * config.meta.samples + 1
    assert plan["mrm_calls"] == meta_steps * cohorts * per_step


# ---------------------------------------------------------------------- the arithmetic


def test_one_judgement_is_counted_as_the_protocol_asks() -> None:
    essay = planned("paper/essay")
    assert essay["judgements"] == essay["rm_calls"] == 406 * 64
    math = planned("paper/math")  # half by the answer, the rest in three calls
    assert math["rm_calls"] == 117 * 64 * 3 // 2


@pytest.mark.parametrize(
    ("protocol", "seed", "grown"), [("per_criterion", 1, 6), ("dialogue", 2, 12)]
)
def test_calls_grow_with_the_rubric(protocol: str, seed: int, grown: int, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(BUILTIN / "essay", tmp_path / "essay")
    spec = tmp_path / "essay" / "task.yaml"
    spec.write_text(spec.read_text().replace("protocol: single", f"protocol: {protocol}"))
    plan = planned("paper/essay", f"task={tmp_path / 'essay'}")
    assert plan["rm_calls"] == 64 * (10 * seed + 396 * grown)


def test_a_prompt_is_as_long_as_what_the_reward_model_really_sends() -> None:
    """The seed rubric, a prompt of 100 words and a response of 200, by hand."""
    plan = planned("paper/essay", "arm=fixed", prompt_words=100, response_words=200)
    task = load_task("essay")
    values = {
        "task": task.spec.description,
        "limits": task.spec.limits,
        "rubric": "",
        "format": "",
        "prompt": "",
        "response": "",
    }
    frame = sum(len(m["content"].split()) + 1 for m in task.prompts["rm"].messages(values))
    rubric = len(task.rubric.to_markdown().split())
    fences, keys, shape = 8, 12, 45
    by_hand = 1.3 * (frame + 300 + rubric + fences + keys + shape) * plan["judgements"]
    assert plan["prompt_tokens"] == pytest.approx(by_hand, rel=0.04)
    # What comes before the writer's instruction is the same for all: a cache has it.
    assert plan["prompt_tokens_cached"] < 0.75 * plan["prompt_tokens"]


def test_gate_and_canaries_ask_for_their_judgements() -> None:
    always = planned("sandbox/essay", "meta.gate=always")
    probes = planned("sandbox/essay")
    task = load_task("essay")

    def reply(messages: list[Message], schema: Schema | None, seed: int | None) -> Completion:
        raise AssertionError("nobody is asked")

    gate = Probes(make_reward_model(task, ScriptedChat(reply), b"x"), task, normalized)
    # Canaries: under the seed rubric and under each that follows it.
    extra = 13 * gate.calls() + 14 * CANARIES_PER_RUBRIC
    assert probes["rm_calls"] - always["rm_calls"] == extra
    assert f"canaries ask for {14 * CANARIES_PER_RUBRIC} judgements" in str(probes["assumptions"])
    assert planned("sandbox/essay", "arm=fixed")["rm_calls"] == 140 * 64


def test_an_audit_asks_a_second_rm_about_a_few() -> None:
    second = "second_judge={base_url: http://other/v1, model: other}"
    prices = "budget.prices={other: [1000.0, 0.0]}"
    plan = planned("sandbox/essay", second, prices)
    assert plan["audit_calls"] == round(SECOND_JUDGE_SHARE * 140 * 64)
    assert plan["cost"] == pytest.approx(plan["audit"]["prompt_tokens"] / 1000, rel=1e-3)
    plain = planned("sandbox/essay")
    assert (plain["audit_calls"], plain["rm_calls"]) == (0, plan["rm_calls"])


def test_a_prescreen_asks_about_every_rollout() -> None:
    plain, screened = planned("sandbox/essay"), planned("sandbox/essay", "meta.selection=prescreen")
    assert screened["mrm_calls"] - plain["mrm_calls"] == 13 * 10 * 64


@pytest.mark.parametrize(
    ("arm", "updates", "meta_steps", "judgements"),
    [
        ("base", 0, 0, 10 * 64),
        ("fixed", 140, 0, 140 * 64),
        ("expert", 140, 0, 140 * 64),
        ("blind", 140, 14, 154 * 64),
        ("mpo", 140, 13, 140 * 64),
    ],
)
def test_arms(arm: str, updates: int, meta_steps: int, judgements: int) -> None:
    plan = planned("sandbox/essay", f"arm={arm}")
    told = (plan["updates"], plan["meta_steps"], plan["judgements"])
    assert told == (updates, meta_steps, judgements)


def test_cost_is_tokens_times_price() -> None:
    plan = planned("paper/essay", price=(2.0, 3.0))
    by_hand = (2 * plan["prompt_tokens"] + 3 * plan["output_tokens"]) / 1e6
    assert plan["cost"] == pytest.approx(by_hand, rel=1e-4)
    cached = planned("paper/essay", price=(2.0, 3.0, 0.5))
    held = plan["prompt_tokens"] - plan["prompt_tokens_cached"]
    assert cached["cost"] == pytest.approx(by_hand - 1.5 * held / 1e6, rel=1e-4)
    assert planned("paper/essay")["cost"] is None
    model = load_config("paper/essay").chat.model
    budget = f"budget.prices={{{model}: [2.0, 3.0]}}"
    assert planned("paper/essay", budget)["cost"] == plan["cost"]
    assert planned("sandbox/essay")["cost"] == 0


def test_what_was_assumed_is_said() -> None:
    plan = planned("paper/summarization")
    said = "\n".join(plan["assumptions"])
    assert "1.3 tokens per word" in said
    assert "not of the dataset" in said
    assert "drops prompts over 4,000 tokens" in said
    assert "drops prompts" not in "\n".join(planned("paper/essay")["assumptions"])
    assert "a prompt has 900 words (given)" in "\n".join(
        planned("paper/summarization", prompt_words=900)["assumptions"]
    )


def test_a_task_without_rows_wants_to_be_told(tmp_path: Path) -> None:
    import shutil

    shutil.copytree(BUILTIN / "essay", tmp_path / "essay")
    (tmp_path / "essay" / "sample.jsonl").unlink()
    task = f"task={tmp_path / 'essay'}"
    with pytest.raises(ConfigError, match="--prompt-words"):
        planned("paper/essay", task)
    assert planned("paper/essay", task, prompt_words=50)["updates"] == 406


# ---------------------------------------------------------------------- the command


def test_the_command(tmp_path: Path) -> None:
    run = Mpo(tmp_path)
    told = json.loads(run.ok("plan", "paper/essay", "--json", "--price", "0.4,0.4,0.1"))
    assert set(KEYS) <= set(told)
    assert (told["updates"], told["meta_steps"]) == (406, 40)
    assert 0 < told["prompt_tokens_cached"] < told["prompt_tokens"]
    shown = run.ok("plan", "paper/essay", "trainer.steps=20")
    assert re.search(r"meta steps +2\n", shown)
    assert "no price given" in shown
    done = run("plan", "paper/essay", "--price", "cheap")
    assert done.returncode == 2
    assert "PROMPT,COMPLETION" in done.stderr
    assert not list(tmp_path.iterdir()), "nothing was written"
