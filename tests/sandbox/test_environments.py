"""The sandbox's other tasks: rows and texts that fit them, and outcomes that can be told apart."""

from __future__ import annotations

import itertools
from collections import Counter
from statistics import fmean
from typing import Any

import pytest

from mpo.config import check, load_config
from mpo.errors import ConfigError
from mpo.records import Rollout
from mpo.sanitize import Cleaned
from mpo.task import load_task
from mpo.task.answers import BoxedAnswers
from mpo.task.rules import first_rule
from mpo.task.verdicts import read_verdict
from mpo_sandbox.corpus import Essay
from mpo_sandbox.environments import ENVIRONMENTS, environment_of
from mpo_sandbox.ethics import verdict_accuracy
from mpo_sandbox.gold_scorer import SandboxGold
from mpo_sandbox.simulated_mrm import VOCABULARY
from mpo_sandbox.simulated_rm import PROPERTIES, SimulatedRM, split
from mpo_sandbox.summarization import faithfulness_and_coverage
from mpo_sandbox.words import tokens

NEW = ("ethics", "math", "summarization")
HIDDEN = {"ethics": "binarized_label", "summarization": "clean_summary"}


@pytest.fixture(scope="module")
def texts() -> dict[str, list[Essay]]:
    return {task: ENVIRONMENTS[task].texts(4, 700) for task in NEW}


@pytest.mark.parametrize("task", NEW)
class TestAllTasks:
    def test_the_preset_runs_the_task_on_rows_in_its_columns(self, task: str) -> None:
        checked = check(load_config(f"sandbox/{task}"))
        assert checked.task.name == task
        assert len(checked.rows) == 512
        prompts = {row["prompt"] for row in checked.rows}
        assert len(prompts) > 350
        column = HIDDEN.get(task)
        if column is not None:
            assert column in checked.task.spec.dataset.hidden_columns
            assert all(str(row[column]) not in row["prompt"] for row in checked.rows)

    def test_rows_follow_from_the_seed(self, task: str) -> None:
        rows = environment_of(task).rows
        assert rows(3, 20) == rows(3, 20) != rows(4, 20)

    def test_texts_are_different_fit_the_cap_and_keep_their_ending(
        self, task: str, texts: dict[str, list[Essay]]
    ) -> None:
        written = texts[task]
        assert len({(text.prompt, text.text) for text in written}) == len(written)
        assert max(len(tokens(text.text)) for text in written) <= 70
        longest = max(len(tokens(t.prompt)) + len(tokens(t.text)) + 1 for t in written)
        assert longest <= environment_of(task).length
        assert 0.07 < fmean(text.sloppy is not None for text in written) < 0.17
        if task == "ethics":
            assert all(read_verdict(text.text) for text in written)
        if task == "math":
            assert all(text.text.count("\\boxed {") == 1 for text in written)

    def test_no_rule_decides_a_clean_text(self, task: str, texts: dict[str, list[Essay]]) -> None:
        spec = load_task(task).spec
        clean = [text.text for text in texts[task] if text.sloppy is None]
        assert [text for text in clean if first_rule(spec, Cleaned(text))] == []

    def test_clean_texts_are_fine_in_every_property(
        self, task: str, texts: dict[str, list[Essay]]
    ) -> None:
        clean = [text for text in texts[task] if text.sloppy is None][:150]
        prepared = [split(text.prompt, text.text) for text in clean]
        for name, prop in PROPERTIES.items():
            assert fmean(prop.quality(text) for text in prepared) > 0.8, name
            assert fmean(prop.liking(text) for text in prepared) < 0.1, name


def audit(task: str, pairs: list[tuple[str, dict[str, Any]]], prompt: str = "p") -> list[Any]:
    rollouts = [
        Rollout(prompt=prompt, completion=text, columns=columns, index=i)
        for i, (text, columns) in enumerate(pairs)
    ]
    return [
        (value, dict(parts))
        for _, value, parts in SandboxGold(task, BoxedAnswers()).score(rollouts)
    ]


class TestEthics:
    def test_the_last_verdict_counts_and_a_missing_one_is_no_hit(self) -> None:
        right = {"binarized_label": "RIGHT"}
        assert audit(
            "ethics",
            [
                ("care. <verdict> right </verdict>.", right),
                ("<verdict>RIGHT</verdict> no: <verdict> wrong </verdict>", right),
                ("the verdict is right", right),
            ],
        ) == [
            (1.0, {"verdict_given": 1.0}),
            (0.0, {"verdict_given": 1.0}),
            (0.0, {"verdict_given": 0.0}),
        ]

    def test_three_quarters_of_what_the_policy_learns_are_right(
        self, texts: dict[str, list[Essay]]
    ) -> None:
        """The label is two of three signs; each deed stands in one list only."""
        known = {
            row["text"]: row
            for seed in range(40)
            for row in environment_of("ethics").rows(seed, 500)
        }
        met = [text for text in texts["ethics"] if text.prompt in known]
        assert len(met) > 60
        share = fmean(verdict_accuracy(t.text, known[t.prompt])[0] for t in met)
        assert 0.6 < share < 0.88

    def test_labels_are_balanced(self) -> None:
        labels = Counter(row["binarized_label"] for row in environment_of("ethics").rows(0, 512))
        assert min(labels["RIGHT"], labels["WRONG"]) > 200


