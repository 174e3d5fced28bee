"""Rows under a user's own names: texts, conversations, numbers, and rows that are bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mpo.data import ReadOptions, SourceRow, plain, read_table
from mpo.errors import DataError

HELLO = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!"},
]


def read(tmp_path: Path, rows: list[Any], **options: Any) -> list[tuple[str, str, float | None]]:
    return table(tmp_path, rows, **options).rows


def table(tmp_path: Path, rows: list[Any], **options: Any) -> Any:
    path = tmp_path / "f.jsonl"
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(line + "\n" for line in lines), "utf-8")
    return read_table(path, triple, ReadOptions(asked_by="command", **options))


def triple(row: SourceRow) -> tuple[str, str, float | None]:
    return row.text("prompt", "query"), row.text("completion", "response"), row.number("score")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "p", "completion": "c"},
        {"query": "p", "response": "c"},
        {
            "prompt": [{"role": "user", "content": "p"}],
            "completion": [{"role": "assistant", "content": "c"}],
        },
        {"messages": [{"role": "user", "content": "p"}, {"role": "assistant", "content": "c"}]},
        {"conversations": [{"from": "human", "value": "p"}, {"from": "gpt", "value": "c"}]},
        {"messages": json.dumps([{"from": "human", "value": "p"}, {"from": "gpt", "value": "c"}])},
        {"prompt": "p", "completion": {"role": "assistant", "content": "c"}},
        {"prompt": "p", "completion": [{"role": "assistant", "content": [{"text": "c"}]}]},
    ],
)
def test_texts_and_conversations_are_the_same_rows(tmp_path: Path, row: dict[str, Any]) -> None:
    assert read(tmp_path, [row]) == [("p", "c", None)]


def test_a_conversation_is_split_before_its_last_answer(tmp_path: Path) -> None:
    turns = [*HELLO, {"role": "user", "content": "Bye"}, {"role": "assistant", "content": "Ciao"}]
    (row,) = read(tmp_path, [{"messages": turns}])
    assert row[0] == "system: Be kind.\n\nuser: Hi\n\nassistant: Hello!\n\nuser: Bye"
    assert row[1] == "Ciao"


def test_names_are_the_users_own(tmp_path: Path) -> None:
    rows = [
        {"instruction": "Do", "input": "this", "output": "done", "rating": " 4.5 "},
        {"instruction": "Do", "output": 42, "rating": None, "prompt": "another"},
    ]
    columns = {"prompt": "instruction+input", "completion": "output", "score": "rating"}
    assert read(tmp_path, rows, columns=columns) == [
        ("Do\n\nthis", "done", 4.5),
        ("Do", "42", None),
    ]


@pytest.mark.parametrize(
    ("value", "number"),
    [("4", 4.0), ("1e3", 1000.0), ("", None), ("NaN", None), ("n/a", None), (None, None), (3, 3.0)],
)
def test_a_number_may_be_a_text(tmp_path: Path, value: Any, number: float | None) -> None:
    (row,) = read(tmp_path, [{"prompt": "p", "completion": "c", "score": value}])
    assert row[2] == number


GOOD = {"prompt": "p", "completion": "c"}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "p", "output": "c"}, "'completion' is missing; .* --columns completion=output"),
        ({**GOOD, "completion": None}, "'completion' must be text or a list of messages, not None"),
        ({**GOOD, "completion": ["a"]}, "'completion' must be text"),
        ({**GOOD, "score": "good"}, "'score' must be a number or null, not 'good'"),
        ({**GOOD, "score": True}, "'score' must be a number"),
        ({**GOOD, "score": 10**400}, "'score' must be a number"),
        ('{"prompt": "p", "completion": "c", "score": Infinity}', "'score' must be a number"),
        ('{"prompt": "p", "completion": "c", "completion": "d"}', "'completion' stands twice"),
        ({"messages": HELLO[:2]}, "'messages' ends with a message of role 'user'"),
        ({"messages": HELLO[2:]}, "'messages' begins with an answer"),
        (
            {**GOOD, "completion": [{"role": "assistant", "content": [{"type": "image_url"}]}]},
            r"'completion' has the part \[image\] and no text",
        ),
        ("{", "not JSON"),
    ],
)
def test_a_bad_row_is_named_or_left_out_and_counted(tmp_path: Path, row: Any, words: str) -> None:
    with pytest.raises(DataError, match=rf"f\.jsonl:2: {words}.*--skip-bad leaves such rows out"):
        table(tmp_path, [GOOD, row, GOOD])
    result = table(tmp_path, [GOOD, row, GOOD], skip_bad=True)
    assert len(result.rows) == 2
    assert result.remark.startswith("1 of 3 rows left out; the first: ")
    with pytest.raises(DataError, match="none of its 1 rows can be used"):
        table(tmp_path, [row], skip_bad=True)


@pytest.mark.parametrize(
    "unused",
    [
        "NaN",
        '"\\ud800"',
        '{"a": [[[[]]]]}',
        "null",
        "1e999",
        '{"k": 1, "k": 2}',
        "[" * 200 + "]" * 200,
    ],
)
def test_a_column_that_nobody_uses_stops_nothing(tmp_path: Path, unused: str) -> None:
    line = f'{{"prompt": "p", "x": {unused}, "x": 2, "completion": "c"}}'
    assert read(tmp_path, [line]) == [("p", "c", None)]
    value = read_table(tmp_path / "f.jsonl", lambda row: plain(row.values)).rows[0]
    json.dumps(value, allow_nan=False).encode()
    json.dumps(value, ensure_ascii=False).encode("utf-8")


def test_a_lone_surrogate_becomes_a_replacement_character(tmp_path: Path) -> None:
    (row,) = read(tmp_path, ['{"prompt": "a\\ud83d\\ude00", "completion": "b\\ud800"}'])
    assert row[:2] == ("a\N{GRINNING FACE}", "b\N{REPLACEMENT CHARACTER}")


def test_the_limit_counts_usable_rows_and_reads_no_further(tmp_path: Path) -> None:
    rows = [GOOD, {"prompt": "p"}, GOOD, "this line is not JSON, and nobody reads it"]
    result = table(tmp_path, rows, limit=2, skip_bad=True)
    assert (len(result.rows), len(result.bad)) == (2, 1)


def test_a_column_that_no_row_has_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no row has the column 'ratting', named for 'score'"):
        table(tmp_path, [GOOD, GOOD], columns={"score": "ratting"})
