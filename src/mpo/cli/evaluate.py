"""`mpo evaluate`: the group of commands that measure policies and judges.

Their modules are loaded when a command is called: they need numpy, transformers and others, and
`mpo evaluate --help` needs none of them.
"""

from __future__ import annotations

import importlib
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["COMMANDS", "app"]

COMMANDS = {
    "generate": "Complete a test set with one or more checkpoints.",
    "rank": "Rank models by pairwise verdicts of a judge.",
    "math": "Measure how many final answers are right, by subject and level.",
    "verdict": "Measure how many verdicts are right, beside the majority label.",
    "rouge": "Measure the overlap with reference summaries.",
    "judge": "Measure how good a rubric is with a reward model.",
}
"""First line of each command's own help, by name, in the order of the help."""
_MODULES = {"math": "references", "verdict": "references", "rouge": "references"}
"""Ending of a command's module where it is not the command's name."""


class EvaluateGroup(TyperGroup):
    """A group that loads a command when it is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            name = f".evaluate_{_MODULES.get(args[0], args[0])}"
            command = typer.main.get_command(importlib.import_module(name, __package__).app)
            if isinstance(command, TyperGroup):  # a module with several commands
                command = command.commands[args[0]]
            self.add_command(command, args[0])
        return super().resolve_command(ctx, args)


app = typer.Typer(
    cls=EvaluateGroup, rich_markup_mode=None, add_completion=False, no_args_is_help=True
)


@app.callback()
def evaluate() -> None:
    """Measure policies and judges.

    Example: mpo evaluate rank base.jsonl mpo.jsonl --chat http://localhost:8000/v1 --model judge
    """
