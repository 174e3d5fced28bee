"""The files under examples/ that need no engine to be checked."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mpo.config import load_config
from mpo.task import load_task

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_examples_can_be_read_at_a_sitting() -> None:
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in {".py", ".sh", ".yaml"}]
    assert len(files) >= 8
    for path in files:
        assert len(path.read_text().splitlines()) <= 150, path


@pytest.mark.parametrize("engine", ["verl", "openrlhf"])
def test_a_config_is_one_that_serve_takes(engine: str) -> None:
    config = load_config(str(EXAMPLES / engine / "config.yaml"), [])
    assert config.meta_chat is not None
    assert config.meta_chat.base_url != config.chat.base_url
    # OpenRLHF cannot say when: 10 updates of 64. veRL's trainer does.
    assert config.service.every_items == {"verl": None, "openrlhf": 640}[engine]


@pytest.mark.parametrize("script", ["verl/paper_ppo.sh", "openrlhf/launch.sh"])
def test_a_script_is_bash(script: str) -> None:
    subprocess.run(["bash", "-n", str(EXAMPLES / script)], check=True)


def test_rows_for_verl(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    (tmp_path / "in.jsonl").write_text(json.dumps({"prompt": "Write about tea.", "source": "a"}))
    program = [sys.executable, str(EXAMPLES / "verl" / "prepare.py"), "essay", "in.jsonl"]
    program += ["out/test.parquet", "--split", "test"]
    subprocess.run(program, cwd=tmp_path, check=True, capture_output=True)
    (row,) = datasets.Dataset.from_parquet(
        str(tmp_path / "out" / "test.parquet"), cache_dir=str(tmp_path / "cache")
    )
    (message,) = row["prompt"]
    assert message["content"] == load_task("essay").policy_prompt({"prompt": "Write about tea."})
    assert row["extra_info"] == {"split": "test", "index": 0, "source": "a"}
    assert row["data_source"] == "essay"
    assert row["reward_model"]["ground_truth"] == ""
