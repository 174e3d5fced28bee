"""`mpo evolve`: one meta step on the completions of a file."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import typer

from ..chat import identity_of
from ..config import write_text
from ..errors import MetaStepError
from ..records import Decision, Rollout, to_json
from ..rubric import Rubric, diff_rubrics
from .offline.options import OfflineOptions, offline_command
from .offline.rows import FROM_FILE, FileRow
from .offline.session import (
    OfflineSession,
    estimate_cost,
    open_session,
    print_estimate,
    score_in_chunks,
)
from .results import cost_lines

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@offline_command(app)
def evolve(
    options: OfflineOptions,
    samples: int = typer.Option(16, min=1, help="Rollouts that the meta-reward model reads."),
    seed: int = typer.Option(0, min=0, help="Random seed for choosing them."),
    out: Path = typer.Option(None, help="Write the proposed rubric to this file."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Propose a better rubric from the completions of a file.

    A row's score and rationale are used unchanged, on any scale; rows without a score are scored
    under the rubric first. The meta-reward model reads a sample of the rows and rewrites the
    rubric. Rows with a human_score are scored under the proposal too, to compare the agreement with
    people. Prints the proposal, its diff and the reasons; the same command continues where it
    stopped.

    Examples: mpo evolve rollouts.jsonl --rubric r.md --chat http://localhost:8000/v1 --model qwen

    mpo evolve rollouts.jsonl --chat http://localhost:8000/v1 --model qwen --estimate
    """
    session = open_session(options, samples=samples, seed=seed)
    _check_extra(session)
    past = _past_proposal(session)
    if past is None:
        session.use_file_scores()
    if options.estimate or past is None:
        count = _missing_judgements(session, past)
        estimate = estimate_cost(session, count, 0 if past else samples)
        print_estimate(estimate, as_json=options.estimate and as_json)
    if options.estimate:
        return
    decision, human = session.run(_evolve(session, past))
    if decision.refinement is None:
        raise MetaStepError(f"no rubric was proposed: {decision.reason}")
    if out is not None:
        write_text(out, decision.refinement.rubric.to_markdown())
    before = session.reward.seed_rubric
    if as_json:
        body = {**_body(session, before, decision), "human": human}
        typer.echo(to_json(body, indent=2))
    else:
        typer.echo(_text(session, before, decision, human, out))


def _past_proposal(session: OfflineSession) -> Decision | None:
    """The decision of an earlier call that brought a proposal by this very model."""
    past = [d for d in session.reward.store.lineage() if d.kind == "evolve"]
    refinement = past[-1].refinement if past else None
    mine = identity_of(session.reward.meta_chat)
    return past[-1] if refinement is not None and refinement.answered_by == mine else None


def _missing_judgements(session: OfflineSession, past: Decision | None) -> int:
    """Number of judgements to pay for: of rows without a score, and of those with a human score,
    under the proposal."""
    human = [row for row in session.rows if row.human is not None]
    if past is None:
        return len(session.unscored()) + len(human)
    done = {
        case.rollout.index
        for case in session.reward.store.window(cohort=None, mode="eval")
        if case.judgement.rubric_id == past.proposed
    }
    return sum(row.rollout.index not in done for row in human)


async def _evolve(
    session: OfflineSession, past: Decision | None
) -> tuple[Decision, dict[str, Any] | None]:
    """The decision, and its agreement with human scores if there are any."""
    reward = session.reward
    decision = past
    if decision is None:
        if len(reward.store.lineage()) > 1:
            # The step failed before; without going back it would count as decided.
            reward.restore(reward.store.genesis())
            session.use_file_scores()
        await score_in_chunks(reward.score, session.unscored())
        decision = await reward.step(1)
    assert decision is not None  # a meta step is due after every update
    if decision.refinement is None:
        return decision, None
    return decision, await _human_agreement(session, decision.refinement.rubric)


def _body(session: OfflineSession, before: Rubric, decision: Decision) -> dict[str, Any]:
    refinement = decision.refinement
    assert refinement is not None
    return {
        "sandbox": session.sandbox,
        "accepted": decision.accepted,
        "reason": decision.reason,
        "reasons": refinement.reasons,
        "parent": before.id,
        "rubric": refinement.rubric.model_dump(mode="json"),
        "markdown": refinement.rubric.to_markdown(),
        "diff": diff_rubrics(before, refinement.rubric),
        "analyses": [analysis.model_dump(mode="json") for analysis in refinement.analyses],
        "skipped": list(refinement.skipped),
        "usage": {role: usage.model_dump() for role, usage in session.reward.store.usage().items()},
        "cost": session.chats.costs(),
        "store": str(session.reward.store.path),
    }


def _text(
    session: OfflineSession,
    before: Rubric,
    decision: Decision,
    human: dict[str, Any] | None,
    out: Path | None,
) -> str:
    refinement = decision.refinement
    assert refinement is not None
    change = diff_rubrics(before, refinement.rubric) or "no change\n"
    verdict = "accepted" if decision.accepted else "not accepted"
    parts = [
        f"{'sandbox judge: ' if session.sandbox else ''}proposed rubric {refinement.rubric.id}",
        "",
        refinement.rubric.to_markdown(),
        f"diff against {before.id}",
        "",
        change,
        "why",
        "",
        refinement.reasons or "(no reasons given)",
        "",
        f"{verdict}: {decision.reason}; from {len(refinement.analyses)} analyses"
        + (f", {len(refinement.skipped)} cases left out" if refinement.skipped else ""),
        *([_agreement_table(human)] if human is not None else []),
        cost_lines(session.chats.costs()),
        f"store: {session.reward.store.path}",
    ]
    if out is not None:
        parts.append(f"written to {out}")
    return "\n".join(parts)


# ---------------------------------------------------------------------- agreement with people


def _check_extra(session: OfflineSession) -> None:
    """Check, before anything is paid, that human scores of the file can be compared.

    Raises:
        MissingExtraError: numpy is not installed.
    """
    if any(row.human is not None for row in session.rows):
        _import_figures()


def _import_figures() -> Any:
    # It needs numpy, which the rest of the command does not.
    return importlib.import_module("..evaluation.agreement", __package__)


async def _human_agreement(session: OfflineSession, proposal: Rubric) -> dict[str, Any] | None:
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


def _agreement_table(agreement: Mapping[str, Any]) -> str:
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
