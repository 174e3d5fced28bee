"""Arms: what each starts with, and what is refused where a task has no such rubric."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from cli.conftest import Mpo
from mpo.cli.compare import given_rubrics
from mpo.config import ARMS, arm_rubric, check, load_config, read_rubric_file
from mpo.errors import ConfigError
from mpo.evolve.lint import has_errors, lint
from mpo.task import BUILTIN, load_task

WRITTEN = """# Mine
## Point  (weight 1)
Does the text make a point?
- 0: no
- 5: yes
"""


def test_the_seven_arms() -> None:
    assert list(ARMS) == ["base", "fixed", "expert", "oracle", "autoprompt", "blind", "mpo"]
    assert [name for name, arm in ARMS.items() if not arm.trains] == ["base"]
    assert all(arm.summary for arm in ARMS.values())


@pytest.mark.parametrize(("arm", "criteria"), [("expert", 5), ("oracle", 3)])
def test_essays_have_rubrics_of_their_own_for_them(arm: str, criteria: int) -> None:
    config = load_config("sandbox/essay", [f"arm={arm}"])
    rubric = check(config).rubric
    assert rubric is not None
    assert len(rubric.criteria) == criteria
    assert not has_errors(lint(rubric, task=load_task("essay")))


@pytest.mark.parametrize("arm", ["base", "fixed", "blind", "mpo"])
def test_the_others_start_from_the_tasks_rubric_or_the_configs(arm: str, tmp_path: Path) -> None:
    task = load_task("essay")
    assert arm_rubric(arm, task, None) is None
    assert arm_rubric(arm, task, "mine.md") == Path("mine.md")
    (tmp_path / "mine.md").write_text(WRITTEN)
    config = load_config("sandbox/essay", [f"arm={arm}", f"rubric={tmp_path / 'mine.md'}"])
    assert check(config).rubric == read_rubric_file(tmp_path / "mine.md")


def test_an_arm_with_a_rubric_of_its_own_takes_no_other() -> None:
    path = arm_rubric("expert", load_task("essay"), None)
    assert path == BUILTIN / "essay" / "rubrics" / "expert.md"
    with pytest.raises(ConfigError, match=r"rubric=mine\.md would not be used.*arm=fixed"):
        arm_rubric("expert", load_task("essay"), "mine.md")


@pytest.mark.parametrize("task", ["summarization", "ethics", "math"])
@pytest.mark.parametrize("arm", ["expert", "oracle"])
def test_a_task_without_such_a_rubric_is_refused(task: str, arm: str) -> None:
    with pytest.raises(ConfigError, match=rf"arm '{arm}': task '{task}' has no such rubric"):
        arm_rubric(arm, load_task(task), None)


def test_the_refusal_says_what_there_is(tmp_path: Path) -> None:
    shutil.copytree(BUILTIN / "essay", tmp_path / "essay")
    (tmp_path / "essay" / "rubrics" / "expert.md").unlink()
    with pytest.raises(ConfigError, match="there is oracle"):
        arm_rubric("expert", load_task(tmp_path / "essay"), None)


def test_autoprompt_takes_a_file_or_the_tasks_and_says_so_without(tmp_path: Path) -> None:
    shutil.copytree(BUILTIN / "essay", tmp_path / "essay")
    task = load_task(tmp_path / "essay")
    with pytest.raises(ConfigError, match="give its file as rubric=FILE"):
        arm_rubric("autoprompt", task, None)
    assert arm_rubric("autoprompt", task, "mine.md") == Path("mine.md")
    mine = tmp_path / "essay" / "rubrics" / "autoprompt.md"
    mine.write_text(WRITTEN)
    assert arm_rubric("autoprompt", task, None) == mine


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arms", "fixed,autoprompt"], "arm 'autoprompt' runs with a rubric"),
        (["--arms", "autoprompt", "rubric=gone.md"], "rubric 'gone.md': no such file"),
        (["--arms", "mpo,expert", "task=ethics"], "task 'ethics' has no such rubric"),
    ],
)
def test_compare_refuses_before_anything_runs(
    tmp_path: Path, arguments: list[str], words: str
) -> None:
    run = Mpo(tmp_path)
    if "task=ethics" in arguments:  # its rows must be there for the arm to be the first fault
        rows = (BUILTIN / "ethics" / "sample.jsonl").read_text("utf-8")
        arguments = [*arguments, f"data.path={run.write('rows.jsonl', rows)}"]
    assert words in run.refused("compare", "sandbox/essay", *arguments)
    assert not list(run.folder.glob("runs/**/mpo.db"))


def test_a_given_rubric_is_autoprompts_alone_where_it_is_compared() -> None:
    config = load_config("sandbox/essay", ["rubric=mine.md"])
    assert given_rubrics(config, ["fixed", "autoprompt", "mpo"]) == {
        "fixed": None,
        "autoprompt": "mine.md",
        "mpo": None,
    }
    assert given_rubrics(config, ["fixed", "mpo"]) == {"fixed": "mine.md", "mpo": "mine.md"}
