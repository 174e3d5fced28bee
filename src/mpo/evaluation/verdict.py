"""Accuracy of verdicts, `<verdict>RIGHT</verdict>` or `<verdict>WRONG</verdict>`, beside what the
majority label alone would reach: where labels are unbalanced, a policy that always says the same
looks good (notes/paper.md §4.5)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import DataError
from .answers import Share, completed_rows
from .bootstrap import Interval, mean_interval
from .rows import Row

__all__ = ["LABELS", "VerdictAccuracy", "read_verdict", "verdict_accuracy"]

LABELS = ("RIGHT", "WRONG")
COLUMNS = ("binarized_label", "label")
"""Where the label is looked for; the first is that of the Scruples data, whose `label` says
something else."""

_VERDICT = re.compile(r"<verdict>\s*(RIGHT|WRONG)\s*</verdict>", re.IGNORECASE)


@dataclass(frozen=True)
class VerdictAccuracy:
    """How many verdicts are right. No verdict is a wrong verdict."""

    whole: Share
    interval: Interval
    missing: int
    by_label: dict[str, Share]
    """Right ones among the rows with this label: recall."""
    said: dict[str, int]
    """How often each verdict was given."""

    @property
    def majority(self) -> str:
        """The most frequent label; of equally frequent ones the first in the alphabet."""
        return max(sorted(self.by_label), key=lambda label: self.by_label[label].n)

    def to_json(self) -> dict[str, Any]:
        """JSON values; shares 0 to 1."""
        given = self.whole.n - self.missing
        recalls = [part.accuracy for part in self.by_label.values()]
        majority = self.majority
        return {
            **self.whole.to_json(),
            "low": self.interval.low,
            "high": self.interval.high,
            "balanced_accuracy": sum(recalls) / len(recalls),
            "majority": {
                "label": majority,
                "accuracy": self.by_label[majority].n / self.whole.n,
            },
            "missing": self.missing,
            "balance": {
                "labels": {name: part.n / self.whole.n for name, part in self.by_label.items()},
                "verdicts": {
                    name: count / given if given else None for name, count in self.said.items()
                },
            },
            "by_label": {name: part.to_json() for name, part in self.by_label.items()},
        }


def read_verdict(text: str) -> str | None:
    """The last verdict of a text; None where there is none between the tags."""
    found = _VERDICT.findall(text)
    return str(found[-1]).upper() if found else None


def verdict_accuracy(
    rows: Sequence[Row], where: str, *, label: str | None = None, seed: int = 0
) -> VerdictAccuracy:
    """Compare verdicts with labels.

    Args:
        rows: With `completion` and a label, RIGHT or WRONG.
        where: The file, for messages.
        label: Column of the label; `binarized_label` or `label` if None.
        seed: Of the bootstrap over prompts.

    Raises:
        DataError: No rows, or one without a completion or a usable label.
    """
    rows = completed_rows(rows, where)
    columns = (label,) if label is not None else COLUMNS
    labels = [_label(row, columns, f"{where}, row {n}") for n, row in enumerate(rows, start=1)]
    verdicts = [read_verdict(row["completion"]) for row in rows]
    right = [verdict == wanted for verdict, wanted in zip(verdicts, labels, strict=True)]
    said = Counter(verdict for verdict in verdicts if verdict is not None)
    prompts = [str(row.get("prompt", n)) for n, row in enumerate(rows)]
    parts = {
        name: [r for r, wanted in zip(right, labels, strict=True) if wanted == name]
        for name in sorted(set(labels))
    }
    return VerdictAccuracy(
        whole=Share(len(right), sum(right)),
        interval=mean_interval([float(r) for r in right], prompts, seed=seed),
        missing=verdicts.count(None),
        by_label={name: Share(len(part), sum(part)) for name, part in parts.items()},
        said={name: said[name] for name in LABELS},
    )


def _label(row: Row, columns: Sequence[str], where: str) -> str:
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
