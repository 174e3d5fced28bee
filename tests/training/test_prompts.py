"""Prompts over a task's `dataset.max_prompt_tokens` are dropped, and counted."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from mpo.config import build, load_config
from mpo.errors import ConfigError, DataError
from mpo.task.template import write_task_template
from mpo.training.model import filter_by_length

ROWS = [{"prompt": "tea " * n, "number": n} for n in (1, 5, 3, 9, 5)]


def test_longer_prompts_are_dropped_and_counted(
    model: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpo")
    assert [row["number"] for row in filter_by_length(ROWS, model, 5)] == [1, 5, 3, 5]
    assert "1 of 5 prompts dropped: over 5 tokens" in caplog.text
    assert filter_by_length(ROWS, model, 9) == ROWS


def test_none_left_is_an_error_that_names_the_shortest(model: str) -> None:
    with pytest.raises(DataError, match=r"all 4 prompts .*max_prompt_tokens=2.* shortest has 3"):
        filter_by_length(ROWS[1:], model, 2)


def test_without_a_tokenizer_nothing_can_be_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        filter_by_length(ROWS, str(tmp_path / "nowhere"), 5)


def test_a_run_is_built_without_them_and_says_how_many(model: str, tmp_path: Path) -> None:
    task = tmp_path / "task"
    write_task_template(task)
    file = task / "task.yaml"
    file.write_text(file.read_text().replace("# max_prompt_tokens: 4000", "max_prompt_tokens: 6"))
    lines = [json.dumps({"prompt": row["prompt"].strip()}) for row in ROWS]
    (task / "sample.jsonl").write_text("\n".join(lines))
    config = load_config(
        "sandbox/essay", [f"task={task}", f"model={model}", "data.path=null", "data.limit=null"]
    )
    (tmp_path / "run").mkdir()
    told: list[str] = []
    parts = build(config, tmp_path / "run", told.append)
    parts.reward.store.close()
    assert sorted(len(row["prompt"].split()) for row in parts.rows) == [1, 3, 5, 5]
    assert parts.dropped == 1
    assert told == [
        "counting the tokens of 5 prompts",
        "1 of 5 prompts dropped: over 6 tokens",
    ]
