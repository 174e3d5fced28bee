"""Simulated parts of a run: a reader has to know of each before believing a number.

The run's store keeps them as a fact, so that they are known wherever the store is taken.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from ..records import to_json
from ..store import Store

__all__ = ["keep_simulated", "read_simulated", "sandbox_mark"]

_FACT = "simulated"


def keep_simulated(store: Store, simulated: Mapping[str, bool]) -> None:
    """Keep in a store which parts of its run are simulated."""
    text = to_json(dict(simulated))
    if store.meta(_FACT) != text:
        store.set_meta(_FACT, text)


def read_simulated(store: Store) -> dict[str, bool]:
    """True for each part of a store's run that is simulated, False for each real one; empty where
    nobody said."""
    value: dict[str, bool] = json.loads(store.meta(_FACT) or "{}")
    return value


def sandbox_mark(simulated: Mapping[str, bool]) -> str:
    """Each simulated part and each real one: `sandbox policy and data, real judge`. Empty where
    all are real.

    Args:
        simulated: Parts of the run in the order in which they are named (`policy`, `data`,
            `judge`, …); True for a simulated one.
    """
    mock = [part for part, is_simulated in simulated.items() if is_simulated]
    real = [part for part, is_simulated in simulated.items() if not is_simulated]
    if not mock:
        return ""
    return f"sandbox {_listed(mock)}" + (f", real {_listed(real)}" if real else "")


def _listed(parts: list[str]) -> str:
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if parts[1:] else parts)
