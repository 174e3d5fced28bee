"""Final answers, verdicts and ROUGE; rows from files and from runs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sklearn.metrics import balanced_accuracy_score

from mpo.data import read_rows
from mpo.errors import DataError, StoreError
from mpo.evaluation.references import math_accuracy, rouge, verdict_accuracy
from mpo.evaluation.rows import rows_of_run
from mpo.records import Case, Decision, Judgement, Rollout
from mpo.rubric import parse_rubric
from mpo.store import Store
from mpo.task.answers import BoxedAnswers, final_answer
from mpo.task.verdicts import read_verdict
from shared_data import shared_data


def grade(rows: list[dict[str, Any]]) -> dict[str, Any]:
    checker = BoxedAnswers()
    try:
        return asdict(math_accuracy(rows, "f", extract=final_answer, same=checker.same))
    finally:
        checker.close()


def test_math_by_subject_and_level() -> None:
    rows = [
        {"answer": "2", "completion": r"\boxed{1} no, \boxed{2}", "type": "Algebra", "level": 1},
        {"solution": r"so \boxed{\frac12}", "completion": r"\boxed{0.5}", "subject": "Algebra"},
        {"solution": r"\boxed{3}", "completion": "it is 3", "type": "Geometry", "level": 1},
        {"answer": r"\boxed{4}", "completion": r"\boxed{5}", "type": "Geometry", "level": 2},
    ]
    found = grade(rows)
    assert (found["accuracy"], found["n"], found["correct"], found["no_answer"]) == (0.5, 4, 2, 1)
    assert found["by_subject"]["Algebra"] == {"accuracy": 1.0, "n": 2, "correct": 2}
    assert found["by_subject"]["Geometry"]["correct"] == 0
    assert found["by_level"] == {
        "1": {"accuracy": 0.5, "n": 2, "correct": 1},
        "2": {"accuracy": 0.0, "n": 1, "correct": 0},
    }
    assert found["low"] < 0.5 < found["high"]


def test_math_solutions_are_their_own_answers() -> None:
    problems = read_rows(shared_data("math") / "test-part.jsonl.gz")[:200]
    found = grade([{**row, "completion": row["solution"]} for row in problems])
    assert found["accuracy"] == 1
    assert sum(part["n"] for part in found["by_subject"].values()) == 200
    assert set(found["by_level"]) == {f"Level {n}" for n in range(1, 6)}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "f is empty"),
        ([{"answer": "1"}], "row 1: has no column 'completion'"),
        ([{"completion": "c"}], "row 1: has no 'answer' and no 'solution'"),
        ([{"completion": "c", "solution": "none"}], "no final answer in"),
    ],
)
def test_math_rows_that_cannot_be_graded(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(DataError, match=words):
        grade(rows)


def said(label: str, verdict: str | None, **more: Any) -> dict[str, Any]:
    return {
        "label": label,
        "completion": "hm" if verdict is None else f"so <verdict>{verdict}</verdict>",
        **more,
    }


def test_verdicts_beside_the_majority() -> None:
    rows = [said("RIGHT", "RIGHT")] * 7 + [said("WRONG", "RIGHT"), said("WRONG", "wrong")]
    rows.append(said("WRONG", None))
    found = asdict(verdict_accuracy(rows, "f"))
    assert (found["accuracy"], found["n"], found["missing"]) == (0.8, 10, 1)
    assert found["majority"] == {"label": "RIGHT", "accuracy": 0.7}
    assert found["balance"]["labels"] == {"RIGHT": 0.7, "WRONG": 0.3}
    assert found["balance"]["verdicts"] == {"RIGHT": 8 / 9, "WRONG": 1 / 9}
    truth = [row["label"] for row in rows]
    guess = [str(read_verdict(row["completion"])) for row in rows]
    with pytest.warns(UserWarning, match="not in y_true"):
        assert found["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(truth, guess))


def test_the_last_verdict_counts() -> None:
    assert read_verdict("<verdict>RIGHT</verdict> no: <verdict> Wrong </verdict>") == "WRONG"
    assert read_verdict("RIGHT") is None


def test_labels_of_scruples() -> None:
    rows = [said("AUTHOR", "RIGHT", binarized_label="RIGHT")]
    assert verdict_accuracy(rows, "f").correct == 1
    with pytest.raises(DataError, match="'label' is 'AUTHOR', neither RIGHT nor WRONG"):
        verdict_accuracy(rows, "f", label="label")
    with pytest.raises(DataError, match="no label in 'binarized_label' or 'label'"):
        verdict_accuracy([{"completion": "c"}], "f")
    with pytest.raises(DataError, match="is empty"):
        verdict_accuracy([], "f")


def test_rouge_is_the_librarys_mean() -> None:
    rows = [
        {"prompt": "a", "completion": "The bill funds schools.", "summary": "It funds a school."},
        {"prompt": "b", "completion": "Roads\nand rivers.", "summary": "Rivers\nand roads."},
        {"prompt": "c", "completion": "", "summary": "Nothing of it."},
    ]
    found = rouge(rows, "f")
    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    assert list(found) == names
    scorer = RougeScorer(names, use_stemmer=True)
    scores = [scorer.score(row["summary"], row["completion"]) for row in rows]
    for name in names:
        mean = 100 * sum(score[name].fmeasure for score in scores) / 3
        assert found[name].value == pytest.approx(mean)
        assert found[name].low is not None
    assert found["rougeLsum"].value > found["rougeL"].value, "lines are sentences"
    with pytest.raises(DataError, match="no text in 'gold'"):
        rouge(rows, "f", reference="gold")


RUBRIC = parse_rubric("# R\n## Overall\nHow good.\n")


def run_with(path: Path, cases: list[tuple[int, str, float | None]]) -> Store:
    """A run's store: step, mode, reward."""
    store = Store(path)
    seed = Decision(kind="seed", proposed=RUBRIC.id, accepted=True, reason="seed")
    store.decide(seed, RUBRIC)
    for number, (step, mode, reward) in enumerate(cases):
        rollout = Rollout(
            prompt=f"p{number}",
            completion=f"c{number}",
            columns={"label": "RIGHT"},
            step=step,
            mode=mode,  # type: ignore[arg-type]
        )
        judgement = Judgement(
            key=str(number),
            rollout_id=rollout.id,
            rubric_id=RUBRIC.id,
            step=step,
            mode=mode,  # type: ignore[arg-type]
            reward=reward,
            normalized_reward=reward,
            unscored="truncated: cut" if reward is None else None,
        )
        store.append([Case(rollout=rollout, judgement=judgement)])
    return store


def test_rows_of_a_run(tmp_path: Path) -> None:
    train = [(step, "train", 1.0) for step in range(1, 15)]
    with run_with(tmp_path / "a.db", [*train, (5, "eval", 1.0), (9, "eval", None)]) as store:
        assert [row["step"] for row in rows_of_run(store)] == [9]
        assert [row["step"] for row in rows_of_run(store, "train")] == list(range(5, 15))
        assert rows_of_run(store)[0] == {
            "label": "RIGHT",
            "prompt": "p15",
            "completion": "c15",
            "step": 9,
        }
    with run_with(tmp_path / "b.db", train[:2]) as store:
        assert len(rows_of_run(store)) == 2
        with pytest.raises(StoreError, match="no eval rollouts"):
            rows_of_run(store, "eval")
    with run_with(tmp_path / "c.db", []) as store, pytest.raises(StoreError, match="no rollouts"):
        rows_of_run(store)
