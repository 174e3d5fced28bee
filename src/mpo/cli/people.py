"""`mpo evolve` where a file has human scores: agreement with them before and after."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ..records import Rollout
from ..rubric import Rubric
from .offline import Offline, score_in_chunks
from .offline_rows import GIVEN, FileRow

__all__ = ["agreement_with_people", "check_people", "people_table"]


def check_people(opened: Offline) -> None:
    """Find out before anything is paid that people's scores cannot be compared with.

    Raises:
        MissingExtraError: numpy is not installed.
    """
    if any(row.human is not None for row in opened.rows):
        _figures()


def _figures() -> Any:
    # Needs numpy, which the rest of the command does not.
    return importlib.import_module("..evaluation.human", __package__)


async def agreement_with_people(opened: Offline, proposal: Rubric) -> dict[str, Any] | None:
    """Score the rows that people scored under the proposal, and compare both with people.

    Returns:
        JSON values; None where the file has no human scores.

    Raises:
        ChatTransportError: Nothing at all could be scored.
        MissingExtraError: numpy is not installed.
    """
    rows = [row for row in opened.rows if row.human is not None]
    if not rows:
        return None
    human = _figures()
    before, source = _before(opened, rows)
    after = await _after(opened, rows, proposal)
    both = [(row, before[n], after[n]) for n, row in enumerate(rows)]
    known = [(row, a, b) for row, a, b in both if a is not None and b is not None]
    whole = {"human_scores": len(rows), "before_from": source}
    if len(known) < 2:
        return {**whole, "n": len(known), "before": None, "after": None, "change": None}
    found = human.compare_rankings(
        [row.human for row, _, _ in known],
        [one for _, one, _ in known],
        [other for _, _, other in known],
        [row.rollout.prompt for row, _, _ in known],
        seed=opened.reward.seed,
    )
    return {**whole, **found.to_json()}


def _before(opened: Offline, rows: list[FileRow]) -> tuple[list[float | None], str]:
    """Scores under the rubric before: the file's own or those asked for, whichever are more.

    They are on two scales, and a ranking of both together would say nothing.
    """
    known = opened.judgements()
    found = [known.get(row.rollout.id) for row in rows]
    given = [j is not None and j.protocol == GIVEN for j in found]
    wanted = 2 * sum(given) >= len(rows)
    scores = [
        None if judgement is None or mine != wanted else judgement.reward
        for judgement, mine in zip(found, given, strict=True)
    ]
    return scores, "the file" if wanted else "the reward model"


async def _after(opened: Offline, rows: list[FileRow], proposal: Rubric) -> list[float | None]:
    # As rollouts of an evaluation: no evidence, and in no mean of the run.
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
    opened.reward.store.put_rubric(proposal)
    scorer = opened.scorer()
    judgements = await score_in_chunks(
        lambda chunk: scorer.score_under(proposal, chunk), rollouts, "scoring under the proposal"
    )
    return [judgement.reward for judgement in judgements]


def people_table(people: Mapping[str, Any]) -> str:
    """A few lines for a person."""
    if people["before"] is None:
        return f"agreement with people: only {people['n']} rows have a score before and after"
    lines = [
        f"agreement with people on {people['n']} rows of {people['prompts']} prompts "
        f"(before: scores of {people['before_from']}; 95 % by prompt)",
        f"  {'':<10}{'before':<24}{'after':<24}change",
    ]
    for name in ("spearman", "kendall", "pairwise"):
        cells = [_shown(people[part][name]) for part in ("before", "after", "change")]
        lines.append(f"  {name:<10}{cells[0]:<24}{cells[1]:<24}{cells[2]}")
    return "\n".join(lines)


def _shown(figure: Mapping[str, float | None] | None) -> str:
    if figure is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
