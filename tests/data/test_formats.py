"""Every file that people have, damaged ones included, through the one reading layer."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from mpo.data import (
    ReadOptions,
    SourceRow,
    load_yaml,
    parse_columns,
    read_rows,
    read_table,
    stem_of,
)
from mpo.errors import ConfigError, DataError

ROWS = [
    {"prompt": "Say hello.", "completion": "Hello, you!", "score": "4"},
    {"prompt": "Say,\n\nwith a blank line: bye", "completion": 'He said "bye".', "score": ""},
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def cells(rows: list[dict[str, Any]], sign: str = ",") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, list(rows[0]), delimiter=sign)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


FILES: dict[str, bytes] = {
    "a.jsonl": jsonl(ROWS),
    "a.ndjson": jsonl(ROWS).replace(b"\n", b"\r\n\r\n"),
    "lines.json": jsonl(ROWS),
    "list.json": json.dumps(ROWS, indent=1).encode(),
    "data.json": json.dumps({"version": 2, "data": ROWS}).encode(),
    "list.jsonl": json.dumps(ROWS).encode(),
    "no_ending": b"\xef\xbb\xbf" + jsonl(ROWS),
    "a.csv": b"\xef\xbb\xbf" + cells(ROWS),
    "semicolons.csv": cells(ROWS, ";"),
    "a.tsv": cells(ROWS, "\t"),
    "a.jsonl.gz": gzip.compress(jsonl(ROWS)),
    "a.csv.gz": gzip.compress(cells(ROWS)),
    "packed.jsonl": gzip.compress(jsonl(ROWS)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert read_rows(tmp_path / name) == ROWS


def test_parquet_and_saved_data_sets_and_folders_of_files(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    datasets = pytest.importorskip("datasets")
    from pyarrow import parquet

    odd = [{**row, "when": datetime.date(2024, 1, 2), "raw": b"\xff"} for row in ROWS]
    (tmp_path / "parts").mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(odd[:1]), tmp_path / "parts" / "c_1.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(odd[1:]), tmp_path / "parts" / "c_2.parquet")
    assert texts(tmp_path / "parts") == [(r["prompt"], r["completion"]) for r in ROWS]
    saved = datasets.Dataset.from_list(odd)
    saved.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"test": saved}).save_to_disk(str(tmp_path / "several"))
    assert texts(tmp_path / "one") == texts(tmp_path / "parts")
    assert texts(tmp_path / "several", split="test") == texts(tmp_path / "parts")
    with pytest.raises(DataError, match="has no split 'train'; its splits are test"):
        texts(tmp_path / "several")
    (value,) = {row.value("when") for row in read_table(tmp_path / "one", lambda row: row).rows}
    assert value == "2024-01-02"


def texts(path: Path, **options: Any) -> list[tuple[str, str]]:
    def make(row: SourceRow) -> tuple[str, str]:
        return row.text("prompt"), row.text("completion")

    return read_table(path, make, ReadOptions(**options)).rows


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl", b"", "is empty"),
        ("a.csv", b"prompt,completion\r\n", "is empty"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": \n', r"a\.jsonl:3: not JSON"),
        ("a.jsonl", b'{"a": 1}\n"text"\n', r"a\.jsonl:2: must be a JSON object, not 'text'"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', r"a\.jsonl:2: cannot be read as UTF-8"),
        ("a.jsonl", b'{"a": ' + b"[" * 99_999 + b"]" * 99_999 + b"}", ":1: is nested too deeply"),
        ("a.json", b'[{"a": 1}, 2]', r"a\.json, row 2: must be a JSON object"),
        ("a.csv", b"p,c\na,b\na,b,c\n", r"a\.csv:3: has 3 cells, and the head has 2"),
        ("a.csv", b'p,c\na,b\n"a,b\n\nc,d\n', r"a\.csv:3: is not CSV"),
        (
            "a.csv",
            b"p,c\na,caf\xe9\n",
            r"a\.csv:2: cannot be read as UTF-8.*save the file as UTF-8",
        ),
        ("a.txt", b"some words", "cannot tell what it is"),
        ("a.xlsx", b"PK\x03\x04 and so on", "a zip archive or spreadsheet"),
        ("a.csv", "p,c\n".encode("utf-16"), "UTF-16"),
        ("a.parquet", b"no such thing", "cannot be read as Parquet"),
        ("a.jsonl.gz", gzip.compress(jsonl(ROWS * 99))[:40], "gzip cannot unpack it"),
        ("a.jsonl.gz", b"\x1f\x8b\x08nothing", "gzip cannot unpack it"),
    ],
)
def test_what_cannot_be_read_is_one_line_with_its_place(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=words) as caught:
        read_rows(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_gzip_bomb_is_refused_before_its_rows_are_made(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(280):
            file.write(bytes(1 << 20))
    with pytest.raises(DataError, match="unpacks to more than 100 times its size"):
        read_rows(path)


@pytest.mark.parametrize("name", ["gone.jsonl", "./gone", "/nowhere/at/all", "gone.csv.gz"])
def test_a_missing_file_is_no_hub_id(name: str) -> None:
    with pytest.raises(DataError, match="no such file"):
        read_rows(name)


@pytest.mark.parametrize(
    "text",
    [
        "a: " + "[" * 3000 + "]" * 3000,
        "a: &a [x, x]\n"
        + "".join(
            f"{c}: &{c} [{', '.join(['*' + p] * 10)}]\n"
            for p, c in zip("abcdefg", "bcdefgh", strict=True)
        ),
        "a: &a [*a]",
        "a: 2024-13-45",
    ],
    ids=["deep", "aliases", "itself", "date"],
)
def test_yaml_that_would_end_the_process_is_an_error(text: str) -> None:
    with pytest.raises(yaml.YAMLError):
        load_yaml(text)


def test_an_alias_is_no_crime() -> None:
    assert load_yaml("chat: &c {model: m}\nmeta_chat: *c") == {
        "chat": {"model": "m"},
        "meta_chat": {"model": "m"},
    }


@pytest.mark.parametrize(
    ("name", "stem"),
    [("a.jsonl", "a"), ("m-1.5.JSONL.gz", "m-1.5"), ("b", "b"), ("folder/x.csv", "x")],
)
def test_the_stem_of_a_name(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_columns_of_one_name_matter_only_where_they_are_used(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("prompt,completion,x,x,\np,c,1,2,\np\n")
    assert texts(tmp_path / "a.csv", limit=1) == [("p", "c")]
    with pytest.raises(DataError, match=r"a\.csv:3: 'completion' is missing"):
        texts(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("prompt,completion,completion\np,c,d\n")
    with pytest.raises(DataError, match="'completion' stands twice"):
        texts(tmp_path / "b.csv")


def test_columns_are_parsed() -> None:
    assert parse_columns("prompt=a, completion = b+c ,") == {"prompt": "a", "completion": "b+c"}
    for wrong in ("prompt", "=a", "prompt=", "a=b,a=c"):
        with pytest.raises(ConfigError, match="--columns"):
            parse_columns(wrong)
