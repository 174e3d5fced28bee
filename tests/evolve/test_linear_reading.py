"""Reading and checking a rubric takes time in proportion to its length, whatever stands in it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from mpo.errors import RubricError
from mpo.evolve.lint import lint
from mpo.evolve.mrm_answers import copies_example
from mpo.importers.convert import UnparsedError, read_scores
from mpo.rubric import parse_rubric, read_rubric
from mpo.task import load_task

TASK = load_task("essay")
HEAD = parse_rubric("# T\n## Words\nLook at the words.\n")


def read(text: str) -> None:
    with contextlib.suppress(RubricError):
        read_rubric(text).rubric.to_markdown()


def check(text: str) -> None:
    lint(text, task=TASK, parent=HEAD, evidence=[TASK.spec.description])


def grade(text: str) -> None:
    with pytest.raises(UnparsedError):
        read_scores(text, 1, HEAD)


def seconds(work: Callable[[str], object], text: str) -> float:
    """Processor time of one call."""
    start = time.process_time()
    work(text)
    return time.process_time() - start


def in_criterion(unit: str) -> Callable[[int], str]:
    return lambda n: f"# T\n## A  (weight 1)\nfoo 1{unit * (n // len(unit))}x and\n- 0: no\n- 1: a"


def in_item(unit: str) -> Callable[[int], str]:
    return lambda n: f"<rubric><item>foo: 1{unit * (n // len(unit))}x\n</item></rubric>"


CASES: dict[str, tuple[Callable[[str], object], Callable[[int], str]]] = {
    "blanks in a heading": (read, lambda n: f"# T\n## A{' ' * n}x\n"),
    "weights in a heading": (read, lambda n: f"# T\n## A{'(weight 1' * (n // 9)}\n"),
    "blank lines": (read, lambda n: f"# T\n## A\n{chr(10) * n}x"),
    "blank lines in an item": (read, in_item("\n")),
    "blanks in an item": (read, in_item(" ")),
    "open items": (read, lambda n: "<item>" * (n // 6)),
    "open brackets in an item": (read, in_item(" (1 ")),
    "scores in an item": (read, in_item("\n# score score")),
    "blank lines, checked": (check, in_item("\n")),
    "blanks, checked": (check, in_criterion(" ")),
    "a bare mark, checked": (check, lambda n: f"# T\n## A\nfoo\n- 0: no\n-{' ' * n}x"),
    "weights, checked": (check, lambda n: f"## A{' ' * n}{'(weight ' * (n // 8)}x\n- 3: a\n- 1: b"),
    "counts, checked": (check, in_criterion(" 11 words")),
    "counts and marks, checked": (check, in_criterion(" at least 5 words or")),
    "equals signs, checked": (check, in_criterion("=")),
    "starts of guidelines, checked": (check, in_criterion("[Start of ")),
    "marks in an answer": (copies_example, lambda n: f"x{' .' * (n // 2)}x"),
    "reasons of the published code": (grade, lambda n: "<reason>" * (n // 8)),
}


@pytest.mark.parametrize("name", CASES)
def test_four_times_the_text_takes_no_more_than_ten_times_as_long(name: str) -> None:
    work, make = CASES[name]
    # A quadratic step would take sixteen times as long; the slack is the clock's.
    small, large = make(2_500), make(10_000)
    work(small)  # imports and compiled patterns
    assert seconds(work, large) < 10 * seconds(work, small) + 0.03
