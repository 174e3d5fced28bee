"""`mpo train` in several processes: what cannot be shared by them is refused at once.

That it trains is tested on two ranks in tests/training/test_ppo_ranks.py.
"""

from __future__ import annotations

import pytest

from mpo.cli.train import check_ranks
from mpo.config import load_config
from mpo.errors import ConfigError


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torchrun sets it."""
    monkeypatch.setenv("WORLD_SIZE", "2")


def test_one_process_may_do_all() -> None:
    for change in ("arm=base", "budget.calls=5"):
        check_ranks(load_config("sandbox/essay", [change]))


@pytest.mark.usefixtures("two")
def test_two_may_train_without_caps() -> None:
    check_ranks(load_config("sandbox/essay", ["arm=mpo"]))
    with pytest.raises(ConfigError, match="'base' does not train"):
        check_ranks(load_config("sandbox/essay", ["arm=base"]))
    with pytest.raises(ConfigError, match=r"budget\.calls .*these are 2"):
        check_ranks(load_config("sandbox/essay", ["budget.calls=5"]))
