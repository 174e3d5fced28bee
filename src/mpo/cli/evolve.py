"""`mpo evolve`: one meta step on the completions of a file."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import typer

from ..config import write_text
from ..errors import MetaStepError
from ..records import Decision
from ..rubric import Rubric, diff_rubrics
from .estimate import estimate, say_estimate
from .offline import Offline, Options, offline_command, open_offline, score_in_chunks
from .people import agreement_with_people, check_people, people_table
from .results import cost_lines

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@offline_command(app)
def evolve(
    options: Options,
    samples: int = typer.Option(16, min=1, help="Rollouts that the meta-reward model looks at."),
    seed: int = typer.Option(0, min=0, help="Of the choice among them."),
    out: Path = typer.Option(None, help="Write the proposed rubric to this file."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Propose a better rubric from the completions of a JSONL file.

    A row's score and rationale are taken as they are, on whatever scale; rows without are scored
    under the rubric first. The meta-reward model reads a sample of them and rewrites the rubric.
    Rows with a human_score are scored under the proposal too, to see whether it agrees better.
    Prints the proposal, its diff and why; the same command goes on where it was stopped.

    Examples: mpo evolve rollouts.jsonl --rubric r.md --chat http://localhost:8000/v1 --model qwen

    mpo evolve rollouts.jsonl --chat http://localhost:8000/v1 --model qwen --estimate
    """
    opened = open_offline(options, samples=samples, seed=seed)
    check_people(opened)
    past = _past(opened)
    if past is None:
        opened.use_given()
    if options.estimate or past is None:
        found = estimate(opened, _judgements(opened, past), 0 if past else samples)
        if options.estimate and as_json:
            typer.echo(json.dumps(found, indent=2))
        else:
            say_estimate(found)
        if options.estimate:
            return
    decision, people = asyncio.run(_evolve(opened, past))
    if decision.refinement is None:
        raise MetaStepError(f"no rubric was proposed: {decision.reason}")
    if out is not None:
        write_text(out, decision.refinement.rubric.to_markdown())
    before = opened.reward.seed_rubric
    if as_json:
        shown = {**_object(opened, before, decision), "human": people}
        typer.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    else:
        typer.echo(_text(opened, before, decision, people, out))


def _past(opened: Offline) -> Decision | None:
    """The proposal that was paid for before."""
    past = [d for d in opened.reward.store.lineage() if d.kind == "evolve"]
    return past[-1] if past and past[-1].refinement is not None else None


def _judgements(opened: Offline, past: Decision | None) -> int:
    """How many are still to be asked for: of rows without a score, and of those that people
    scored, under the proposal."""
    human = [row for row in opened.rows if row.human is not None]
    if past is None:
        return len(opened.unscored()) + len(human)
    store = opened.reward.store
    done = {
        case.rollout.index
        for case in store.window(cohort=None, mode="eval")
        if case.judgement.rubric_id == past.proposed
    }
    return sum(row.rollout.index not in done for row in human)


async def _evolve(opened: Offline, past: Decision | None) -> tuple[Decision, dict[str, Any] | None]:
    """The decision, and agreement with people's scores where there are any."""
    reward = opened.reward
    try:
        decision = past
        if decision is None:
            if len(reward.store.lineage()) > 1:
                # The step failed before; without going back it would count as decided.
                reward.restore(reward.store.genesis())
                opened.use_given()
            await score_in_chunks(reward.score, opened.unscored())
            decision = await reward.step(1)
        assert decision is not None  # the schedule is Every(1)
        if decision.refinement is None:
            return decision, None
        return decision, await agreement_with_people(opened, decision.refinement.rubric)
    finally:
        opened.chats.keep()
        await reward.aclose()


def _object(opened: Offline, before: Rubric, decision: Decision) -> dict[str, Any]:
    refinement = decision.refinement
    assert refinement is not None
    return {
        "sandbox": opened.sandbox,
        "accepted": decision.accepted,
        "reason": decision.reason,
        "reasons": refinement.reasons,
        "parent": before.id,
        "rubric": refinement.rubric.model_dump(mode="json"),
        "markdown": refinement.rubric.to_markdown(),
        "diff": diff_rubrics(before, refinement.rubric),
        "analyses": [analysis.model_dump(mode="json") for analysis in refinement.analyses],
        "skipped": list(refinement.skipped),
        "usage": {role: usage.model_dump() for role, usage in opened.reward.store.usage().items()},
        "cost": opened.chats.costs(),
        "store": str(opened.reward.store.path),
    }


def _text(
    opened: Offline,
    before: Rubric,
    decision: Decision,
    people: dict[str, Any] | None,
    out: Path | None,
) -> str:
    refinement = decision.refinement
    assert refinement is not None
    change = diff_rubrics(before, refinement.rubric) or "no change\n"
    verdict = "accepted" if decision.accepted else "not accepted"
    parts = [
        f"{'sandbox: ' if opened.sandbox else ''}proposed rubric {refinement.rubric.id}",
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
        *([people_table(people)] if people is not None else []),
        cost_lines(opened.chats.costs()),
        f"store: {opened.reward.store.path}",
    ]
    if out is not None:
        parts.append(f"written to {out}")
    return "\n".join(parts)
