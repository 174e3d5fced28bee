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
from . import offline
from .offline import Offline, open_offline, score_all
from .results import cost_lines

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def evolve(
    file: Path = offline.FILE,
    task: str = offline.TASK,
    rubric: Path = offline.RUBRIC,
    chat: str = offline.CHAT,
    model: str = offline.MODEL,
    api_key_env: str = offline.API_KEY_ENV,
    concurrency: int = offline.CONCURRENCY,
    price: str = offline.PRICE,
    store: Path = offline.STORE,
    samples: int = typer.Option(16, min=1, help="Rollouts that the meta-reward model looks at."),
    seed: int = typer.Option(0, min=0, help="Of the choice among them."),
    out: Path = typer.Option(None, help="Write the proposed rubric to this file."),
    as_json: bool = typer.Option(False, "--json", help="Print one JSON object."),
) -> None:
    """Propose a better rubric from the completions of a JSONL file.

    The rows are scored under the rubric first; then the meta-reward model reads a sample of them
    with their scores and rewrites the rubric. Prints the proposal, its diff and why.

    Example: mpo evolve rollouts.jsonl --rubric r.md --chat http://localhost:8000/v1 --model qwen
    """
    opened = open_offline(
        file,
        task=task,
        rubric=rubric,
        chat=chat,
        model=model,
        api_key_env=api_key_env,
        concurrency=concurrency,
        store=store,
        price=price,
        samples=samples,
        seed=seed,
    )
    decision = asyncio.run(_evolve(opened))
    if decision.refinement is None:
        raise MetaStepError(f"no rubric was proposed: {decision.reason}")
    if out is not None:
        write_text(out, decision.refinement.rubric.to_markdown())
    before = opened.reward.seed_rubric
    if as_json:
        typer.echo(json.dumps(_object(opened, before, decision), indent=2, ensure_ascii=False))
    else:
        typer.echo(_text(opened, before, decision, out))


async def _evolve(opened: Offline) -> Decision:
    reward = opened.reward
    try:
        past = [d for d in reward.store.lineage() if d.kind == "evolve"]
        if past and past[-1].refinement is not None:
            return past[-1]  # paid for before
        if past:
            # The step failed before; without going back it would count as decided.
            reward.restore(reward.store.genesis())
        await score_all(opened)
        decision = await reward.step(1)
        assert decision is not None  # the schedule is Every(1)
        return decision
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


def _text(opened: Offline, before: Rubric, decision: Decision, out: Path | None) -> str:
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
        cost_lines(opened.chats.costs()),
        f"store: {opened.reward.store.path}",
    ]
    if out is not None:
        parts.append(f"written to {out}")
    return "\n".join(parts)
