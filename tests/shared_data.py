"""Real material that lies beside the project (../shared/data). A user's checkout has none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("MPO_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))


def shared_data(name: str) -> Path:
    """A folder of the real material; skips the test where there is none, fails in CI."""
    folder = ROOT / name
    if not folder.is_dir():
        message = f"needs {name} of the shared data beside the project; set MPO_SHARED_DATA"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder
