"""Cohorts: clusters that are saved beside the data, and rows that find their own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpo.errors import DataError
from mpo.task import load_task
from mpo.task.cohorts import Cohorts, cohorts_path

TOPICS = ("matrix determinant inverse", "sine cosine tangent angle", "vector dot product length")
ROWS = [
    {"type": kind, "problem": f"Find the {words} number {n}."}
    for kind in ("Algebra", "Counting & Probability")
    for words in TOPICS
    for n in range(5)
]


def build(**options: object) -> Cohorts:
    pytest.importorskip("sklearn")
    given: dict[str, object] = {"clusters": 3, "method": "tfidf", **options}
    return Cohorts.build(ROWS, column="type", text_column="problem", **given)  # type: ignore[arg-type]


def test_likes_come_together_within_their_subject() -> None:
    cohorts = build()
    assert len(cohorts.names) == 6
    assert cohorts.names[:3] == ("algebra-1", "algebra-2", "algebra-3")
    for kind in ("algebra", "counting_probability"):
        found = [cohorts.assign(row) for row in ROWS if cohorts.assign(row).startswith(kind)]
        assert len(found) == 15
        assert [found[n : n + 5] for n in (0, 5, 10)] == [[found[n]] * 5 for n in (0, 5, 10)]
        assert len(dict.fromkeys(found)) == 3


def test_the_file_is_enough_also_for_new_rows(tmp_path: Path) -> None:
    cohorts = build()
    path = tmp_path / "a.cohorts.json"
    cohorts.save(path)
    again = Cohorts.load(path)
    assert [again.assign(row) for row in ROWS] == [cohorts.assign(row) for row in ROWS]
    new = {"type": "Algebra", "problem": "What is the cosine of this angle?"}
    assert again.assign(new) == cohorts.assign(ROWS[5])
    assert (again.names, again.column, again.method) == (cohorts.names, "type", "tfidf")


def test_the_seed_decides() -> None:
    first, second = build(seed=1), build(seed=1)
    assert [first.assign(row) for row in ROWS] == [second.assign(row) for row in ROWS]


def test_other_vectors_may_be_given(tmp_path: Path) -> None:
    def embed(texts: Sequence[str]) -> list[list[float]]:
        return [[float(topic.split()[0] in text) for topic in TOPICS] for text in texts]

    cohorts = build(embed=embed)
    assert cohorts.method == "custom"
    cohorts.save(tmp_path / "a.json")
    again = Cohorts.load(tmp_path / "a.json", embed)
    new = {"type": "Algebra", "problem": "a vector"}
    assert again.assign(new) == cohorts.assign(ROWS[10])


def test_one_cluster_is_the_column_alone() -> None:
    cohorts = Cohorts.build(ROWS, column="type", text_column="problem")
    assert cohorts.names == ("algebra", "counting_probability")
    assert cohorts.assign({"type": "Algebra", "problem": "new"}) == "algebra"


def test_fewer_rows_than_clusters_are_fewer_clusters() -> None:
    pytest.importorskip("sklearn")
    rows = [{"type": "A", "problem": "one text"}, {"type": "A", "problem": "another one"}]
    cohorts = Cohorts.build(rows, column="type", text_column="problem", clusters=3, method="tfidf")
    assert sorted(cohorts.assign(row) for row in rows) == ["a-1", "a-2"]


def test_what_the_data_does_not_know_is_an_error() -> None:
    cohorts = Cohorts.build(ROWS, column="type", text_column="problem")
    with pytest.raises(DataError, match="'Topology' is in no cohort; known are Algebra, Counting"):
        cohorts.assign({"type": "Topology", "problem": "p"})
    with pytest.raises(DataError, match="need column 'type'; this row has problem"):
        cohorts.assign({"problem": "p"})
    with pytest.raises(DataError, match="no rows"):
        Cohorts.build([], column="type", text_column="problem")
    twins = [{"type": "a b", "problem": "p"}, {"type": "A-B", "problem": "q"}]
    with pytest.raises(DataError, match="both named 'a_b'"):
        Cohorts.build(twins, column="type", text_column="problem")


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "no file of cohorts"), ('{"version": 9}', "version 9, not 1"), ("x", "no file of")],
)
def test_another_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=message):
        Cohorts.load(tmp_path / "a.json")
    with pytest.raises(DataError, match="no such file; build it first"):
        Cohorts.load(tmp_path / "missing.json")


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("data/train.jsonl", "data/train.cohorts.json"),
        ("train.jsonl.gz", "train.cohorts.json"),
        ("owner/name", "owner--name.cohorts.json"),
    ],
)
def test_the_file_lies_beside_the_data(source: str, path: str) -> None:
    assert cohorts_path(source) == Path(path)


def test_the_sample_of_math_comes_with_its_cohorts() -> None:
    task = load_task("math")
    cohorts = Cohorts.load(cohorts_path(task.sample))
    rows = [json.loads(line) for line in task.sample.read_text("utf-8").splitlines()]
    assert task.spec.cohorts is not None
    assert cohorts.column == task.spec.cohorts.column
    assert len(cohorts.names) == 7 * task.spec.cohorts.clusters == 21
    assert sorted(cohorts.assign(row) for row in rows) == sorted(cohorts.names)
