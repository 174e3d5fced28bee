"""`mpo`: the group of all commands.

`mpo --help` needs the names and one line each; the modules behind them are loaded when their
command is called, which keeps the start within 0.4 s.
"""

from __future__ import annotations

import errno
import gc
import importlib
import logging
import sys
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import MPOError
from ..redaction import find_secret, redact, redact_record, traceback_text

__all__ = ["COMMANDS", "GC_THRESHOLD", "LazyGroup", "main"]

COMMANDS = {
    "train": "Train a policy with one arm.",
    "compare": "Train several arms and seeds side by side, and compare them.",
    "plan": "Say what a run will ask and cost.",
    "score": "Score the completions of a file, without a trainer.",
    "evolve": "Propose a better rubric from a file's completions, and check it.",
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


class LazyGroup(TyperGroup):
    """A group that loads a command's module when the command is called."""

    lines: ClassVar[Mapping[str, str]]
    """First line of each command's own help, by name, in the order of the help."""
    modules: ClassVar[Mapping[str, str]]
    """Module of a command in this package, where it is not the command's name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.lines)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.lines and cmd_name not in self.commands:
            return TyperCommand(cmd_name, help=self.lines[cmd_name])
        return super().get_command(ctx, cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if args and args[0] in self.lines:
            name = args[0]
            module = importlib.import_module(f".{self.modules.get(name, name)}", __package__)
            command = typer.main.get_command(module.app)
            if isinstance(command, TyperGroup):  # a group of its own, or a module of several
                command = command.commands.get(name, command)
            self.add_command(command, name)
        return super().resolve_command(ctx, args)


class CommandGroup(LazyGroup):
    """All commands. Turns their errors into one line and an exit code."""

    lines = COMMANDS
    modules: ClassVar[Mapping[str, str]] = {"import": "import_"}  # a keyword cannot name a module

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            stored = (
                "interrupted; what was scored and decided is stored: the same command continues"
            )
            typer.echo(str(interrupt) or stored, err=True)
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
    lines = [line.strip() for line in redact(message).splitlines() if line.strip()]
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


def _say_traceback(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    sys.stderr.write(traceback_text(error))


def main() -> None:
    """The entry point of `mpo` and `python -m mpo`."""
    gc.set_threshold(*GC_THRESHOLD)
    # A board shows what a library's log lines say; a command that wants them sets up a handler.
    logging.getLogger((__package__ or "").partition(".")[0]).addHandler(logging.NullHandler())
    sys.excepthook = _say_traceback
    for argument in sys.argv[1:]:
        secret = find_secret(argument.partition("=")[2] or argument) or find_secret(argument)
        if secret is not None:
            _fail(
                f"an argument holds {secret[1]}: everybody on this machine can read it, and the "
                "shell remembers it. Put it into an environment variable, and name the variable "
                "(--api-key-env, or api_key_env in a config)"
            )
    _show_warnings()
    app(prog_name="mpo")


def _show_warnings() -> None:
    """Print the warnings that no board shows: a field that an endpoint refused, a prompt that it
    cut, a server that is slow, rows that were left out."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.addFilter(redact_record)
    handler.setFormatter(logging.Formatter("warning: %(message)s"))
    handler.addFilter(lambda _: not logging.root.handlers)  # `serve` has a log of its own
    package = (__package__ or "").partition(".")[0]
    for part in ("chat", "config.data"):
        logging.getLogger(f"{package}.{part}").addHandler(handler)
