"""ROUGE-1, -2, -L and -Lsum: F1 with stemming, times 100, as in the paper (Table 2).

By Google's `rouge-score`, on the texts as they are. Lsum takes lines for sentences, so on texts of
one line it equals L, as in the paper's table.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec

from ..errors import DataError, MissingExtraError
from .answers import completed_rows
from .bootstrap import Interval, mean_interval
from .rows import Row

__all__ = ["REFERENCE", "ROUGE", "rouge"]

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")
REFERENCE = ("reference", "summary", "clean_summary")
"""Columns of the reference, the first that a row has."""


def rouge(
    rows: Sequence[Row],
    where: str,
    *,
    reference: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    seed: int = 0,
) -> dict[str, Interval]:
    """Mean of each measure with its 95 % interval, 0 to 100.

    Args:
        rows: With `completion` and a reference.
        where: The file, for messages.
        reference: Its column; `reference`, `summary` or `clean_summary` if None.
        progress: Told how many rows are done, of how many.
        seed: Of the bootstrap over prompts.

    Raises:
        DataError: No rows, or one without a completion or a reference.
        MissingExtraError: rouge-score is not installed.
    """
    if find_spec("rouge_score") is None:
        raise MissingExtraError("rouge_score", "eval")
    from rouge_score.rouge_scorer import RougeScorer  # type: ignore[import-untyped]

    rows = completed_rows(rows, where)
    columns = (reference,) if reference is not None else REFERENCE
    targets = [_reference(row, columns, f"{where}, row {n}") for n, row in enumerate(rows, start=1)]
    scorer = RougeScorer(list(ROUGE), use_stemmer=True)
    scores: dict[str, list[float]] = {name: [] for name in ROUGE}
    for number, (row, target) in enumerate(zip(rows, targets, strict=True), start=1):
        for name, score in scorer.score(target, row["completion"]).items():
            scores[name].append(100 * float(score.fmeasure))
        if progress is not None:
            progress(number, len(rows))
    prompts = [str(row.get("prompt", n)) for n, row in enumerate(rows)]
    return {name: mean_interval(values, prompts, seed=seed) for name, values in scores.items()}


def _reference(row: Row, columns: Sequence[str], where: str) -> str:
    for column in columns:
        if isinstance(row.get(column), str):
            return str(row[column])
    raise DataError(
        f"{where}: has no text in {' or '.join(map(repr, columns))} to compare with; its columns "
        f"are {', '.join(row)}"
    )
