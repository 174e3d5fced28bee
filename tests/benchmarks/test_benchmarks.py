"""The benchmark scripts run and print their figures; no figure is asserted here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def run(name: str, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCHMARKS / f"{name}.py"), *options],
        capture_output=True,
        text=True,
        check=False,
        # The width of a terminal breaks the help's lines.
        env=dict(os.environ, COLUMNS="200", NO_COLOR="1"),
    )


def figures(name: str, *options: str) -> dict[str, Any]:
    result = run(name, *options, "--json")
    # The exit code is 1 where a figure misses its target, as it may on a busy machine.
    assert result.returncode in (0, 1), result.stderr
    loaded: dict[str, Any] = json.loads(result.stdout)
    return loaded


def test_start_up_is_measured() -> None:
    measured = figures("startup", "--repeat", "1")
    assert list(measured) == ["mpo --help", "import mpo"]
    for row in measured.values():
        assert list(row) == ["median_s", "min_s", "target_s", "heavy"]
        assert row["heavy"] == []


def test_the_store_is_measured() -> None:
    measured = figures("store", "--judgements", "512")
    assert set(measured) >= {
        *("append_per_s", "append_cpu_us", "window_ms", "window_cpu_ms", "peak_mb", "resume_s"),
        *("peak_mb_before", "load", "judgements", "judgements_before", "window_cases", "file_mb"),
    }
    assert measured["targets"] == {"append_per_s": 10_000, "window_ms": 50, "resume_s": 5}
    assert measured["judgements"] >= 512


@pytest.mark.parametrize("name", ["judge", "service", "store", "startup"])
def test_every_script_says_how_it_is_started(name: str) -> None:
    result = run(name, "--help")
    assert result.returncode == 0, result.stderr
    assert f"python benchmarks/{name}.py" in result.stdout
    assert "--json" in result.stdout


def test_a_wrong_option_is_one_line() -> None:
    result = run("judge", "--in-flight", "many")
    assert result.returncode == 1
    assert result.stderr.strip() == "error: --in-flight 'many': give numbers, e.g. 64,256"
