"""`mpo score`: judge the completions of a file."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ..config import write_text
from ..records import Judgement
from .board import number
from .estimate import estimate, say_estimate
from .offline import Offline, Options, offline_command, open_offline, score_in_chunks
from .offline_rows import GIVEN
from .results import cost_lines

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@offline_command(app)
def score(
    options: Options,
    out: Path = typer.Option(None, help="Write the rows with their scores to this JSONL."),
    as_json: bool = typer.Option(False, "--json", help="Print the rows with their scores."),
) -> None:
    """Score the completions of a JSONL file, without a trainer.

    A row without a usable answer is unscored: its reward is null, never 0. The same command asks
    again only for what has no score yet; --estimate says what that would cost.

    Examples: mpo score rollouts.jsonl --chat http://localhost:8000/v1 --model m --out s.jsonl

    mpo score rollouts.jsonl --chat http://localhost:8000/v1 --model m --price 0.15,0.6 --estimate
    """
    opened = open_offline(options)
    known = opened.judgements()
    done = {id for id, j in known.items() if j.reward is not None and j.protocol != GIVEN}
    missing = sum(row.rollout.id not in done for row in opened.rows)
    found = estimate(opened, missing)
    if options.estimate:
        if as_json:
            typer.echo(json.dumps(found, indent=2))
        else:
            say_estimate(found)
        return
    if missing:
        say_estimate(found)
    judgements = asyncio.run(_score(opened))
    lines = [
        json.dumps(_scored(row.columns, judgement), ensure_ascii=False)
        for row, judgement in zip(opened.rows, judgements, strict=True)
    ]
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")
    if as_json:
        typer.echo("\n".join(lines))
        return
    typer.echo(_title(opened, len(judgements)))
    Console().print(_table(opened, judgements))
    typer.echo(cost_lines(opened.chats.costs()))
    typer.echo(f"store: {opened.reward.store.path}")
    if out is not None:
        typer.echo(f"scores: {out}")


async def _score(opened: Offline) -> list[Judgement]:
    rollouts = [row.rollout for row in opened.rows]
    try:
        return await score_in_chunks(opened.reward.score, rollouts)
    finally:
        opened.chats.keep()
        await opened.reward.aclose()


def _scored(row: dict[str, Any], judgement: Judgement) -> dict[str, Any]:
    return {
        **row,
        "reward": judgement.reward,
        "scores": {s.criterion: s.score for s in judgement.scores},
        "rationales": {s.criterion: s.rationale for s in judgement.scores},
        "unscored": judgement.unscored,
        "rule": judgement.rule,
        "rubric": judgement.rubric_id,
    }


def _title(opened: Offline, count: int) -> str:
    rubric = opened.reward.rubric()
    sandbox = "sandbox: " if opened.sandbox else ""
    return f"{sandbox}{count} completions under {rubric.title!r} ({rubric.id})"


def _table(opened: Offline, judgements: Sequence[Judgement]) -> Table:
    rubric = opened.reward.rubric()
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in ("mean", "low", "high"):
        table.add_column(name, justify="right")
    rewards = [j.reward for j in judgements if j.reward is not None]
    table.add_row("reward", *_spread(rewards))
    for key, criterion in zip(rubric.criterion_ids, rubric.criteria, strict=True):
        scores = [float(s.score) for j in judgements for s in j.scores if s.criterion == key]
        table.add_row(_plain(criterion.name), *_spread(scores))
    unscored = Counter(j.unscored.partition(":")[0] for j in judgements if j.unscored)
    for reason, count in unscored.most_common():
        table.add_row(f"unscored: {_plain(reason)}", str(count))
    rules = Counter(j.rule for j in judgements if j.rule)
    for rule, count in rules.most_common():
        table.add_row(f"rule {rule}", str(count))
    return table


def _spread(values: Sequence[float]) -> tuple[str, str, str]:
    if not values:
        return "–", "–", "–"
    return number(fmean(values)), number(min(values)), number(max(values))


def _plain(text: str) -> Any:
    """A model's words for a table: rich must not read `[red]` in them as markup."""
    from rich.markup import escape

    return escape(text)
