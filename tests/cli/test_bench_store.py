"""The store's bench: it measures what it says. How fast it is, a busy machine cannot tell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Mpo
from mpo.cli.bench_store import BATCH, child
from mpo.errors import StoreError


def test_a_small_store_is_measured(run: Mpo) -> None:
    out = json.loads(run.ok("bench", "store", "--judgements", "2000", "--json"))
    assert out["judgements"] == 2000 // BATCH * BATCH
    assert out["window_cases"] == 10 * BATCH
    assert out["judgements_before"] < out["judgements"]
    figures = ("append_per_s", "append_cpu_us", "window_ms", "window_cpu_ms", "resume_s")
    for name in (*figures, "peak_mb", "peak_mb_before"):
        assert out[name] > 0


def test_a_process_without_a_store_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="mpo.db"):
        child(["append", str(tmp_path / "mpo.db"), "0", "1"])
