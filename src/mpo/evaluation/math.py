"""Accuracy on problems with one final answer, as a whole, by subject and by level."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .answers import Share, completed_rows
from .bootstrap import Interval, mean_interval
from .rows import Row

__all__ = ["MathAccuracy", "math_accuracy"]

Extract = Callable[[str], str | None]
"""The final answer in a text; None where there is none (`mpo.task.answers.final_answer`)."""
Same = Callable[[str, str], bool]
"""Whether two answers are equal (`mpo.task.answers.BoxedAnswers().same`)."""

SUBJECT = ("type", "subject")
LEVEL = ("level",)


@dataclass(frozen=True)
class MathAccuracy:
    """How many final answers are right. No answer is a wrong answer."""

    whole: Share
    interval: Interval
    no_answer: int
    by_subject: dict[str, Share]
    by_level: dict[str, Share]

    def to_json(self) -> dict[str, Any]:
        """JSON values; shares 0 to 1."""
        return {
            **self.whole.to_json(),
            "low": self.interval.low,
            "high": self.interval.high,
            "no_answer": self.no_answer,
            "by_subject": {name: part.to_json() for name, part in self.by_subject.items()},
            "by_level": {name: part.to_json() for name, part in self.by_level.items()},
        }


def math_accuracy(
    rows: Sequence[Row],
    where: str,
    *,
    extract: Extract,
    same: Same,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> MathAccuracy:
    """Grade final answers.

    Args:
        rows: With `completion`, and `answer` or a `solution` that holds it; maybe `type` (or
            `subject`) and `level`.
        where: The file, for messages.
        extract: Finds the answer of a completion or a solution.
        same: Compares the reference's answer with the completion's, in this order.
        progress: Told how many rows are done, of how many.
        seed: Of the bootstrap over problems.

    Raises:
        DataError: No rows, or one without a completion or a reference answer.
    """
    rows = completed_rows(rows, where)
    # All references first: a fault in the last row should not cost the grading of the others.
    references = [_reference(row, f"{where}, row {n}", extract) for n, row in enumerate(rows, 1)]
    right: list[bool] = []
    no_answer = 0
    for row, reference in zip(rows, references, strict=True):
        answer = extract(row["completion"])
        no_answer += answer is None
        right.append(answer is not None and same(reference, answer))
        if progress is not None:
            progress(len(right), len(rows))
    problems = [str(row.get("prompt", row.get("problem", n))) for n, row in enumerate(rows)]
    return MathAccuracy(
        whole=Share(len(right), sum(right)),
        interval=mean_interval([float(r) for r in right], problems, seed=seed),
        no_answer=no_answer,
        by_subject=_parts(rows, right, SUBJECT),
        by_level=_parts(rows, right, LEVEL),
    )


def _reference(row: Row, where: str, extract: Extract) -> str:
    if row.get("answer") is not None:
        # A bare answer is the rule; some sets keep it in its box.
        text = str(row["answer"])
        return extract(text) or text if "\\boxed" in text else text
    solution = row.get("solution")
    if not isinstance(solution, str):
        raise DataError(
            f"{where}: has no 'answer' and no 'solution'; its columns are {', '.join(row)}"
        )
    answer = extract(solution)
    if answer is None:
        raise DataError(f"{where}: its solution has no final answer in \\boxed{{}}")
    return answer


def _parts(rows: Sequence[Row], right: Sequence[bool], names: Sequence[str]) -> dict[str, Share]:
    """By the value of the first of these columns; rows without it are in no part."""
    found: dict[str, list[bool]] = {}
    for row, one in zip(rows, right, strict=True):
        value = next((row[name] for name in names if row.get(name) is not None), None)
        if value is not None:
            found.setdefault(str(value), []).append(one)
    return {name: Share(len(found[name]), sum(found[name])) for name in sorted(found)}
