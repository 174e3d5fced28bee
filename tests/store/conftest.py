from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mpo.store import Store
from store.store_doubles import SEED, seed_decision


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mpo.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with Store(path) as store:
        store.decide(seed_decision(), SEED)
        yield store
