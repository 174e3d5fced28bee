"""What every command has: help with an example, exit codes, a quick start."""

from __future__ import annotations

import re
import sys

import pytest

from cli.conftest import Mpo
from mpo import __version__
from mpo.cli.group import COMMANDS

SUBCOMMANDS = ["rubric show", "rubric diff", "task check", "config new", "config keys"]
SUBCOMMANDS += ["evaluate judge", "evaluate rank"]
CALL_A_MODEL = {"score", "evolve", "replay", "evaluate judge", "evaluate rank"}
"""Commands that call a model without a config; the others take keys such as `chat.timeout_s`."""


def test_version_and_help(run: Mpo) -> None:
    assert run.ok("--version") == f"mpo {__version__}\n"
    shown = run.ok("--help")
    for name, line in COMMANDS.items():
        assert name in shown
        assert line in shown


ALL_HELP = """
import sys
from mpo.cli.group import app
for command in sys.argv[1:]:
    print("=====", command)
    try:
        app([*command.split(), "--help"], prog_name="mpo")
    except SystemExit as end:
        assert end.code == 0
"""


def test_every_help_has_an_example_and_the_line_of_the_list(run: Mpo) -> None:
    commands = [*COMMANDS, *SUBCOMMANDS]
    done = run(*commands, program=[sys.executable, "-c", ALL_HELP])  # one process for all
    shown = dict(part.split("\n", 1) for part in done.stdout.split("===== ")[1:] if part.strip())
    assert list(shown) == commands, done.stderr
    for command, text in shown.items():
        assert ("--chat-option KEY=VALUE" in text) == (command in CALL_A_MODEL), command
        if command in COMMANDS:
            assert COMMANDS[command] in " ".join(text.split())
        if command not in ("rubric", "task", "config"):  # groups: their commands have one
            assert re.search(rf"Examples?: mpo {command} ?", text), text


@pytest.mark.parametrize(
    "arguments",
    [["trian"], ["train"], ["train", "x", "--nmae", "y"], ["compare", "x", "--seeds", "none"]],
)
def test_a_wrong_command_line_is_exit_code_2(run: Mpo, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", ["../elsewhere", "/abs"])
def test_a_run_stays_inside_its_folder(run: Mpo, name: str) -> None:
    done = run("train", "sandbox/essay", "--name", name)
    assert done.returncode == 2
    assert not (run.folder / "runs").exists()
