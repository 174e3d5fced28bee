"""`mpo evaluate judge`: the quality of a rubric with a reward model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from ..config import read_rubric_file
from ..config.plugins import find_plugin
from ..errors import ConfigError, DataError, StoreError
from ..evaluation.agreement import Agreement, agreement, case_agreement
from ..evaluation.criteria import Criteria, criteria_figures
from ..evaluation.judge_accuracy import (
    Outcome,
    Pair,
    PairAccuracy,
    accuracy,
    read_pairs,
    score_pairs,
)
from ..evolve.options import Evolve
from ..judge.options import Scoring
from ..records import Case, content_hash
from ..reward import EvolvingReward
from ..rubric import Rubric
from ..store import Store
from ..task import load_task
from . import offline
from .endpoints import endpoint
from .evaluate_common import (
    AS_JSON,
    SEED,
    Output,
    bounds,
    columns,
    is_file,
    percent,
    plain,
    progress_bar,
    rows_of_file,
    show,
    table,
)
from .runs import RUNS, open_store

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Shown = tuple[dict[str, Any], Output]
"""A result for a program and for a person."""


@app.command()
def judge(
    sources: list[str] = typer.Argument(
        ..., help="Files of preference pairs, one run, or one JSONL file with columns of scores."
    ),
    task: str = offline.TASK,
    rubric: Path = offline.RUBRIC,
    chat: str = typer.Option(
        "",
        "--chat",
        help="For pairs: endpoint of the reward model, http://host:port/v1, or sandbox.",
    ),
    model: str = offline.MODEL,
    api_key_env: str = offline.API_KEY_ENV,
    concurrency: int = offline.CONCURRENCY,
    store: Path = offline.STORE,
    limit: int = typer.Option(
        0, min=0, help="For pairs: use only the first of each file; 0 for all."
    ),
    other: str = typer.Option("", help="For a run: a second run, by the judge to compare with."),
    which: str = typer.Option(
        "",
        help="For a run: the rubric to analyse: head, seed, or an id's first digits; the one last "
        "used if empty.",
    ),
    compare: str = typer.Option("", help="For a JSONL file: two columns of scores, ONE,OTHER."),
    seed: int = SEED,
    as_json: bool = AS_JSON,
) -> None:
    """Measure how good a rubric is with a reward model.

    With preference pairs (prompt, chosen, rejected and optionally subset; or LLMBar's input,
    output_1, output_2, label): how often the reward prefers what people preferred. With a run: what
    each criterion contributes. With a run and --other, or with two columns: how far two judges
    agree.

    Examples: mpo evaluate judge pairs.jsonl --rubric r.md --chat http://localhost:8000/v1 --model m

    mpo evaluate judge runs/essay-mpo-0 --json

    mpo evaluate judge runs/judge-a --other runs/judge-b

    mpo evaluate judge scored.jsonl --compare score,human_score
    """
    files = [is_file(source) for source in sources]
    if len(sources) > 1 and (compare or not all(files)):
        raise ConfigError("only files of preference pairs may be several: give one run or file")
    if compare:
        body, tables = _columns(sources[0], compare)
    elif all(files):
        pairs = _read_pair_files(sources, limit)
        options = _PairOptions(task, rubric, chat, model, api_key_env, concurrency, store, seed)
        body, tables = _judge_pairs(pairs, options)
    elif other:
        body, tables = _two_runs(sources[0], other)
    else:
        body, tables = _criteria(sources[0], which)
    show(body, tables, as_json)


# ---------------------------------------------------------------------- criteria of a run


def _criteria(run: str, which: str) -> Shown:
    with open_store(run) as store:
        cases = _cases(store)
        rubric = _rubric(store, cases, which)
        gold = {id: score.value for id, score in store.external_scores().items()}
    criteria = criteria_figures(cases, rubric, gold)
    return criteria.to_json(), [_criteria_table(criteria)]


def _cases(store: Store) -> list[Case]:
    """All scored rollouts of a run, those of evaluations included.

    Raises:
        StoreError: There are none.
    """
    cases = [case for mode in ("train", "eval") for case in store.window(cohort=None, mode=mode)]
    if not cases:
        raise StoreError(f"{store.path} has no judgements yet: score something first")
    return cases


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


def _criteria_table(criteria: Criteria) -> Table:
    groups = criteria.dead_groups
    shown = table(
        f"{criteria.rubric.title} ({criteria.rubric.id}): {criteria.n} judgements, "
        f"{criteria.effective:.1f} effective of {len(criteria.figures)} criteria"
        + ("" if groups is None else f", {percent(groups)} of groups all equal")
    )
    columns(shown, "mean", "highest", "lowest", "discrimination", "most similar", "gold")
    shown.add_column("faults")
    for one in criteria.figures:
        similar = "–"
        if one.most_similar is not None:
            similar = f"{_figure(one.similarity)} {one.most_similar[:24]}"
        shown.add_row(
            plain(one.name[:32]),
            f"{one.mean:.2f}",
            percent(one.at_highest),
            percent(one.at_lowest),
            _figure(one.discrimination),
            plain(similar),
            _figure(one.gold),
            ", ".join(one.faults),
        )
    return shown


# ---------------------------------------------------------------------- two judges


def _two_runs(run: str, other: str) -> Shown:
    with open_store(run) as one, open_store(other) as two:
        result = case_agreement(_cases(one), _cases(two))
        names: dict[str, str] = {}
        for rubric in one.rubrics().values():
            keys = zip(rubric.criterion_ids, rubric.criteria, strict=True)
            names.update({key: criterion.name for key, criterion in keys})
    criteria = {names.get(key, key): value for key, value in result.criteria.items()}
    title = f"agreement of {run} and {other}"
    return result.to_json(), [_agreement_table(title, {"reward": result.reward, **criteria})]


def _columns(source: str, compare: str) -> Shown:
    names = [name.strip() for name in compare.split(",")]
    if len(names) != 2 or not all(names):
        raise ConfigError(f"--compare {compare!r}: write two columns, e.g. score,human_score")
    rows = list(enumerate(rows_of_file(Path(source)), start=1))
    one, other = ([_score(row, name, f"{source}, row {n}") for n, row in rows] for name in names)
    result = agreement(one, other)
    title = f"agreement of {names[0]} and {names[1]} in {source}"
    return result.to_json(), [_agreement_table(title, {compare: result})]


def _score(row: Mapping[str, Any], name: str, where: str) -> float | None:
    if name not in row:
        raise DataError(f"{where}: has no column {name!r}; its columns are {', '.join(row)}")
    value = row[name]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise DataError(f"{where}: {name!r} must be a number or null, not {value!r:.40}")
    return None if value is None else float(value)


def _agreement_table(title: str, agreements: Mapping[str, Agreement]) -> Table:
    shown = table(title)
    columns(
        shown,
        "n",
        "unscored",
        "equal",
        "α nominal",
        "α ordinal",
        "κ quadratic",
        "ρ",
        "τ",
        "commonest",
    )
    for name, one in agreements.items():
        shown.add_row(
            plain(name[:32]),
            str(one.n),
            str(one.unscored),
            percent(one.exact),
            _figure(one.alpha_nominal),
            _figure(one.alpha_ordinal),
            _figure(one.kappa_quadratic),
            _figure(one.spearman),
            _figure(one.kendall),
            " / ".join(percent(share) for share in one.commonest),
        )
    return shown


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


# ---------------------------------------------------------------------- preference pairs


@dataclass(frozen=True)
class _PairOptions:
    """Options of the command line for scoring pairs."""

    task: str
    rubric: Path | None
    chat: str
    model: str
    api_key_env: str
    concurrency: int
    store: Path | None
    seed: int


def _read_pair_files(sources: Sequence[str], limit: int) -> list[Pair]:
    """The pairs of all files, each with its file's name as the subset.

    Raises:
        DataError: A file cannot be read, has no pairs, or holds something else.
    """
    pairs: list[Pair] = []
    for source in sources:
        path = Path(source)
        rows = rows_of_file(path)
        stem = path.name.partition(".json")[0]
        # LLMBar keeps each subset as dataset.json in a folder of its own.
        subset = path.resolve().parent.name if stem == "dataset" else stem
        if rows and "chosen" not in rows[0] and "output_1" not in rows[0]:
            raise DataError(
                f"{path} holds no preference pairs (prompt, chosen, rejected; or input, output_1, "
                f"output_2, label): its columns are {', '.join(rows[0])}. To compare two columns "
                "of scores give --compare ONE,OTHER"
            )
        pairs += read_pairs(rows, source, subset)[: limit or None]
    return pairs


def _judge_pairs(pairs: Sequence[Pair], options: _PairOptions) -> Shown:
    """Score pairs, and measure how often the reward prefers what people preferred.

    Raises:
        MPOError: Task, rubric, endpoint or store cannot be used, or nothing could be scored.
    """
    if not options.chat:
        raise ConfigError("say which reward model scores the pairs: --chat URL --model NAME")
    reward = _reward(pairs, options)
    outcomes = asyncio.run(_score_pairs(reward, pairs))
    whole = accuracy(outcomes, options.seed)
    parts = _by_subset(outcomes, options.seed)
    rubric = reward.rubric()
    body = {
        **whole.to_json(),
        "by_subset": {name: part.to_json() for name, part in parts.items()},
        "rubric": rubric.id,
        "model": reward.chat.name,
        "store": str(reward.store.path),
    }
    reward.store.close()
    name = options.chat if find_plugin(options.chat) is not None else reward.chat.name
    title = f"{name} with {rubric.title!r}"
    return body, [_pairs_table(title, whole, parts)]


def _reward(pairs: Sequence[Pair], options: _PairOptions) -> EvolvingReward:
    task = load_task(options.task)
    rubric = read_rubric_file(options.rubric) if options.rubric is not None else task.rubric
    client = endpoint(
        options.chat, options.model, options.api_key_env, options.concurrency, options.seed
    )
    path = options.store
    if path is None:
        texts = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
        wording = sorted(prompt.hash for prompt in task.prompts.values())
        key = [texts, rubric.id, wording, client.name, options.seed]
        path = RUNS / f"judge-{content_hash(key, 12)}" / "mpo.db"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{path.parent}: cannot be made: {error.strerror}") from error
    return EvolvingReward(
        task,
        client,
        Store(path),
        rubric=rubric,
        # The table counts unscored pairs.
        scoring=Scoring(max_unscored=1.0, deadline_s=None),
        evolve=Evolve(every=None),
        seed=options.seed,
    )


async def _score_pairs(reward: EvolvingReward, pairs: Sequence[Pair]) -> list[Outcome]:
    try:
        with progress_bar("scoring pairs") as progress:
            return await score_pairs(reward, pairs, progress)
    finally:
        await reward.aclose()


def _by_subset(outcomes: Sequence[Outcome], seed: int) -> dict[str, PairAccuracy]:
    names = dict.fromkeys(outcome.pair.subset for outcome in outcomes)
    return {name: accuracy([o for o in outcomes if o.pair.subset == name], seed) for name in names}


def _pairs_table(title: str, whole: PairAccuracy, parts: dict[str, PairAccuracy]) -> Table:
    shown = table(f"preference accuracy of {title}: ties count half")
    columns(shown, "accuracy", "95 %", "longer wins", "always tie", "ties", "unscored", "pairs")
    for name, part in {"all": whole, **(parts if len(parts) > 1 else {})}.items():
        value = part.interval
        shown.add_row(
            plain(name),
            percent(None if value is None else value.value),
            "–" if value is None else bounds(value.low, value.high, 100),
            percent(part.length),
            percent(0.5),
            str(part.ties),
            str(part.pairs - part.n),
            str(part.pairs),
        )
    return shown