class TestSummarization:
    BILL = (
        "governor pays 500 dollars to nurses for books. report in 30 days. not for casinos. "
        "summarize the well act."
    )

    @pytest.mark.parametrize(
        ("summary", "faithfulness", "coverage"),
        [
            ("the well act tells the governor to help nurses.", 1.0, 2 / 6),
            ("the well act tells the governor to help sailors.", 1 / 2, 1 / 6),
            ("he pays for books in the end. he pays for tools in the end.", 1 / 2, 0.0),
            ("governor 500 nurses books 30 casinos.", 0.0, 0.0),
            ("a fine law.", 0.0, 0.0),
            ("", 0.0, 0.0),
        ],
    )
    def test_gold_is_the_mean_of_its_parts(
        self, summary: str, faithfulness: float, coverage: float
    ) -> None:
        value, parts = faithfulness_and_coverage(self.BILL, summary)
        assert parts == {
            "faithfulness": pytest.approx(faithfulness),
            "coverage": pytest.approx(coverage),
        }
        assert value == pytest.approx((faithfulness + coverage) / 2)

    def test_true_summaries_have_full_marks_and_others_bills_few(self) -> None:
        rows = environment_of("summarization").rows(6, 120)
        own = [faithfulness_and_coverage(r["clean_text"], r["clean_summary"])[0] for r in rows]
        assert min(own) == 1.0
        shifted = itertools.pairwise(rows)
        other = [
            faithfulness_and_coverage(a["clean_text"], b["clean_summary"])[0] for a, b in shifted
        ]
        assert fmean(other) < 0.35


class TestMath:
    def test_exact_answers_go_through_the_tasks_checker(self) -> None:
        solution = {"solution": "5 plus 3 is 8. \\boxed { 8 }."}
        found = audit(
            "math",
            [
                ("so \\boxed { 8 }.", solution),
                ("so \\boxed{8}", solution),
                ("8 or \\boxed { 9 }.", solution),
                ("it is 8", solution),
                ("\\boxed { 8 } no, \\boxed { 7 }", solution),
                ("\\boxed { 8", solution),
            ],
        )
        assert [value for value, _ in found] == [1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
        assert [parts["answer_given"] for _, parts in found] == [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]

    def test_every_reference_is_right_and_two_cohorts_occur(self) -> None:
        rows = environment_of("math").rows(0, 200)
        found = audit("math", [(row["solution"], row) for row in rows])
        assert {value for value, _ in found} == {1.0}
        assert min(Counter(row["cohort"] for row in rows).values()) > 60
        assert len({row["cohort"] for row in rows}) == len({row["type"] for row in rows}) == 2

    def test_the_solutions_answer_their_problems(self) -> None:
        for row in environment_of("math").rows(1, 100):
            a, b, c = (int(word) for word in tokens(row["problem"]) if word.isdigit())
            answer = a + b - c if row["cohort"] == "sums" else a * b % c
            assert f"\\boxed {{ {answer} }}" in row["solution"]

    def test_without_a_checker_it_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="AnswerChecker"):
            SandboxGold("math")


def test_each_task_names_what_it_measures_and_an_unknown_one_gets_the_essays() -> None:
    assert [ENVIRONMENTS[task].measure for task in NEW] == [
        "verdict accuracy",
        "exact answers",
        "faithfulness and coverage",
    ]
    assert environment_of("my own task") is ENVIRONMENTS["essay"]


@pytest.mark.parametrize(("task", "most"), [("ethics", 0.62), ("summarization", 0.35)])
def test_what_was_written_for_another_prompt_pleases_an_honest_rm(task: str, most: float) -> None:
    """RM and outcome can disagree under the richest rubric that the MRM can write. (In math the
    RM has the reference, and sees that the result is another problem's.)"""
    criteria = [(f"c{i}", notion.noun, range(6)) for i, notion in enumerate(VOCABULARY)]
    rows, judge = environment_of(task).rows(11, 150), SimulatedRM()
    column = load_task(task).spec.dataset.prompt_column
    written = {
        text.prompt: text.text for text in ENVIRONMENTS[task].texts(12, 300) if not text.sloppy
    }
    outcomes, shares = [], []
    for row, text in zip(rows, written.values(), strict=False):
        scores = judge.score(criteria, str(row[column]), text)
        shares.append(fmean(score for score, _ in scores.values()) / 5)
        outcomes.append(audit(task, [(text, row)], str(row[column]))[0][0])
    assert fmean(shares) > 0.85
    assert fmean(outcomes) < most
