"""`mpo evaluate judge`: the quality of a rubric with a reward model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from ..chat import Chat, identity_of
from ..config import read_rubric_file
from ..config.plugins import find_plugin
from ..data import ReadOptions, SourceRow, stem_of
from ..errors import ConfigError, DataError, StoreError
from ..evaluation.agreement import Agreement, agreement, case_agreement
from ..evaluation.criteria import Criteria, criteria_figures
from ..evaluation.judge_accuracy import (
    JudgedPair,
    PairAccuracy,
    PreferencePair,
    accuracy,
    read_pair,
    score_pairs,
)
from ..evaluation.scales import ScoreScale, read_scales, same_scale
from ..evolve.options import Evolve
from ..judge.options import Scoring
from ..records import Case, content_hash
from ..reward import EvolvingReward
from ..rubric import Rubric
from ..store import Store
from ..task import Task
from . import offline
from .endpoints import CHAT_OPTION, endpoint
from .evaluate_common import (
    AS_JSON,
    SEED,
    Output,
    bounds,
    is_file,
    percent,
    progress_bar,
    rows_of_file,
    show,
)
from .offline.session import task_or_generic
from .rubric_choice import WHICH, choose_rubric
from .runs import RUNS, create_store, open_store
from .tables import number, table

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

Shown = tuple[dict[str, Any], Output]
"""A result for a program and for a person."""


@app.command()
def judge(
    sources: list[str] = typer.Argument(
        ..., help="Files of preference pairs, one run, or one file with columns of scores."
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
    chat_option: list[str] = CHAT_OPTION,
    store: Path = offline.STORE,
    columns: str = offline.COLUMNS,
    limit: int = offline.LIMIT,
    skip_bad: bool = offline.SKIP_BAD,
    split: str = offline.SPLIT,
    other: str = typer.Option("", help="For a run: a second run, by the judge to compare with."),
    which: str = typer.Option(
        "",
        help=f"For a run: the rubric to analyse: {WHICH}; the one last used if left out.",
    ),
    compare: str = typer.Option("", help="For a file: two columns of scores, ONE,OTHER."),
    scales: str = typer.Option(
        "",
        help="With --compare: the columns' scales, LOW:HIGH,LOW:HIGH, or LOW:HIGH for both.",
    ),
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
    reading = offline.read_options(columns, limit, skip_bad, split)
    files = [is_file(source) for source in sources]
    if len(sources) > 1 and (compare or not all(files)):
        raise ConfigError("only files of preference pairs may be several: give one run or file")
    if scales and not compare:
        raise ConfigError("--scales belongs to --compare ONE,OTHER: give both")
    if compare:
        body, tables = _columns(sources[0], compare, scales, reading)
    elif all(files):
        pairs = _read_pair_files(sources, reading)
        if not chat:
            raise ConfigError("say which reward model scores the pairs: --chat URL --model NAME")
        loaded = task_or_generic(task)
        head = read_rubric_file(rubric) if rubric is not None else loaded.rubric
        client = endpoint(chat, model, api_key_env, concurrency, seed, chat_option)
        name = chat if find_plugin(chat) is not None else client.name
        body, tables = _judge_pairs(name, pairs, loaded, head, client, store, seed)
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
    return asdict(criteria), [_criteria_table(rubric, criteria)]


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
    return choose_rubric(store, which)


def _criteria_table(rubric: Rubric, criteria: Criteria) -> Table:
    groups = criteria.dead_groups
    title = (
        f"{rubric.title} ({rubric.id}): {criteria.n} judgements, "
        f"{criteria.effective_criteria:.1f} effective of {len(criteria.criteria)} criteria"
        + ("" if groups is None else f", {percent(groups)} of groups all equal")
    )
    heads = ["mean", "highest", "lowest", "discrimination", "most similar", "gold"]
    rows = [
        [
            one.name,
            number(one.mean),
            percent(one.at_highest),
            percent(one.at_lowest),
            number(one.discrimination),
            f"{number(one.similarity)} {one.most_similar or ''}".strip(),
            number(one.gold),
            ", ".join(one.faults),
        ]
        for one in criteria.criteria
    ]
    return table(title, heads, rows, words="faults")


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
    shown: list[Table | str] = [_agreement_table(title, {"reward": result.reward, **criteria})]
    if result.other_rubric:
        shown.append(
            f"{result.other_rubric} responses were graded under different rubrics: their rewards "
            "are compared as shares of the points (0 to 1), their criteria are not"
        )
    return asdict(result), shown


def _columns(source: str, compare: str, scales: str, reading: ReadOptions) -> Shown:
    names = [name.strip() for name in compare.split(",")]
    if len(names) != 2 or not all(names):
        raise ConfigError(f"--compare {compare!r}: write two columns, e.g. score,human_score")
    rows = rows_of_file(source, reading, lambda row: [_score(row, name) for name in names])
    columns = [row[0] for row in rows], [row[1] for row in rows]
    one, other, comparable, remark = _on_one_scale(names, *columns, scales)
    result = agreement(one, other, comparable=comparable)
    title = f"agreement of {names[0]} and {names[1]} in {source}"
    body = {**asdict(result), "comparable": comparable, "remark": remark}
    return body, [_agreement_table(title, {compare: result}), *([remark] if remark else [])]


def _on_one_scale(
    names: Sequence[str], one: list[float | None], other: list[float | None], scales: str
) -> tuple[list[float | None], list[float | None], bool, str]:
    """Both columns on one scale, whether they are, and a remark where they were not."""
    if not any(s is not None for s in one) or not any(s is not None for s in other):
        return one, other, False, ""  # `agreement` says that nothing can be compared
    if scales:
        first, second = read_scales(scales)
        shares = first.shares(one, names[0]), second.shares(other, names[1])
        if first == second:
            return one, other, True, ""
        remark = f"{names[0]} ({first}) and {names[1]} ({second}) were rescaled to 0 to 1"
        return *shares, True, remark
    if same_scale(one, other):
        return one, other, True, ""
    remark = (
        f"{names[0]} runs from {ScoreScale.of(one)} and {names[1]} from {ScoreScale.of(other)}: "
        "these may be two scales, so only ranks are compared. If you know the scales, give "
        "--scales LOW:HIGH,LOW:HIGH to have both rescaled, or LOW:HIGH if they are the same"
    )
    return one, other, False, remark


def _score(row: SourceRow, name: str) -> float | None:
    if not row.has(name):
        raise row.fault(name, f"is missing; the columns are {', '.join(row.values)}")
    return row.number(name)


def _agreement_table(title: str, agreements: Mapping[str, Agreement]) -> Table:
    heads = ["n", "unscored", "equal", "α nominal", "α ordinal", "κ quadratic", "ρ", "τ"]
    rows = [
        [
            name,
            str(one.n),
            str(one.unscored),
            percent(one.exact),
            number(one.alpha_nominal),
            number(one.alpha_ordinal),
            number(one.kappa_quadratic),
            number(one.spearman),
            number(one.kendall),
            " / ".join(percent(share) for share in one.commonest),
        ]
        for name, one in agreements.items()
    ]
    return table(title, [*heads, "commonest"], rows)


# ---------------------------------------------------------------------- preference pairs


def _read_pair_files(sources: Sequence[str], reading: ReadOptions) -> list[PreferencePair]:
    """The pairs of all files, each with its file's name as the subset.

    Raises:
        DataError: A file cannot be read, has no pairs, or holds something else.
    """
    pairs: list[PreferencePair] = []
    for source in sources:
        path = Path(source)
        stem = stem_of(path)
        # LLMBar keeps each subset as dataset.json in a folder of its own.
        subset = path.resolve().parent.name if stem == "dataset" else stem
        pairs += rows_of_file(source, reading, partial(_pair, subset=subset))
    return pairs


def _pair(row: SourceRow, subset: str) -> PreferencePair:
    if not (row.has("chosen") or row.has("output_1")):
        raise DataError(
            f"{row.where}: holds no preference pair (prompt, chosen, rejected; or input, output_1, "
            f"output_2, label): its columns are {', '.join(row.values)}. Name them with --columns, "
            "or to compare two columns of scores give --compare ONE,OTHER"
        )
    return read_pair(row, subset)


def _judge_pairs(
    name: str,
    pairs: Sequence[PreferencePair],
    task: Task,
    rubric: Rubric,
    client: Chat,
    path: Path | None,
    seed: int,
) -> Shown:
    """Score pairs, and measure how often the reward prefers what people preferred.

    Raises:
        MPOError: The store cannot be used, or nothing could be scored.
    """
    if path is None:
        texts = [[pair.prompt, pair.chosen, pair.rejected] for pair in pairs]
        wording = sorted(prompt.hash for prompt in task.prompts.values())
        key = [texts, rubric.id, wording, identity_of(client), seed]
        path = RUNS / f"judge-{content_hash(key, 12)}" / "mpo.db"
    reward = EvolvingReward(
        task,
        client,
        create_store(path),
        rubric=rubric,
        # The table counts unscored pairs.
        scoring=Scoring(max_unscored=1.0, deadline_s=None),
        evolve=Evolve(every=None),
        seed=seed,
    )
    outcomes = asyncio.run(_score_pairs(reward, pairs))
    whole = accuracy(outcomes)
    subsets = dict.fromkeys(outcome.pair.subset for outcome in outcomes)
    parts = {
        subset: accuracy([one for one in outcomes if one.pair.subset == subset])
        for subset in subsets
    }
    rubric = reward.rubric()
    body = {
        **asdict(whole),
        "by_subset": {subset: asdict(part) for subset, part in parts.items()},
        "rubric": rubric.id,
        "model": client.name,
        "store": str(path),
    }
    reward.store.close()
    return body, [_pairs_table(f"{name} with {rubric.title!r}", whole, parts)]


async def _score_pairs(reward: EvolvingReward, pairs: Sequence[PreferencePair]) -> list[JudgedPair]:
    try:
        with progress_bar("scoring pairs") as progress:
            return await score_pairs(reward, pairs, progress)
    finally:
        await reward.aclose()


def _pairs_table(title: str, whole: PairAccuracy, parts: dict[str, PairAccuracy]) -> Table:
    heads = ["accuracy", "95 %", "longer wins", "always tie", "ties", "unscored", "pairs"]
    rows = [
        [
            name,
            percent(part.accuracy),
            bounds(part.low, part.high, 100),
            percent(part.baselines["length"]),
            percent(part.baselines["tie"]),
            str(part.ties),
            str(part.unscored),
            str(part.pairs),
        ]
        for name, part in {"all": whole, **(parts if len(parts) > 1 else {})}.items()
    ]
    return table(f"preference accuracy of {title}: ties count half", heads, rows)
