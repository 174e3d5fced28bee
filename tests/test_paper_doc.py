"""docs/paper.md: every name in it exists."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from mpo.task import BUILTIN

DOC = (Path(__file__).parents[1] / "docs" / "paper.md").read_text("utf-8")
NAMES = sorted(set(re.findall(r"`(mpo(?:\.\w+)+)`", DOC)))


def found(dotted: str) -> Any:
    """What a dotted name stands for."""
    first, *rest = dotted.split(".")
    place: Any = importlib.import_module(first)
    path = first
    for name in rest:
        path = f"{path}.{name}"
        known = hasattr(place, name)
        place = getattr(place, name) if known else importlib.import_module(path)
    return place


@pytest.mark.parametrize("name", NAMES)
def test_a_name_exists(name: str) -> None:
    assert callable(found(name)), name


def test_a_wrong_name_would_be_found() -> None:
    with pytest.raises(ModuleNotFoundError):
        found("mpo.judge.NoSuchThing")


def test_every_row_has_three_cells_and_a_name() -> None:
    rows = [line for line in DOC.splitlines() if line.startswith("| ")]
    assert len(rows) > 30
    for row in rows:
        assert row.count("|") == 4, row
        if not row.startswith("| paper |"):
            assert "`mpo." in row.split("|")[2], row


def test_the_files_exist() -> None:
    for name in re.findall(r"`tasks/([\w/.]+)`", DOC):
        assert (BUILTIN / name).exists(), name
