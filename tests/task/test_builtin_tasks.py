"""The tasks that ship: they load, have rows of their own, and lead through the whole loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fakes import judge_reply, make_reward, meta_reply
from mpo.chat import Message, Schema, ScriptedChat
from mpo.errors import TaskError
from mpo.records import Rollout
from mpo.task import builtin_tasks, check_task, load_task
from mpo.task.answers import final_answer, same_answer
from mpo.task.template import write_task_template
from mpo.task.verdicts import read_verdict

TASKS = ("essay", "ethics", "generic", "math", "summarization")


def rows_of(name: str) -> list[dict[str, Any]]:
    text = load_task(name).sample.read_text("utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_papers_four_and_one_for_any_file() -> None:
    assert builtin_tasks() == TASKS


@pytest.mark.parametrize("name", TASKS)
class TestEach:
    def test_its_rows_fill_its_prompt_and_say_where_they_come_from(self, name: str) -> None:
        task, rows = load_task(name), rows_of(name)
        assert 20 <= len(rows) <= 25
        prompts = [task.policy_prompt(row) for row in rows]
        assert len(dict.fromkeys(prompts)) == len(rows)
        for row in rows:
            assert row["source"] == "written for mpo"
            assert all(column in row for column in task.spec.columns)
            assert all(column in row for column in ("source", task.spec.dataset.prompt_column))

    def test_its_seed_rubric_is_one_criterion_from_0_to_5(self, name: str) -> None:
        (criterion,) = load_task(name).rubric.criteria
        assert criterion.scores == (0, 1, 2, 3, 4, 5)
        assert load_task(name).seed.notes == ()

    def test_no_prompt_is_a_copy_of_another_tasks(self, name: str) -> None:
        own = {kind: prompt.sections for kind, prompt in load_task(name).prompts.items()}
        for other in TASKS:
            if other != name:
                for kind, prompt in load_task(other).prompts.items():
                    if not (load_task(other).folder / "prompts" / f"{kind}.md").exists():
                        continue  # the package's own, for all tasks
                    assert own.get(kind) != prompt.sections, f"{kind} of {name} and {other}"

    def test_the_loop_runs_on_its_rows(self, name: str, tmp_path: Path) -> None:
        task = load_task(name)
        chat = ScriptedChat(_answer)
        reward = make_reward(
            task,
            chat,
            tmp_path / "a.db",
            every=1,
            samples=4,
            analysis="joint" if name == "math" else "per_case",
        )
        rollouts = [
            Rollout(prompt=task.policy_prompt(row), completion=_completion(n), columns=row)
            for n, row in enumerate(rows_of(name)[:8])
        ]

        async def both() -> Any:
            judgements = await reward.score(rollouts)
            return judgements, await reward.step(1)

        judgements, decision = asyncio.run(both())
        assert all(j.reward is not None and j.rule is None for j in judgements)
        assert decision.accepted
        assert reward.rubric() != task.rubric
        for column in task.spec.dataset.hidden_columns:
            for row in rows_of(name)[:8]:
                gold = row.get(column)
                if isinstance(gold, str) and len(gold) > 20:
                    assert not any(gold in call.prompt for call in chat.calls)


def _completion(n: int) -> str:
    words = " ".join(f"word{i}" for i in range(40))
    return f"Text {n}. {words} <verdict>RIGHT</verdict>"


def _answer(messages: Sequence[Message], schema: Schema | None, seed: int | None) -> str:
    if schema is None:
        return "A plan, or what came of it."
    title = schema["title"]
    if title == "judgement":
        return judge_reply(messages, schema)
    if title == "score":
        return '{"score": 2}'
    if title == "guidelines":
        return '{"reasons": "because", "guidelines": "Look at every step."}'
    return meta_reply(messages, schema)


def test_the_answers_of_the_math_rows_are_themselves() -> None:
    pytest.importorskip("math_verify")
    for row in rows_of("math"):
        answer = final_answer(row["solution"])
        assert answer is not None
        assert same_answer(answer, answer)


def test_the_bills_are_short_enough() -> None:
    task = load_task("summarization")
    assert task.spec.dataset.max_prompt_tokens == 4000
    assert all(len(task.policy_prompt(row).split()) < 400 for row in rows_of("summarization"))


class TestVerdicts:
    @pytest.mark.parametrize(
        ("text", "loose", "verdict"),
        [
            ("<verdict>RIGHT</verdict>", False, "RIGHT"),
            ("<verdict>RIGHT</verdict> no: <verdict> wrong </verdict>", False, "WRONG"),
            ("I say WRONG.", False, None),
            ("First RIGHT, then WRONG.", True, "WRONG"),
            ("all right", True, None),
            ("<verdict>RIGHT</verdict> though some say WRONG", True, "RIGHT"),
            ("<verdict>MAYBE</verdict>", False, None),
        ],
    )
    def test_the_last_tag_counts(self, text: str, loose: bool, verdict: str | None) -> None:
        assert read_verdict(text, loose=loose) == verdict

    def test_the_labels_of_the_rows_can_be_compared(self) -> None:
        labels = [row["binarized_label"] for row in rows_of("ethics")]
        assert sorted(dict.fromkeys(labels)) == ["RIGHT", "WRONG"]
        assert 7 <= labels.count("RIGHT") <= 13


class TestTemplate:
    def test_a_new_task_passes_the_check_as_it_is(self, tmp_path: Path) -> None:
        folder = tmp_path / "My Task-2"
        files = write_task_template(folder)
        task, faults = check_task(folder)
        assert (faults, task and task.name) == ([], "my_task_2")
        assert {f.name for f in files} > {"task.yaml", "rubric.md", "rm.md", "sample.jsonl"}
        comments = (folder / "task.yaml").read_text("utf-8").count("#")
        assert comments > 30

    def test_every_key_is_explained(self, tmp_path: Path) -> None:
        from mpo.task import CohortSpec, DatasetSpec, ResponseSpec, RMSpec, TaskSpec

        write_task_template(tmp_path / "t")
        text = (tmp_path / "t/task.yaml").read_text("utf-8")
        for part in (TaskSpec, DatasetSpec, ResponseSpec, RMSpec, CohortSpec):
            assert all(f"{key}:" in text for key in part.model_fields)

    def test_nothing_is_overwritten(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(TaskError, match="is not empty"):
            write_task_template(tmp_path)
