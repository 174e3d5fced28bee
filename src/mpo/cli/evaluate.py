"""`mpo evaluate`: the group of commands that measure policies and judges.

Their modules are loaded when a command is called: they need numpy, transformers and others, and
`mpo evaluate --help` needs none of them.
"""

from __future__ import annotations

import typer

from .group import LazyGroup

__all__ = ["COMMANDS", "app"]

COMMANDS = {
    "generate": "Complete a test set with one or more checkpoints.",
    "rank": "Rank models by pairwise verdicts of a judge.",
    "math": "Measure how many final answers are right, by subject and level.",
    "verdict": "Measure how many verdicts are right, beside the majority label.",
    "rouge": "Measure the overlap with reference summaries.",
    "judge": "Measure how good a rubric is with a reward model.",
    "recorded": "Measure recorded judges on pairs whose better text is known.",
}
"""First line of each command's own help, by name, in the order of the help."""
_MODULES = {
    name: f"evaluate_{'references' if name in ('math', 'verdict', 'rouge') else name}"
    for name in COMMANDS
}


class EvaluateGroup(LazyGroup):
    """The commands of `mpo evaluate`."""

    lines = COMMANDS
    modules = _MODULES


app = typer.Typer(
    cls=EvaluateGroup, rich_markup_mode=None, add_completion=False, no_args_is_help=True
)


@app.callback()
def evaluate() -> None:
    """Measure policies and judges.

    Example: mpo evaluate rank base.jsonl mpo.jsonl --chat http://localhost:8000/v1 --model judge
    """
