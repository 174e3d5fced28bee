"""OpenRLHF's client against our service: its bodies, its retries, and what it cannot take.

The client's side is a copy of `openrlhf/utils/agent.py` (0.11.2) by hand: one sample per request,
five tries, one second apart (shorter here), 180 s each; then a reward of None, which ends the run.
"""

from __future__ import annotations

import json
import math
import runpy
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpo.service.openrlhf import completion_of
from mpo.service.wire import METRICS, Refusal
from service.conftest import Node

EXAMPLE = Path(__file__).parents[2] / "examples" / "openrlhf"
PROMPT = "<|im_start|>user\nWrite about {}.<|im_end|>\n<|im_start|>assistant\n"
PAUSE_S = 0.2


def ask(node: Node, topic: str, text: str, label: Any = "", tries: int = 5) -> Any:
    """The client: a reward, or None after the last try."""
    prompt = PROMPT.format(topic)
    body = {"query": [f"{prompt}{text}<|im_end|>"], "prompts": [prompt], "labels": [label]}
    for _ in range(tries):
        try:
            status, answer = node.post("/openrlhf/get_reward", body, timeout=180)
        except OSError:
            status, answer = 0, None
        if status == 200:
            return answer
        time.sleep(PAUSE_S)
    return None


def test_every_sample_gets_numbers(node: Node) -> None:
    keys = []
    for i, text in enumerate(["Tea is a plant.", "Tea is a drink.", "", "BROKEN tea"]):
        answer = ask(node, "tea", text, json.dumps({"id": "row-1", "columns": {"n": i}}))
        assert answer is not None
        (reward,), (score,) = answer["rewards"], answer["scores"]
        assert isinstance(reward, float)
        assert isinstance(score, float)
        keys.append(list(answer["extra_logs"]))
        if text.startswith("BROKEN"):
            assert answer["extra_logs"]["mpo_fallback"] == [1.0]
    assert keys == [list(METRICS)] * 4


def test_it_is_retried_while_there_is_nothing_to_fall_back_on(start: Callable[..., Node]) -> None:
    node = start()
    assert ask(node, "tea", "BROKEN", tries=2) is None
    assert ask(node, "tea", "Tea is a plant.") is not None
    assert ask(node, "tea", "BROKEN")["extra_logs"]["mpo_unscored"] == [1.0]


def test_a_restart_within_its_patience_is_survived(start: Callable[..., Node]) -> None:
    node = start("0", "delay=0.1")
    first = ask(node, "tea", "Tea is a plant.")
    node.stop(9)
    again = start(str(node.port))
    assert ask(again, "tea", "Tea is a plant.") == first
    assert again.get("/v1/state")[1]["scored"] == 1


def test_labels_of_any_kind(node: Node) -> None:
    for label in (
        "42",
        42,
        None,
        math.nan,
        '{"id": null, "columns": {"n": NaN}}',
        '{"not": "ours"}',
        "{broken",
        ["a"],
        '{"id": 7}',
    ):
        assert ask(node, "labels", f"An answer to {label!r}.", label) is not None
    status, answer = node.post(
        "/openrlhf/get_reward",
        {"query": ["ab"], "prompts": ["a"], "labels": ['{"columns": "no mapping"}']},
    )
    assert status == 422
    assert "label" in answer["error"]["message"]


def test_answers_stand_in_the_order_of_the_queries(node: Node) -> None:
    texts = ["Tea one.", "Tea two, an evaluation.", "Tea three.", ""]
    labels = [json.dumps({"id": f"r{i}", "mode": m}) for i, m in enumerate(("train", "eval") * 2)]
    body = {"query": [f"Q{text}" for text in texts], "prompts": ["Q"] * 4, "labels": labels}
    status, together = node.post("/openrlhf/get_reward", body)
    assert status == 200, together
    alone = [
        node.post("/openrlhf/get_reward", {key: [body[key][i]] for key in body})[1]["rewards"][0]
        for i in range(4)
    ]
    assert together["rewards"] == alone
    assert len(set(alone)) > 1


def test_eval_rows_are_no_evidence(node: Node) -> None:
    before = node.get("/v1/state")[1]["scored"]
    label = json.dumps({"id": "e1", "mode": "eval"})
    assert ask(node, "tea", "An evaluation text.", label) is not None
    assert node.get("/v1/state")[1]["scored"] == before


@pytest.mark.parametrize(
    ("query", "prompt", "completion"),
    [
        ("Q: hi\nA: tea<|im_end|>\n", "Q: hi\nA: ", "tea"),
        ("<s>Q: hi\nA: tea</s></s><pad><pad>", "Q: hi\nA: ", "tea"),
        ("<s><|begin|>Q tea", "Q", "tea"),
        ("<s>Q tea", "<s>Q", "tea"),
        ("Q a <b> c</s> d</s>", "Q", "a <b> c</s> d"),
        ("Q", "Q", ""),
        ("Q Q twice", "Q", "Q twice"),
    ],
)
def test_the_completion_is_what_follows_the_prompt(
    query: str, prompt: str, completion: str
) -> None:
    assert completion_of(query, prompt) == completion


def test_a_prompt_elsewhere_in_the_text_is_not_its_prompt() -> None:
    with pytest.raises(Refusal, match="does not begin with its prompt"):
        completion_of("the policy repeats: Q and goes on", "Q")


def test_the_example_prepares_rows_that_the_service_reads(node: Node, tmp_path: Path) -> None:
    rows = [{"prompt": "Write about tea.", "source": "exam"}, {"prompt": "Write about salt."}]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, rows)))
    program = [sys.executable, str(EXAMPLE / "prepare.py"), "in.jsonl", "out.jsonl"]
    subprocess.run([*program, "--mode", "eval"], cwd=tmp_path, check=True, capture_output=True)
    made = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in made] == [row["prompt"] for row in rows]
    assert ask(node, "tea", "A text.", made[0]["label"]) is not None
    convert = runpy.run_path(str(EXAMPLE / "prepare.py"))["convert"]
    label = json.loads(convert({"prompt": "P", "answer": 4}, 0, "train")["label"])
    assert label == {"id": "train-0", "prompt": "P", "mode": "train", "columns": {"answer": 4}}
