"""`mpo evolve`: one meta step on the completions of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import typer

from ..config import write_text
from ..errors import MetaStepError
from ..records import Decision
from ..rubric import Rubric, diff_rubrics
from .offline.human_agreement import agreement_table, check_extra, human_agreement
from .offline.options import OfflineOptions, offline_command
from .offline.pricing import estimate_cost, print_estimate
from .offline.session import OfflineSession, open_session, score_in_chunks
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
    """Propose a better rubric from the completions of a JSONL file.

    A row's score and rationale are used unchanged, on any scale; rows without a score are scored
    under the rubric first. The meta-reward model reads a sample of the rows and rewrites the
    rubric. Rows with a human_score are scored under the proposal too, to compare the agreement with
    people. Prints the proposal, its diff and the reasons; the same command continues where it
    stopped.

    Examples: mpo evolve rollouts.jsonl --rubric r.md --chat http://localhost:8000/v1 --model qwen

    mpo evolve rollouts.jsonl --chat http://localhost:8000/v1 --model qwen --estimate
    """
    session = open_session(options, samples=samples, seed=seed)
    check_extra(session)
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
        typer.echo(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        typer.echo(_text(session, before, decision, human, out))


def _past_proposal(session: OfflineSession) -> Decision | None:
    """The decision of an earlier call that brought a proposal."""
    past = [d for d in session.reward.store.lineage() if d.kind == "evolve"]
    return past[-1] if past and past[-1].refinement is not None else None


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
    return decision, await human_agreement(session, decision.refinement.rubric)


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
        f"{'sandbox: ' if session.sandbox else ''}proposed rubric {refinement.rubric.id}",
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
        *([agreement_table(human)] if human is not None else []),
        cost_lines(session.chats.costs()),
        f"store: {session.reward.store.path}",
    ]
    if out is not None:
        parts.append(f"written to {out}")
    return "\n".join(parts)
