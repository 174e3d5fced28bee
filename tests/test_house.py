"""House rules: one noun, one file; private names stay private; plain English."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for folder in ("src", "benchmarks") for path in (ROOT / folder).rglob("*.py"))
IN_MPO = [path for path in SOURCES if (ROOT / "src" / "mpo") in path.parents]
PAGES = [ROOT / "README.md", ROOT / "AGENTS.md", *sorted((ROOT / "docs").glob("*.md"))]

MOST_LINES = 500
SAME_JOB = {"__init__", "__main__", "base", "schema", "settings", "options", "model", "math"}
"""File names that may stand in several wings, because they do the same job in each."""
ARCHAIC = re.compile(
    r"\b(anew|mend(s|ed|ing)?|whom|whoever|hence|shall|likeness|came to be|in force)\b", re.I
)
UNREACHABLE = re.compile(r"\bnotes/\w+|\bDESIGN\b")
"""Pages that only the authors have."""
FRAGMENT = re.compile(
    r"^(What|Of (the|an?|all|one)|Whether|Who|Where it|Why it|How it) \b(?!.*\?$)", re.S
)


def docstrings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of every docstring, the strings under fields and constants included."""
    tree = ast.parse(path.read_text("utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        for statement in body if isinstance(body, list) else []:
            if (
                isinstance(statement, ast.Expr)
                and isinstance(statement.value, ast.Constant)
                and isinstance(statement.value.value, str)
            ):
                yield statement.lineno, statement.value.value


def entries(text: str) -> Iterator[str]:
    """A docstring's opening, and its entries under Args, Attributes and the like."""
    yield text.strip()
    for match in re.finditer(r"^\s+\*{0,2}\w+: (.+)$", text, re.M):
        yield match[1]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= MOST_LINES


def test_no_two_public_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in IN_MPO:
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(name_of(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_a_file_name_stands_for_one_job() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in IN_MPO:
        if path.stem not in SAME_JOB and "cli" not in path.parts:
            places[path.stem].append(name_of(path))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_private_names_stay_in_their_module() -> None:
    crossing = [
        f"{name_of(path)}:{node.lineno} {alias.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name.startswith("_") and not alias.name.startswith("__")
    ]
    assert crossing == []


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of everything that is written for a reader; word lists in code are data."""
    text = path.read_text("utf-8")
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    yield from docstrings(path)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", [*SOURCES, *PAGES], ids=name_of)
def test_the_english_is_plain(path: Path) -> None:
    faults = [
        f"{line}: {text.strip()}"
        for line, text in prose(path)
        if ARCHAIC.search(text) or UNREACHABLE.search(text)
    ]
    assert faults == []


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_docstring_says_the_noun(path: Path) -> None:
    faults = [
        f"{line}: {entry.splitlines()[0]}"
        for line, text in docstrings(path)
        for entry in entries(text)
        if FRAGMENT.search(entry)
    ]
    assert faults == []


def test_the_way_through_stays_short() -> None:
    """One scored rollout, from `score` to the store, by the counter of `benchmarks/path.py`."""
    counter = [sys.executable, str(ROOT / "benchmarks" / "path.py"), "--json"]
    figures = json.loads(subprocess.run(counter, capture_output=True, check=True).stdout)
    assert figures["functions"] <= 120
    assert figures["files"] <= 20
    assert figures["connections"] <= 4
    assert figures["cleans"] == 1
