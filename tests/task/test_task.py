"""Task folders: what is wrong is said with file and line, and templates are filled in one pass."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mpo.errors import ConfigError, DataError, TaskError, TemplateError
from mpo.rubric import Criterion, Rubric
from mpo.task import (
    BUILTIN,
    PROMPTS,
    PROTOCOL_PROMPTS,
    Task,
    builtin_tasks,
    check_task,
    fill,
    load_task,
    placeholders,
    read_prompt,
)

LOCATED = re.compile(r"^(.+?):(\d+): ")


def copy_of(name: str, where: Path) -> Path:
    return Path(shutil.copytree(BUILTIN / name, where / "task"))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text("utf-8")
    assert text.count(old) >= 1, f"{old!r} is not in {path}"
    path.write_text(text.replace(old, new, 1), "utf-8")


def line_of(path: Path, words: str) -> int:
    lines = path.read_text("utf-8").split("\n")
    return next(n for n, line in enumerate(lines, 1) if words in line)


class TestFill:
    def test_a_value_cannot_bring_in_a_placeholder(self) -> None:
        values = {"response": "{{rubric}} {{ format }}", "rubric": "secret", "format": "f"}
        filled = fill("{{response}} | {{rubric}}", values, "here")
        assert filled == "{{rubric}} {{ format }} | secret"

    def test_a_missing_value_is_named_with_what_is_known(self) -> None:
        with pytest.raises(TemplateError, match="here: no value for placeholder 'b'; known: a, c"):
            fill("{{a}} {{b}}", {"a": "1", "c": "2"}, "here")

    def test_placeholders_come_once_in_order(self) -> None:
        assert placeholders("{{b}} {{ a }} {{b}} {single} {{}}") == ("b", "a", "")

    def test_braces_of_latex_are_no_placeholder(self) -> None:
        assert fill(r"\frac{a}{b} \boxed{}", {}, "here") == r"\frac{a}{b} \boxed{}"


class TestReadPrompt:
    GOOD = "# System\nYou grade. {{task}}\n\n# User\n{{rubric}}\n{{prompt}}\n{{response}}\n"

    def test_sections_become_messages(self) -> None:
        prompt = read_prompt("rm", self.GOOD, "rm.md")
        values = {name: name.upper() for name in ("task", "rubric", "prompt", "response")}
        assert prompt.messages(values) == [
            {"role": "system", "content": "You grade. TASK"},
            {"role": "user", "content": "RUBRIC\nPROMPT\nRESPONSE"},
        ]

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("{{response}}", "", r"rm.md:4: placeholder 'response' is missing: add \{\{response"),
            ("{{prompt}}", "{{prompt}} {{respones}}", "rm.md:6: unknown placeholder 'respones'"),
            ("# User", "# user", "rm.md:1: a prompt file starts with"),
            ("# System", "Hello\n# System", "rm.md:1: a prompt file starts with"),
        ],
    )
    def test_faults_are_named_with_their_line(self, old: str, new: str, message: str) -> None:
        with pytest.raises(TemplateError, match=message):
            read_prompt("rm", self.GOOD.replace(old, new), "rm.md")

    def test_the_hash_follows_the_wording_alone(self) -> None:
        first = read_prompt("rm", self.GOOD, "rm.md")
        assert first.hash == read_prompt("rm", self.GOOD + "\n\n", "other.md").hash
        assert first.hash != read_prompt("rm", self.GOOD.replace("grade", "rate"), "rm.md").hash

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("# User\n{{prompt}} {{response}} {{criterion}} {{format}}\n", "three '# User'"),
            (
                "# User\n{{prompt}} {{response}}\n# User\n{{format}}\n# User\n{{criterion}}\n",
                "d.md:3: placeholder 'criterion' is missing in the rationale turn",
            ),
            (
                "# System\n{{criterion}}\n# User\n{{prompt}} {{response}}\n"
                "# User\n{{criterion}}\n# User\n{{format}}\n",
                "not before them",
            ),
        ],
    )
    def test_a_dialogue_has_three_turns(self, text: str, message: str) -> None:
        with pytest.raises(TemplateError, match=message):
            read_prompt("dialogue", text, "d.md")


def broken_yaml(task: Path) -> int:
    edit(task / "task.yaml", "dataset:", "dataset: [")
    return 0


def unknown_key(task: Path) -> int:
    edit(task / "task.yaml", "  max_words:", "  max_wrods:")
    return line_of(task / "task.yaml", "max_wrods")


def wrong_value(task: Path) -> int:
    # `max_tokens` stands under `response` and under `rm`: the second is at fault.
    edit(task / "task.yaml", "  max_tokens: 1024", "  max_tokens: many")
    return line_of(task / "task.yaml", "many")


def doubled_key(task: Path) -> int:
    edit(task / "task.yaml", "\nrm:", "\nname: again\nrm:")
    return line_of(task / "task.yaml", "name: again")


def missing_name(task: Path) -> int:
    edit(task / "task.yaml", "name: ethics\n", "")
    return 0


def bad_rule_kind(task: Path) -> int:
    edit(task / "task.yaml", "kind: min_words", "kind: max_words")
    return line_of(task / "task.yaml", "kind: max_words")


def bad_pattern(task: Path) -> int:
    edit(task / "task.yaml", r"(RIGHT|WRONG)\s*</verdict>", "(RIGHT")
    return line_of(task / "task.yaml", "(RIGHT")


def hidden_in_prompt(task: Path) -> int:
    edit(task / "task.yaml", "{{title}}", "{{label}}")
    return line_of(task / "task.yaml", "prompt: |-")


def no_reference(task: Path) -> int:
    edit(task / "task.yaml", "protocol: single", "protocol: plan_execute")
    return line_of(task / "task.yaml", "protocol: plan_execute")


def chunks_of_a_dialogue(task: Path) -> int:
    edit(task / "task.yaml", "protocol: single", "protocol: dialogue\n  criteria_per_call: 3")
    return line_of(task / "task.yaml", "criteria_per_call")


def answers_of_nothing(task: Path) -> int:
    edit(task / "task.yaml", "protocol: single", "protocol: single\n  answer_check: per_rollout")
    return line_of(task / "task.yaml", "answer_check")


def bad_rubric(task: Path) -> int:
    edit(task / "rubric.md", "(weight 1)", "(weight -1)")
    return line_of(task / "rubric.md", "(weight -1)")


def no_criterion(task: Path) -> int:
    (task / "rubric.md").write_text("just prose\n")
    return 0


def unknown_placeholder(task: Path) -> int:
    edit(task / "prompts/refine.md", "{{analysis}}", "{{analysis}} {{analyses}}")
    return line_of(task / "prompts/refine.md", "{{analyses}}")


def missing_file(task: Path) -> int:
    (task / "prompts/merge.md").unlink()
    return 0


def no_text(task: Path) -> int:
    (task / "prompts/analyze.md").write_bytes(b"\xff\xfe\x00")
    return 0


def stray_reference(task: Path) -> int:
    edit(task / "prompts/rm.md", "{{response}}", "{{response}} {{reference}}")
    return 0


@pytest.mark.parametrize(
    "harm",
    [
        broken_yaml, unknown_key, wrong_value, doubled_key, missing_name, bad_rule_kind,
        bad_pattern, hidden_in_prompt, no_reference, chunks_of_a_dialogue, answers_of_nothing,
        bad_rubric, no_criterion, unknown_placeholder, missing_file, no_text, stray_reference,
    ],
    ids=lambda harm: harm.__name__,
)  # fmt: skip
def test_every_fault_is_said_with_file_and_line(
    tmp_path: Path, harm: Callable[[Path], int]
) -> None:
    folder = copy_of("ethics", tmp_path)
    line = harm(folder)
    _, faults = check_task(folder)
    assert faults
    places = [LOCATED.match(fault) for fault in faults]
    assert all(place and Path(place[1]).is_relative_to(folder) for place in places)
    if line:
        assert any(place and int(place[2]) == line for place in places), faults
    with pytest.raises(TaskError):
        load_task(folder)


def test_all_faults_come_at_once(tmp_path: Path) -> None:
    folder = copy_of("ethics", tmp_path)
    for harm in (unknown_key, bad_rubric, missing_file, unknown_placeholder):
        harm(folder)
    _, faults = check_task(folder)
    assert len(faults) == 4
    with pytest.raises(TaskError, match="(?s)max_wrods.*weight.*refine.md.*merge.md"):
        load_task(folder)


def test_a_task_needs_the_prompts_of_its_protocol_only(tmp_path: Path) -> None:
    folder = copy_of("essay", tmp_path)
    (folder / "prompts/rm.md").unlink()
    assert any("rm.md:1: missing" in fault for fault in check_task(folder)[1])
    edit(folder / "task.yaml", "protocol: single", "protocol: dialogue")
    assert check_task(folder)[1] == []
    # What is there is checked, also if the protocol does not use it.
    (folder / "prompts/plan.md").write_text("# User\nnothing\n")
    assert any("plan.md" in fault for fault in check_task(folder)[1])


def test_an_unknown_task_is_refused_with_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(
        TaskError, match="unknown task 'esay'.*essay, ethics, generic, math, summarization"
    ):
        load_task("esay")
    with pytest.raises(TaskError, match="unknown task"):
        load_task("_template")
    assert builtin_tasks() == ("essay", "ethics", "generic", "math", "summarization")


class TestWithRM:
    def test_another_protocol_of_the_same_task(self) -> None:
        task = load_task("essay").with_rm(protocol="dialogue", temperature=0.02)
        assert (task.spec.rm.protocol, task.spec.rm.temperature) == ("dialogue", 0.02)
        assert load_task("essay").spec.rm.protocol == "single"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"protocol": "votes"}, "rm.protocol: "),
            ({"protocol": "plan_execute"}, "plan_execute needs dataset.reference_column"),
            ({"answer_check": "per_batch"}, "rm.answer_check: needs dataset.answer_column"),
            ({"max_token": 3}, "rm.max_token: "),
        ],
    )
    def test_what_cannot_be_is_refused(self, changes: dict[str, object], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            load_task("essay").with_rm(**changes)

    def test_a_missing_prompt_is_named(self) -> None:
        with pytest.raises(ConfigError, match=r"protocol single needs .*rm\.md"):
            load_task("math").with_rm(protocol="single")


def test_guidelines_are_one_criterion() -> None:
    several = Rubric(criteria=(Criterion(name="a"), Criterion(name="b")))
    load_task("essay").check_rubric(several)
    with pytest.raises(ConfigError, match="plan_execute takes guidelines.*not 2"):
        load_task("math").check_rubric(several)


class TestColumns:
    def task(self) -> Task:
        return load_task("math")

    def test_the_columns_that_a_run_needs(self) -> None:
        assert self.task().spec.columns == ("problem", "solution", "type")
        assert load_task("summarization").spec.columns == ("clean_text",)

    def test_hidden_columns_cannot_get_into_the_prompt(self) -> None:
        task = load_task("ethics")
        row = {"title": "T", "text": "X", "label": "AUTHOR", "binarized_label": "WRONG"}
        assert "AUTHOR" not in task.policy_prompt(row)
        data = task.spec.dataset.model_copy(update={"hidden_columns": ("title",)})
        spec = task.spec.model_copy(update={"dataset": data})
        hidden = Task(task.folder, spec, task.seed, task.prompts)
        with pytest.raises(TemplateError, match="no value for placeholder 'title'"):
            hidden.policy_prompt(row)

    def test_a_missing_reference_is_an_error(self) -> None:
        with pytest.raises(DataError, match="needs column 'solution'.*has problem"):
            self.task().reference({"problem": "1+1"})
        assert self.task().reference({"solution": "2"}) == "2"
        assert load_task("essay").reference({"solution": "2"}) == ""


def test_every_protocol_has_its_contract() -> None:
    assert all(kind in PROMPTS for kinds in PROTOCOL_PROMPTS.values() for kind in kinds)
    for name in builtin_tasks():
        for prompt in load_task(name).prompts.values():
            assert prompt.sections[0][0] == "system"
