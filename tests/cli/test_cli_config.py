"""`mpo config`, and the simulated model as a program."""

from __future__ import annotations

import json
import sys

from cli.conftest import Mpo
from mpo.config import load_config


def test_a_new_config_is_valid_and_never_overwrites(run: Mpo) -> None:
    assert "mpo plan mine.yaml" in run.ok("config", "new", "mine.yaml", "--task", "ethics")
    config = load_config(run.folder / "mine.yaml")
    assert (config.task, config.data.path) == ("ethics", "sample")
    again = run("config", "new", "mine.yaml")
    assert again.returncode == 1
    assert "mine.yaml exists already: choose another name" in again.stderr


def test_all_keys_are_listed(run: Mpo) -> None:
    assert "meta.every = 10\n    integer, or null\n" in run.ok("config", "keys")
    keys = json.loads(run.ok("config", "keys", "--json"))
    assert {"name", "type", "default", "description", "operational"} == set(keys[0])


def test_the_simulated_model_says_what_is_wrong_with_its_options(run: Mpo) -> None:
    start = [sys.executable, "-m", "mpo_sandbox"]
    done = run("--port", "70000", program=start)
    assert done.returncode == 2
    assert "--port 70000: must be 0 to 65535" in done.stderr
    assert "python -m mpo_sandbox --port 8100" in run("--help", program=start).stdout
