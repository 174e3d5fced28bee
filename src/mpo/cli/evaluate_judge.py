"""`mpo evaluate judge`: the quality of a rubric with a reward model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from ..errors import ConfigError, DataError, StoreError
from ..evaluation.agreement import Agreement, agreement, case_agreement
from ..evaluation.criteria import Criteria, criteria_figures
from ..records import Case
from ..rubric import Rubric
from ..store import Store
from . import offline
from .evaluate_common import AS_JSON, SEED, columns, is_file, percent, plain, rows_of_file, table
from .evaluate_pairs import PairsAsking, judge_pairs, read_pair_files
from .runs import open_store

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Shown = tuple[dict[str, Any], list[Table]]
"""A result for a program and for a person."""


@app.command()
def judge(
    sources: list[str] = typer.Argument(
        ..., help="Files of preference pairs; or one run; or one JSONL with columns of scores."
    ),
    task: str = offline.TASK,
    rubric: Path = offline.RUBRIC,
    chat: str = typer.Option("", "--chat", help="For pairs: http://host:port/v1, or sandbox."),
    model: str = offline.MODEL,
    api_key_env: str = offline.API_KEY_ENV,
    concurrency: int = offline.CONCURRENCY,
    store: Path = offline.STORE,
    limit: int = typer.Option(0, min=0, help="For pairs: the first of each file; 0 for all."),
    other: str = typer.Option("", help="For a run: the run of a judge to compare with."),
    which: str = typer.Option(
        "", help="For a run: head, seed, or an id's first digits; the rubric last used if empty."
    ),
    compare: str = typer.Option("", help="For a JSONL: two columns of scores, ONE,OTHER."),
    seed: int = SEED,
    as_json: bool = AS_JSON,
) -> None:
    """Measure how good a rubric is with a reward model.

    Preference pairs (prompt, chosen, rejected, maybe subset; or LLMBar's input, output_1, output_2,
    label): how often the reward prefers what people preferred. A run: what each criterion
    contributes. A run and --other, or two columns: how far two judges agree.

    Examples: mpo evaluate judge pairs.jsonl --rubric r.md --chat http://localhost:8000/v1 --model m

    mpo evaluate judge runs/essay-mpo-0 --json

    mpo evaluate judge runs/judge-a --other runs/judge-b

    mpo evaluate judge scored.jsonl --compare score,human_score
    """
    files = [is_file(source) for source in sources]
    if len(sources) > 1 and (compare or not all(files)):
        raise ConfigError("only files of preference pairs may be several: name one run or file")
    if compare:
        body, tables = _columns(sources[0], compare)
    elif all(files):
        pairs = read_pair_files(sources, limit)
        asking = PairsAsking(task, rubric, chat, model, api_key_env, concurrency, store, seed)
        body, tables = judge_pairs(pairs, asking)
    elif other:
        body, tables = _two_runs(sources[0], other)
    else:
        body, tables = _criteria(sources[0], which)
    if as_json:
        typer.echo(json.dumps(body, indent=2, ensure_ascii=False))
    else:
        Console().print(*tables)


# ---------------------------------------------------------------------- criteria of a run


def _criteria(run: str, which: str) -> Shown:
    with open_store(run) as store:
        cases = _cases(store)
        rubric = _rubric(store, cases, which)
        gold = {id: audit.value for id, audit in store.external_scores().items()}
    found = criteria_figures(cases, rubric, gold)
    return found.to_json(), [_criteria_table(found)]


def _cases(store: Store) -> list[Case]:
    """All of a run's judgements, those of evaluations included.

    Raises:
        StoreError: There are none.
    """
    found = [case for mode in ("train", "eval") for case in store.window(cohort=None, mode=mode)]
    if not found:
        raise StoreError(f"{store.path} has no judgements yet: score something first")
    return found


def _rubric(store: Store, cases: list[Case], which: str) -> Rubric:
    if not which:
        return store.rubric(cases[-1].judgement.rubric_id)
    if which not in ("head", "seed"):
        return store.rubric(which)
    lineage = store.lineage()
    seed = next((d.proposed for d in lineage if d.kind == "seed"), None)
    head = next((d.head for d in reversed(lineage)), None)
    named = seed if which == "seed" else head
    if named is None:
        raise StoreError(f"{store.path} has no rubric yet")
    return store.rubric(named)


def _criteria_table(found: Criteria) -> Table:
    groups = found.dead_groups
    made = table(
        f"{found.rubric.title} ({found.rubric.id}): {found.n} judgements, "
        f"{found.effective:.1f} effective of {len(found.figures)} criteria"
        + ("" if groups is None else f", {percent(groups)} of groups all equal")
    )
    columns(made, "mean", "highest", "lowest", "discrimination", "most like", "gold")
    made.add_column("faults")
    for one in found.figures:
        like = "–" if one.like is None else f"{_figure(one.likeness)} {one.like[:24]}"
        made.add_row(
            plain(one.name[:32]),
            f"{one.mean:.2f}",
            percent(one.at_highest),
            percent(one.at_lowest),
            _figure(one.discrimination),
            plain(like),
            _figure(one.gold),
            ", ".join(one.faults),
        )
    return made


# ---------------------------------------------------------------------- two judges


def _two_runs(run: str, other: str) -> Shown:
    with open_store(run) as one, open_store(other) as two:
        found = case_agreement(_cases(one), _cases(two))
        names: dict[str, str] = {}
        for rubric in one.rubrics().values():
            keys = zip(rubric.criterion_ids, rubric.criteria, strict=True)
            names.update({key: criterion.name for key, criterion in keys})
    criteria = {names.get(key, key): value for key, value in found.criteria.items()}
    title = f"agreement of {run} and {other}"
    return found.to_json(), [_agreement_table(title, {"reward": found.reward, **criteria})]


def _columns(source: str, compare: str) -> Shown:
    names = [name.strip() for name in compare.split(",")]
    if len(names) != 2 or not all(names):
        raise ConfigError(f"--compare {compare!r}: write two columns, e.g. score,human_score")
    scores: list[tuple[float, float]] = []
    rows = rows_of_file(Path(source))
    for number, row in enumerate(rows, start=1):
        pair = [_score(row, name, f"{source}, row {number}") for name in names]
        if pair[0] is not None and pair[1] is not None:  # null is unscored, and no 0
            scores.append((pair[0], pair[1]))
    if not scores:
        raise DataError(f"{source}: none of its {len(rows)} rows has a score in both columns")
    found = agreement([a for a, _ in scores], [b for _, b in scores])
    title = f"agreement of {names[0]} and {names[1]} in {source}"
    body = {**found.to_json(), "unscored": len(rows) - len(scores)}
    return body, [_agreement_table(title, {compare: found})]


def _score(row: Mapping[str, Any], name: str, where: str) -> float | None:
    if name not in row:
        raise DataError(f"{where}: has no column {name!r}; its columns are {', '.join(row)}")
    value = row[name]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise DataError(f"{where}: {name!r} must be a number or null, not {value!r:.40}")
    return None if value is None else float(value)


def _agreement_table(title: str, found: Mapping[str, Agreement]) -> Table:
    made = table(title)
    columns(made, "n", "equal", "α nominal", "α ordinal", "κ quadratic", "ρ", "τ", "commonest")
    for name, one in found.items():
        made.add_row(
            plain(name[:32]),
            str(one.n),
            percent(one.exact),
            _figure(one.alpha_nominal),
            _figure(one.alpha_ordinal),
            _figure(one.kappa_quadratic),
            _figure(one.spearman),
            _figure(one.kendall),
            " / ".join(percent(share) for share in one.commonest),
        )
    return made


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
