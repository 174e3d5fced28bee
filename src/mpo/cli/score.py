"""`mpo score`: judge the completions of a file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import typer

from ..config import write_text
from ..data import plain
from ..records import Judgement, to_json
from ..rubric import Rubric
from .offline.options import OfflineOptions, offline_command
from .offline.rows import FROM_FILE
from .offline.session import estimate_cost, open_session, print_estimate, score_in_chunks
from .results import cost_lines
from .tables import number, print_table, table

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@offline_command(app)
def score(
    options: OfflineOptions,
    out: Path = typer.Option(None, help="Write the rows with their scores to this JSONL."),
    as_json: bool = typer.Option(False, "--json", help="Print the rows with their scores."),
) -> None:
    """Score the completions of a file, without a trainer.

    The file is JSONL, JSON, CSV or Parquet, with texts or conversations; --columns says which of
    its columns are prompt and completion.

    A row without a usable answer is unscored: its reward is null, never 0. The same command, run
    again, pays only for rows without a score; --estimate prints what that would cost.

    Examples: mpo score rollouts.jsonl --chat http://localhost:8000/v1 --model m --out s.jsonl

    mpo score rollouts.jsonl --chat http://localhost:8000/v1 --model m --price 0.15,0.6 --estimate
    """
    session = open_session(options)
    known = session.judgements()
    done = {id for id, j in known.items() if j.reward is not None and j.protocol != FROM_FILE}
    missing = sum(row.rollout.id not in done for row in session.rows)
    if missing or options.estimate:
        estimate = estimate_cost(session, missing)
        print_estimate(estimate, as_json=options.estimate and as_json)
    if options.estimate:
        return
    rollouts = [row.rollout for row in session.rows]
    distinct = session.run(score_in_chunks(session.reward.score, rollouts))
    judgements = [distinct[place] for place in session.file.places]
    lines = [
        to_json(_scored(columns, judgement))
        for columns, judgement in zip(session.file.columns, judgements, strict=True)
    ]
    if out is not None:
        write_text(out, "\n".join(lines) + "\n")
    if as_json:
        typer.echo("\n".join(lines))
        return
    rubric = session.reward.rubric()
    sandbox = "sandbox judge: " if session.sandbox else ""
    task = session.reward.task.name
    typer.echo(
        f"{sandbox}{len(judgements)} completions, task {task}, under {rubric.title!r} ({rubric.id})"
    )
    print_table(table("", ("mean", "low", "high"), _rows(rubric, judgements)))
    typer.echo(cost_lines(session.chats.costs()))
    typer.echo(f"store: {session.reward.store.path}")
    if out is not None:
        typer.echo(f"scores: {out}")


def _scored(row: dict[str, Any], judgement: Judgement) -> dict[str, Any]:
    return {
        **plain(row),
        "reward": judgement.reward,
        "scores": {s.criterion: s.score for s in judgement.scores},
        "rationales": {s.criterion: s.rationale for s in judgement.scores},
        "unscored": judgement.unscored,
        "rule": judgement.rule,
        "rubric": judgement.rubric_id,
    }


def _rows(rubric: Rubric, judgements: Sequence[Judgement]) -> Iterator[list[str]]:
    yield ["reward", *_spread([j.reward for j in judgements if j.reward is not None])]
    for key, criterion in zip(rubric.criterion_ids, rubric.criteria, strict=True):
        scores = [float(s.score) for j in judgements for s in j.scores if s.criterion == key]
        yield [criterion.name, *_spread(scores)]
    unscored = Counter(j.unscored.partition(":")[0] for j in judgements if j.unscored)
    yield from ([f"unscored: {reason}", str(count)] for reason, count in unscored.most_common())
    rules = Counter(j.rule for j in judgements if j.rule)
    yield from ([f"rule {rule}", str(count)] for rule, count in rules.most_common())


def _spread(values: Sequence[float]) -> tuple[str, str, str]:
    if not values:
        return "–", "–", "–"
    return number(fmean(values)), number(min(values)), number(max(values))
