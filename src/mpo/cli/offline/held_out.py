"""Rows with a person's score that the MRM never sees: they decide if a proposal agrees worse.

Both rubrics score the same held-out rows with the same RM, as rollouts of an evaluation, which are
no evidence (law 7 of docs/design.md). What counts is the share of pairs of rows that a rubric ranks
as people do: it is defined for every RM, also for one that gives all rows the same score (0.5), and
does not depend on anybody's scale.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ...evolve.gate import GateResult
from ...evolve.schedule import seeded
from ...records import Case, Refinement, Rollout
from ...rubric import Rubric
from .rows import FileRow
from .session import OfflineSession, score_in_chunks

__all__ = ["HeldOut", "agreement_lines", "hold_out", "remarks"]

SHARE = 0.4
"""Share of the rows with a human score that is held out, rounded up."""
LEAST = 6
"""Fewest rows with a human score of which some are held out; with fewer, agreement is not known."""
COLUMN = "held_out_rows"
"""Figure of a decision by which to tell that agreement was compared."""


def hold_out(rows: Sequence[FileRow], seed: int) -> list[FileRow]:
    """The rows that are held out, in the file's order: the same for the same file and seed.

    Whole prompts are held out, as the MRM would know the others of a prompt; single rows where
    there are too few prompts for that.
    """
    human = [row for row in rows if row.human is not None]
    if len(human) < LEAST:
        return []
    wanted, rng = math.ceil(SHARE * len(human)), seeded(seed, "held out")
    by_prompt: dict[str, list[FileRow]] = {}
    for row in human:
        by_prompt.setdefault(row.rollout.prompt, []).append(row)
    names = list(by_prompt)
    rng.shuffle(names)
    chosen: list[FileRow] = []
    for name in names:
        if len(chosen) < wanted:
            chosen += by_prompt[name]
    if len(chosen) > wanted + len(human) // 5:
        chosen = rng.sample(human, wanted)
    return sorted(chosen, key=lambda row: row.rollout.index)


def remarks(rows: Sequence[FileRow], held: Sequence[FileRow]) -> dict[str, str]:
    """Sentences on people's scores for the MRM, by rollout id; none on rows that are held out."""
    hidden = {row.rollout.id: None for row in held}
    known = {
        row.rollout.id: row.human
        for row in rows
        if row.human is not None and row.rollout.id not in hidden
    }
    if not known:
        return {}
    low, high = min(known.values()), max(known.values())
    return {
        id: f"A person's score: {score:g} (people's scores go from {low:g} to {high:g})."
        for id, score in known.items()
    }


class HeldOut:
    """Gate: refuse a proposal that ranks the held-out rows less as people do than the head does.

    Args:
        session: The file and its reward.
        rows: The rows that are held out.

    Raises:
        MissingExtraError: numpy is not installed.
    """

    def __init__(self, session: OfflineSession, rows: Sequence[FileRow]) -> None:
        self.session, self.rows = session, rows
        # It needs numpy, which the rest of the command does not.
        self._figures = importlib.import_module("...evaluation.agreement", __package__)

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        body = await self.compare(parent, refinement.rubric)
        figures = {COLUMN: float(body["n"])}
        change = body["change"] and body["change"]["pairwise"]
        if change is None:
            return GateResult(True, "agreement with people is not known", figures)
        head, new = body["head"]["pairwise"], body["proposal"]["pairwise"]
        figures |= {"held_out_head": head["value"], "held_out_new": new["value"]}
        figures["held_out_change"] = change["value"]
        agrees = (
            f"ranks {_cell(new)} of the pairs of {body['n']} held-out rows as people do "
            f"(head: {_cell(head)}; change {_cell(change)})"
        )
        if change["value"] < 0:
            return GateResult(False, f"it agrees worse with people: it {agrees}", figures)
        return GateResult(True, agrees, figures)

    async def compare(self, head: Rubric, proposal: Rubric) -> dict[str, Any]:
        """Agreement of both rubrics with people on the held-out rows; paid for once.

        Returns:
            JSON values: `human_scores`, `held_out`, `n` (rows that both scored), and `head`,
            `proposal` and `change`, each with `spearman`, `kendall` and `pairwise` (a value with
            its 95 % interval); None where fewer than two rows are left.

        Raises:
            ChatTransportError: No row at all could be scored.
        """
        scores = [await self._scores(rubric) for rubric in (head, proposal)]
        both = [
            (row, old, new)
            for row, old, new in zip(self.rows, *scores, strict=True)
            if old is not None and new is not None
        ]
        body = {
            "human_scores": sum(row.human is not None for row in self.session.rows),
            "held_out": len(self.rows),
            "n": len(both),
        }
        if len(both) < 2:
            return {**body, "head": None, "proposal": None, "change": None}
        prompts = [row.rollout.prompt for row, _, _ in both]
        if len(dict.fromkeys(prompts)) == 1:
            prompts = [row.rollout.id for row, _, _ in both]
        result = asdict(
            self._figures.compare_rankings(
                [row.human for row, _, _ in both],
                [old for _, old, _ in both],
                [new for _, _, new in both],
                prompts,
                seed=self.session.reward.seed,
            )
        )
        parts = {"head": "before", "proposal": "after", "change": "change"}
        return {**body, **{name: result[part] for name, part in parts.items()}}

    async def _scores(self, rubric: Rubric) -> list[float | None]:
        rollouts = [
            Rollout(
                prompt=row.rollout.prompt,
                completion=row.rollout.completion,
                columns=row.rollout.columns,
                index=row.rollout.index,
                mode="eval",
            )
            for row in self.rows
        ]
        self.session.reward.store.put_rubric(rubric)
        scorer = self.session.scorer()
        judgements = await score_in_chunks(
            lambda chunk: scorer.score_under(rubric, chunk), rollouts, "scoring held-out rows"
        )
        return [judgement.normalized_reward for judgement in judgements]


def agreement_lines(body: Mapping[str, Any]) -> str:
    """A few lines for a person."""
    where = f"{body['n']} held-out rows of {body['human_scores']} with a person's score"
    if body["head"] is None:
        return f"agreement with people: not known, both rubrics scored {where}"
    lines = [
        f"agreement with people on {where} (95 % intervals)",
        f"  {'':<10}{'head':<24}{'proposal':<24}change",
    ]
    for name in ("pairwise", "spearman", "kendall"):
        cells = [_cell(body[part][name]) for part in ("head", "proposal", "change")]
        lines.append(f"  {name:<10}{cells[0]:<24}{cells[1]:<24}{cells[2]}")
    return "\n".join(lines)


def _cell(figure: Mapping[str, float | None] | None) -> str:
    if figure is None:
        return "–"
    if figure["low"] is None:
        return f"{figure['value']:.3f}"
    return f"{figure['value']:.3f} [{figure['low']:.3f}, {figure['high']:.3f}]"
