"""Generation with a real checkpoint: a random Llama of 20,000 weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpo.data import read_rows
from mpo.errors import ConfigError, DataError
from mpo.evaluation.rows import JsonlLog
from mpo.training.completions import CompletionSettings, complete_test_set
from training.tiny import WORDS, make_model

ROWS = [{"prompt": " ".join(WORDS[: n + 1]), "id": n} for n in range(7)] + [
    {"prompt": "tea", "id": 0},  # the first row again: a test set may hold a row twice
    {"prompt": "tea", "id": 8},
]
SHORT = CompletionSettings(max_tokens=6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    import torch

    torch.set_num_threads(1)  # two collapse on a busy machine
    return make_model(tmp_path_factory.mktemp("model"))


def run(path: Path, model: str, rows: list[dict[str, Any]], **options: Any) -> int:
    with JsonlLog(path) as log:
        return complete_test_set(model, "m", rows, log, **({"settings": SHORT} | options))


def test_every_row_once_in_order_whatever_the_batch(tmp_path: Path, model: str) -> None:
    told: list[tuple[int, int]] = []
    path = tmp_path / "m.jsonl"
    count = run(path, model, ROWS, batch_size=4, progress=lambda done, of: told.append((done, of)))
    assert count == len(ROWS)
    assert told == [(4, 9), (8, 9), (9, 9)]
    rows = read_rows(path)
    assert [row["row"] for row in rows] == list(range(9)), "9 rows in batches of 4: no padding row"
    assert [{"prompt": row["prompt"], "id": row["id"]} for row in rows] == ROWS
    assert {row["model"] for row in rows} == {"m"}
    run(tmp_path / "one.jsonl", model, ROWS, batch_size=1)
    alone = read_rows(tmp_path / "one.jsonl")
    assert [row["completion"] for row in rows] == [row["completion"] for row in alone], (
        "padding on the left changes no completion"
    )


def test_it_goes_on_where_it_was_stopped(tmp_path: Path, model: str) -> None:
    whole, path = tmp_path / "whole.jsonl", tmp_path / "m.jsonl"
    run(whole, model, ROWS)
    lines = whole.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[5:8]) + lines[2][:20])  # killed in the middle of a row
    assert run(path, model, ROWS) == 6
    assert path.read_bytes() == whole.read_bytes()
    assert run(path, model, ROWS) == 0
    assert run(path, model, [*ROWS, {"prompt": "rain"}]) == 1, "a longer test set adds its own"


def test_completions_end_at_the_end_token(tmp_path: Path, model: str) -> None:
    hot = CompletionSettings(max_tokens=40, temperature=1.5)
    run(tmp_path / "m.jsonl", model, ROWS, settings=hot)
    rows = read_rows(tmp_path / "m.jsonl")
    assert any(row["finished"] for row in rows)
    for row in rows:
        assert "<eos>" not in row["completion"]
        assert "<pad>" not in row["completion"]
    run(tmp_path / "n.jsonl", model, ROWS, settings=hot)
    assert read_rows(tmp_path / "n.jsonl") == rows, "the same seed samples the same"
    run(tmp_path / "o.jsonl", model, ROWS, settings=CompletionSettings(40, temperature=1.5, seed=1))
    assert [r["completion"] for r in read_rows(tmp_path / "o.jsonl")] != [
        r["completion"] for r in rows
    ]


def test_other_settings_need_another_file(tmp_path: Path, model: str) -> None:
    run(tmp_path / "m.jsonl", model, ROWS[:2])
    with pytest.raises(ConfigError, match="of another checkpoint or other settings"):
        run(tmp_path / "m.jsonl", model, ROWS, settings=CompletionSettings(max_tokens=7))


def test_a_chat_template_is_applied_on_demand(tmp_path: Path, model: str) -> None:
    wrapped = CompletionSettings(max_tokens=6, template=True)
    with pytest.raises(ConfigError, match="has no chat template"):
        run(tmp_path / "m.jsonl", model, ROWS, settings=wrapped)
    folder = tmp_path / "chat"
    make_model(folder)
    template = "{% for m in messages %}paper {{ m['content'] }} glass{% endfor %}"
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))
    run(tmp_path / "a.jsonl", str(folder), [{"prompt": "tea"}], settings=wrapped)
    run(tmp_path / "b.jsonl", str(folder), [{"prompt": "paper tea glass"}])
    (one,), (other,) = read_rows(tmp_path / "a.jsonl"), read_rows(tmp_path / "b.jsonl")
    assert one["completion"] == other["completion"]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "the test set is empty"),
        ([{"prompt": "tea"}, {"text": "x"}], "row 2: has no text in its column 'prompt'"),
        ([{"prompt": "tea", "completion": "x"}], "column 'completion' has the name of one"),
    ],
)
def test_bad_test_sets(tmp_path: Path, rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        run(tmp_path / "m.jsonl", "nowhere", rows)


def test_a_model_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot be loaded: .*config\.json"):
        run(tmp_path / "m.jsonl", str(tmp_path), ROWS)
