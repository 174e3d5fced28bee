"""`mpo`: the group of all commands.

`mpo --help` needs the names and one line each; the modules behind them are loaded when their
command is called, which keeps the start within 0.4 s.
"""

from __future__ import annotations

import errno
import gc
import importlib
from typing import Any, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import MPOError

__all__ = ["COMMANDS", "GC_THRESHOLD", "main"]

COMMANDS = {
    "train": "Train a policy with one arm.",
    "compare": "Train several arms and seeds side by side, and compare them.",
    "plan": "Say what a run will ask and cost.",
    "score": "Score the completions of a JSONL file, without a trainer.",
    "evolve": "Propose a better rubric from the completions of a JSONL file.",
    "rubric": "Show, compare, check and roll back rubrics.",
    "evaluate": "Measure policies and judges.",
    "report": "Write one HTML file about one or more runs.",
    "replay": "Score stored rollouts under another rubric of the run.",
    "import": "Read a run of the published MPO code.",
    "task": "Write and check task folders; build cohorts.",
    "config": "Write a config to start from; list all keys.",
    "serve": "Serve the reward to other engines over HTTP.",
}
"""By name, in the order of the help: the first line of each command's own help."""

_MODULES = {"import": "import_"}  # a keyword cannot name a module that is imported by name


class CommandGroup(TyperGroup):
    """Loads a command when it is called, and turns errors into one line and an exit code."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in COMMANDS and cmd_name not in self.commands:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in COMMANDS:
            module = importlib.import_module(f".{_MODULES.get(args[0], args[0])}", __package__)
            self.add_command(typer.main.get_command(module.app), args[0])
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo(
                "interrupted; what was scored and decided is stored: the same command continues",
                err=True,
            )
            raise SystemExit(130) from None
        except MPOError as error:
            _fail(str(error))
        except ExceptionGroup as group:
            # Calls that run at once report their failures together; the first one names the cause.
            known = group.subgroup(MPOError)
            if known is None:
                raise
            _fail(str(_first(known)))
        except OSError as error:
            # A closed pipe is not an error of ours: `mpo rubric show RUN | head`.
            if error.errno == errno.EPIPE:
                raise
            _fail(str(error))


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _fail(message: str) -> NoReturn:
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    typer.echo(f"error: {'; '.join(lines)}", err=True)
    raise SystemExit(1)


app = typer.Typer(
    cls=CommandGroup,
    rich_markup_mode=None,  # plain help is read faster, by people in logs and by this machine
    no_args_is_help=True,
    # A traceback with local variables would print what a person pasted into a config.
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        package = importlib.import_module((__package__ or "").partition(".")[0])
        typer.echo(f"mpo {package.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Meta Policy Optimization: RL rewards from an LLM judge whose rubric evolves.

    Example: mpo compare sandbox/essay --arms fixed,mpo
    """


GC_THRESHOLD = (50_000, 20, 50)
"""Grading makes many small objects and few cycles. With Python's own (700, 10, 10) the collector
takes a seventh of the processor time of a judgement (`benchmarks/judge.py`)."""


def main() -> None:
    """The entry point of `mpo` and `python -m mpo`."""
    gc.set_threshold(*GC_THRESHOLD)
    app(prog_name="mpo")
