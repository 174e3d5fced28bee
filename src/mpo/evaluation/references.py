"""Comparisons of completions with references: final answers, verdicts, and ROUGE.

Each takes rows with a completion, names a bad row by file and number before anything is computed,
and returns figures with 95 % intervals over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from ..task.verdicts import read_verdict
from .intervals import Interval, mean_interval, require
from .rows import Row, completed_rows

__all__ = [
    "ROUGE",
    "Accuracy",
    "MathAccuracy",
    "VerdictAccuracy",
    "math_accuracy",
    "reference_answer",
    "reference_text",
    "rouge",
    "verdict_accuracy",
    "verdict_label",
]

Extract = Callable[[str], str | None]
"""Finds the final answer in a text; None where there is none (`mpo.task.answers.final_answer`)."""
Same = Callable[[str, str], bool]
"""Tells if two answers are equal (`mpo.task.answers.BoxedAnswers().same`)."""
Progress = Callable[[int, int], None]
"""Called with the number of rows that are done, and of all rows."""

SUBJECT = ("type", "subject")
LEVEL = ("level",)

LABELS = ("RIGHT", "WRONG")
LABEL = ("binarized_label", "label")
"""Columns of the label. The first is that of the Scruples data, whose `label` means something
else."""

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
REFERENCE = ("reference", "summary", "clean_summary")
"""Columns of the reference summary, of which the first that a row has counts."""


@dataclass(frozen=True)
class Accuracy:
    """Share of right completions; its fields are the keys of its JSON."""

    accuracy: float
    """Right completions among all, 0 to 1."""
    n: int
    correct: int


def _accuracy(right: Sequence[bool]) -> Accuracy:
    return Accuracy(sum(right) / len(right), len(right), sum(right))


# ---------------------------------------------------------------------- final answers


@dataclass(frozen=True)
class MathAccuracy(Accuracy):
    """Accuracy of final answers. A completion without an answer is wrong."""

    low: float | None
    high: float | None
    no_answer: int
    by_subject: dict[str, Accuracy]
    by_level: dict[str, Accuracy]


def math_accuracy(
    rows: Sequence[Row],
    where: str,
    *,
    extract: Extract,
    same: Same,
    progress: Progress | None = None,
) -> MathAccuracy:
    """Grade final answers.

    Args:
        rows: Rows with `completion`, and `answer` or a `solution` that holds it; optionally `type`
            (or `subject`) and `level`.
        where: The file, for messages.
        extract: Finds the answer in a completion or a solution.
        same: Compares the reference answer with that of the completion, in this order.
        progress: Called after each row.

    Raises:
        DataError: There are no rows, or one has no completion or no reference answer.
    """
    rows = completed_rows(rows, where)
    # All references first: a fault in the last row should not cost the grading of the others.
    references = [
        reference_answer(row, f"{where}, row {n}", extract) for n, row in enumerate(rows, 1)
    ]
    right: list[bool] = []
    no_answer = 0
    for row, reference in zip(rows, references, strict=True):
        answer = extract(row["completion"])
        no_answer += answer is None
        right.append(answer is not None and same(reference, answer))
        if progress is not None:
            progress(len(right), len(rows))
    problems = [str(row.get("prompt", row.get("problem", n))) for n, row in enumerate(rows)]
    interval = mean_interval([float(one) for one in right], problems)
    return MathAccuracy(
        accuracy=sum(right) / len(right),
        n=len(right),
        correct=sum(right),
        low=interval.low,
        high=interval.high,
        no_answer=no_answer,
        by_subject=_parts(rows, right, SUBJECT),
        by_level=_parts(rows, right, LEVEL),
    )


def reference_answer(row: Row, where: str, extract: Extract) -> str:
    """The reference answer of a row.

    Raises:
        DataError: It has none.
    """
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


def _parts(rows: Sequence[Row], right: Sequence[bool], names: Sequence[str]) -> dict[str, Accuracy]:
    """Accuracy by value of the first of these columns; rows without it are in no part."""
    parts: dict[str, list[bool]] = {}
    for row, one in zip(rows, right, strict=True):
        value = next((row[name] for name in names if row.get(name) is not None), None)
        if value is not None:
            parts.setdefault(str(value), []).append(one)
    return {name: _accuracy(parts[name]) for name in sorted(parts)}


# ---------------------------------------------------------------------- verdicts


@dataclass(frozen=True)
class VerdictAccuracy(Accuracy):
    """Accuracy of verdicts, beside that of the majority label alone.

    A completion without a verdict is wrong.
    """

    low: float | None
    high: float | None
    balanced_accuracy: float
    """Mean over the labels of the accuracy among the rows with that label."""
    majority: dict[str, Any]
    """The most frequent `label` (of equally frequent ones the first in the alphabet), and the
    `accuracy` of always giving it."""
    missing: int
    """Number of completions without a verdict."""
    balance: dict[str, dict[str, float | None]]
    """Shares of the `labels`, and of the `verdicts` among those given; None where none was."""
    by_label: dict[str, Accuracy]
    """Accuracy among the rows with each label (recall)."""


def verdict_accuracy(
    rows: Sequence[Row], where: str, *, label: str | None = None
) -> VerdictAccuracy:
    """Compare verdicts with labels.

    Args:
        rows: Rows with `completion` and a label, RIGHT or WRONG.
        where: The file, for messages.
        label: Column of the label; `binarized_label`, else `label`, if None.

    Raises:
        DataError: There are no rows, or one has no completion or no usable label.
    """
    rows = completed_rows(rows, where)
    labels = [verdict_label(row, f"{where}, row {n}", label) for n, row in enumerate(rows, start=1)]
    verdicts: list[str | None] = [read_verdict(row["completion"]) for row in rows]
    right = [verdict == wanted for verdict, wanted in zip(verdicts, labels, strict=True)]
    prompts = [str(row.get("prompt", n)) for n, row in enumerate(rows)]
    by_label = {
        name: _accuracy([one for one, own in zip(right, labels, strict=True) if own == name])
        for name in sorted(set(labels))
    }
    shares = {name: part.n / len(right) for name, part in by_label.items()}
    majority = max(shares, key=lambda name: shares[name])
    missing = verdicts.count(None)
    present = len(verdicts) - missing
    interval = mean_interval([float(one) for one in right], prompts)
    return VerdictAccuracy(
        accuracy=sum(right) / len(right),
        n=len(right),
        correct=sum(right),
        low=interval.low,
        high=interval.high,
        balanced_accuracy=sum(part.accuracy for part in by_label.values()) / len(by_label),
        majority={"label": majority, "accuracy": shares[majority]},
        missing=missing,
        balance={
            "labels": dict(shares),
            "verdicts": {
                name: verdicts.count(name) / present if present else None for name in LABELS
            },
        },
        by_label=by_label,
    )


def verdict_label(row: Row, where: str, label: str | None = None) -> str:
    """The label of a row, RIGHT or WRONG.

    Raises:
        DataError: It has none, or another.
    """
    columns = (label,) if label is not None else LABEL
    for column in columns:
        if column in row:
            value = str(row[column]).strip().upper()
            if value not in LABELS:
                raise DataError(
                    f"{where}: column {column!r} is {row[column]!r:.40}, neither RIGHT nor WRONG"
                )
            return value
    raise DataError(
        f"{where}: has no label in {' or '.join(map(repr, columns))}; its columns are "
        f"{', '.join(row)}"
    )


# ---------------------------------------------------------------------- summaries


def rouge(
    rows: Sequence[Row],
    where: str,
    *,
    reference: str | None = None,
    progress: Progress | None = None,
) -> dict[str, Interval]:
    """ROUGE-1, -2, -L and -Lsum: mean F1 with stemming, 0 to 100, with 95 % intervals.

    The scores are those of Google's `rouge-score`, on the texts as they are. Lsum takes lines for
    sentences, so on texts of one line it equals L.

    Args:
        rows: Rows with `completion` and a reference.
        where: The file, for messages.
        reference: Column of the reference; `reference`, `summary` or `clean_summary` if None.
        progress: Called after each row.

    Raises:
        DataError: There are no rows, or one has no completion or no reference.
        MissingExtraError: rouge-score is not installed.
    """
    require("rouge_score")
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    rows = completed_rows(rows, where)
    targets = [
        reference_text(row, f"{where}, row {n}", reference) for n, row in enumerate(rows, start=1)
    ]
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    scores: dict[str, list[float]] = {name: [] for name in ROUGE}
    for number, (row, target) in enumerate(zip(rows, targets, strict=True), start=1):
        for name, score in scorer.score(target, row["completion"]).items():
            scores[name].append(float(score.fmeasure))
        if progress is not None:
            progress(number, len(rows))
    prompts = [str(row.get("prompt", n)) for n, row in enumerate(rows)]
    return {name: _percent(mean_interval(values, prompts)) for name, values in scores.items()}


def _percent(share: Interval) -> Interval:
    low, high = (None if bound is None else 100 * bound for bound in (share.low, share.high))
    return Interval(100 * share.value, low, high)


def reference_text(row: Row, where: str, reference: str | None = None) -> str:
    """The reference summary of a row.

    Raises:
        DataError: It has none.
    """
    columns = (reference,) if reference is not None else REFERENCE
    for column in columns:
        if isinstance(row.get(column), str):
            return str(row[column])
    raise DataError(
        f"{where}: has no text in {' or '.join(map(repr, columns))} to compare with; its columns "
        f"are {', '.join(row)}"
    )
