"""`mpo task new` and `mpo task cohorts` as a person runs them."""

from __future__ import annotations

import json

import pytest

from cli.conftest import Mpo

TOPICS = ("matrix determinant inverse", "sine cosine tangent angle", "vector dot product length")
ROWS = [
    {"type": kind, "problem": f"Find the {words} number {n}.", "solution": "1"}
    for kind in ("Algebra", "Geometry")
    for words in TOPICS
    for n in range(4)
]


def test_a_new_task_passes_the_check_and_is_never_overwritten(run: Mpo) -> None:
    written = run.ok("task", "new", "My-Task").splitlines()
    assert "My-Task/task.yaml" in written
    assert "My-Task/rubric.md" in written
    assert run.ok("task", "check", "My-Task").startswith("my_task: ok")
    assert "nothing is overwritten" in run.refused("task", "new", "My-Task")


def test_cohorts_are_saved_beside_the_data(run: Mpo) -> None:
    pytest.importorskip("sklearn")
    data = run.write("train.jsonl", ROWS)
    arguments = ("task", "cohorts", data, "--task", "math", "--method", "tfidf")
    out = json.loads(run.ok(*arguments, "--json"))
    assert out["column"] == "type"
    assert out["cohorts"] == {f"{k}-{n}": 4 for k in ("algebra", "geometry") for n in (1, 2, 3)}
    assert (run.folder / "train.cohorts.json").is_file()


def test_without_clusters_the_column_alone_counts(run: Mpo) -> None:
    data = run.write("train.jsonl", [{**row, "prompt": row["problem"]} for row in ROWS])
    arguments = ("task", "cohorts", data, "--task", "essay")
    assert "give --column" in run.refused(*arguments)
    shown = run.ok(*arguments, "--column", "type", "--clusters", "1")
    assert "12  algebra\n" in shown
    assert "2 cohorts of 24 rows by 'type'" in shown
    assert "this row has" in run.refused(*arguments, "--column", "tpye")
