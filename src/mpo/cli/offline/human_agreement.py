"""Agreement of scores with human scores, before and after `mpo evolve`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from ...records import Rollout
from ...rubric import Rubric
from .rows import FROM_FILE, FileRow
from .session import OfflineSession, score_in_chunks

__all__ = ["agreement_table", "check_extra", "human_agreement"]


def check_extra(session: OfflineSession) -> None:
    """Check, before anything is paid, that human scores of the file can be compared.

    Raises:
        MissingExtraError: numpy is not installed.
    """
    if any(row.human is not None for row in session.rows):
        _import_figures()


def _import_figures() -> Any:
    # It needs numpy, which the rest of the command does not.
    return importlib.import_module("...evaluation.agreement", __package__)


async def human_agreement(session: OfflineSession, proposal: Rubric) -> dict[str, Any] | None:
    """Score the rows that have a human score under the proposal, and compare before and after.

    Returns:
        JSON values; None if the file has no human scores.

    Raises:
        ChatTransportError: No row at all could be scored.
        MissingExtraError: numpy is not installed.
    """
    rows = [row for row in session.rows if row.human is not None]
    if not rows:
        return None
    before, source = _scores_before(session, rows)
    after = await _scores_after(session, rows, proposal)
    triples = [
        (row, old, new)
        for row, old, new in zip(rows, before, after, strict=True)
        if old is not None and new is not None
    ]
    body = {"human_scores": len(rows), "before_from": source}
    if len(triples) < 2:
        return {**body, "n": len(triples), "before": None, "after": None, "change": None}
    result = _import_figures().compare_rankings(
        [row.human for row, _, _ in triples],
        [old for _, old, _ in triples],
        [new for _, _, new in triples],
        [row.rollout.prompt for row, _, _ in triples],
        seed=session.reward.seed,
    )
    return {**body, **asdict(result)}


def _scores_before(session: OfflineSession, rows: list[FileRow]) -> tuple[list[float | None], str]:
    """Scores under the rubric before, by the file or by the RM, whichever has more of them.

    They are on two scales, and a ranking of both together would mean nothing.
    """
    known = session.judgements()
    judgements = [known.get(row.rollout.id) for row in rows]
    from_file = [j is not None and j.protocol == FROM_FILE for j in judgements]
    use_file = 2 * sum(from_file) >= len(rows)
    scores = [
        judgement.reward if judgement is not None and own == use_file else None
        for judgement, own in zip(judgements, from_file, strict=True)
    ]
    return scores, "the file" if use_file else "the reward model"


async def _scores_after(
    session: OfflineSession, rows: list[FileRow], proposal: Rubric
) -> list[float | None]:
    # Rollouts of an evaluation: they are no evidence, and in no mean of the run.
    rollouts = [
        Rollout(
            prompt=row.rollout.prompt,
            completion=row.rollout.completion,
            columns=row.rollout.columns,
            index=row.rollout.index,
            mode="eval",
        )
        for row in rows
    ]
    session.reward.store.put_rubric(proposal)
    scorer = session.scorer()
    judgements = await score_in_chunks(
        lambda chunk: scorer.score_under(proposal, chunk), rollouts, "scoring under the proposal"
    )
    return [judgement.reward for judgement in judgements]


def agreement_table(agreement: Mapping[str, Any]) -> str:
    """A few lines for a person."""
    if agreement["before"] is None:
        return f"agreement with people: only {agreement['n']} rows have a score before and after"
    lines = [
        f"agreement with people on {agreement['n']} rows of {agreement['prompts']} prompts "
        f"(before: scores of {agreement['before_from']}; 95 % by prompt)",
        f"  {'':<10}{'before':<24}{'after':<24}change",
    ]
    for name in ("spearman", "kendall", "pairwise"):
        cells = [_cell(agreement[part][name]) for part in ("before", "after", "change")]
        lines.append(f"  {name:<10}{cells[0]:<24}{cells[1]:<24}{cells[2]}")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float | None] | None) -> str:
    if figure is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
