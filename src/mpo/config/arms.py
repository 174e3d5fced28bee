"""Arms: ways of running the same task, so that they can be compared.

To add one, add an entry to `ARMS`; what it needs beyond the fields of `Arm` is added there and
used in `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ARMS", "Arm"]


@dataclass(frozen=True)
class Arm:
    """One way of running a task."""

    summary: str
    """One line, for tables and help."""
    evolves: bool = False
    """Whether meta steps are held while the policy trains."""
    blind: bool = False
    """Whether the rubric is first rewritten, as often as `mpo` would, on the untrained policy's
    texts."""


ARMS: Mapping[str, Arm] = {
    "fixed": Arm("the seed rubric stays in force"),
    "blind": Arm("the rubric is rewritten before training, on the untrained policy", blind=True),
    "mpo": Arm("the rubric is rewritten while the policy trains", evolves=True),
}
"""In the order of tables."""
