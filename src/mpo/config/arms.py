"""Arms: ways of running the same task, so that they can be compared.

To add one, add an entry to `ARMS`; what it needs beyond the fields of `Arm` is added there and
used in `build`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError
from ..task import Task

__all__ = ["ARMS", "Arm", "arm_rubric"]


@dataclass(frozen=True)
class Arm:
    """One way of running a task."""

    summary: str
    """One line, for tables and help."""
    evolves: bool = False
    """True if meta steps are held while the policy trains."""
    blind: bool = False
    """True if the rubric is first rewritten, as often as by `mpo`, on the untrained policy's
    texts."""
    trains: bool = True
    """Without it the untrained policy's texts are scored, and that is all."""
    rubric: str | None = None
    """Name of the file in the task's `rubrics/` folder that it runs with."""
    given: bool = False
    """The file may be given by the config's `rubric` instead."""


ARMS: Mapping[str, Arm] = {
    "base": Arm("no training: the untrained policy's texts are scored", trains=False),
    "fixed": Arm("the seed rubric stays in effect"),
    "expert": Arm(
        "a rubric after public scales of writing traits stays in effect", rubric="expert"
    ),
    "oracle": Arm("a rubric written against known reward hacking stays in effect", rubric="oracle"),
    "autoprompt": Arm(
        "a rubric from an offline prompt optimiser (`rubric: FILE`) stays in effect",
        rubric="autoprompt",
        given=True,
    ),
    "blind": Arm("the rubric is rewritten before training, on the untrained policy", blind=True),
    "mpo": Arm("the rubric is rewritten while the policy trains", evolves=True),
}
"""In the order of tables."""


def arm_rubric(arm: str, task: Task, rubric: str | None) -> Path | None:
    """File of the rubric that an arm starts with; None for the task's own.

    Args:
        rubric: The config's `rubric`.

    Raises:
        ConfigError: The arm runs with a rubric of its own, and the task has none, or another one
            is given.
    """
    name = ARMS[arm].rubric
    if name is None or (rubric and ARMS[arm].given):
        return Path(rubric) if rubric else None
    if rubric:
        raise ConfigError(
            f"arm {arm!r} runs with the task's own {name}.md, and rubric={rubric} would not be "
            "used: leave it out, or take arm=fixed to keep a rubric of yours in effect"
        )
    folder = task.folder / "rubrics"
    path = folder / f"{name}.md"
    if path.is_file():
        return path
    if ARMS[arm].given:
        raise ConfigError(
            f"arm {arm!r} runs with a rubric that a prompt optimiser wrote: give its file as "
            f"rubric=FILE, or put it at {path}"
        )
    there = ", ".join(sorted(other.stem for other in folder.glob("*.md")))
    raise ConfigError(
        f"arm {arm!r}: task {task.name!r} has no such rubric ({path} is missing"
        + (f"; there is {there})" if there else ")")
    )
