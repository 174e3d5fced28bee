"""`mpo replay`: stored rollouts under another rubric of the lineage."""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import StatisticsError, correlation, fmean
from typing import Any

import typer

from ..chat import Chat
from ..config import check, compose, load_chat_config, read_run_config
from ..config.build import task_of
from ..config.schema import BudgetConfig
from ..errors import ConfigError
from ..judge import RewardModel, judge_identity, make_reward_model
from ..judge.injection_flags import OnInjection
from ..judge.scale import Normalized
from ..judge.scorer import Scorer
from ..records import Case, Judgement, to_json
from ..rubric import Rubric
from ..store import RunFiles, Store
from ..task import Task, load_task
from ..task.answers import BoxedAnswers
from .endpoints import CHAT_OPTION, endpoint
from .offline.session import score_in_chunks
from .rubric_choice import COHORT, WHICH, choose_cohort, choose_rubric
from .runs import RUN, create_store, find_run
from .tables import number, print_table, table

__all__ = ["app"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)

TASK = "essay"
"""Model of an imported run, whose files do not name one."""


@dataclass(frozen=True)
class _Grader:
    """Model that grades: that of the run, or of the options."""

    task: Task
    chat: Chat
    seed: int
    budget: BudgetConfig
    on_injection: OnInjection


@app.command()
def replay(
    run: str = typer.Argument(..., help=RUN),
    rubric: str = typer.Option(..., "--rubric", help=f"The rubric: {WHICH}."),
    limit: int = typer.Option(
        None, min=1, help="Number of rollouts, spread evenly over the run; all if left out."
    ),
    cohort: str = COHORT,
    chat: str = typer.Option(
        "", "--chat", help="http://host:port/v1, or a plugin; the run's if empty."
    ),
    model: str = typer.Option("", "--model", help="Name of the model at that endpoint."),
    api_key_env: str = typer.Option(
        "OPENAI_API_KEY", help="Environment variable with the API key."
    ),
    chat_option: list[str] = CHAT_OPTION,
    task: str = typer.Option("", "--task", help="Task of a run without a config; essay if empty."),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Score stored rollouts under another rubric of the run.

    Judgements that the run or an earlier replay has paid for are not made again. New judgements
    are kept in RUN/replay/: the run's own evidence, lineage and means stay as they are.

    Example: mpo replay runs/essay-mpo-0 --rubric 0 --limit 200
    """
    files = find_run(run)
    with Store(files.store, create=False) as store:
        cohort = choose_cohort(store, cohort)
        target = choose_rubric(store, rubric, cohort)
        if not any(d.accepted and d.proposed == target.id for d in store.lineage(cohort)):
            raise ConfigError(f"--rubric {rubric}: {target.id} was never in effect in this run")
        cases = _spread(store.window(cohort=cohort, scored=None), limit)
        if not cases:
            where = f" of cohort {cohort!r}" if cohort else ""
            raise ConfigError(f"run {run!r} has no stored rollouts{where} to replay")
        grader = _grader(files, (chat, model, api_key_env, chat_option), task)
        now, fresh = asyncio.run(_replay(files.replays, store, grader, target, cases))
        then = {case.judgement.rubric_id for case in cases}
        rubrics = {id: store.rubric(id) for id in then}
    result = {**_compare(cases, now, rubrics, target), "asked": fresh}
    if as_json:
        typer.echo(to_json(result, indent=2))
    else:
        _print(result)


# ---------------------------------------------------------------------- rollouts and model


def _spread(cases: Sequence[Case], limit: int | None) -> list[Case]:
    """The last attempt at each rollout; with a limit, evenly over the run."""
    last = list({case.rollout.id: case for case in cases}.values())
    if limit is None or limit >= len(last):
        return last
    return [last[n * len(last) // limit] for n in range(limit)]


def _grader(files: RunFiles, named: tuple[str, str, str, list[str]], task: str) -> _Grader:
    """The grader that the run has, or that the options name.

    Args:
        files: The run's files.
        named: The options --chat, --model, --api-key-env and --chat-option.
        task: The option --task.

    Raises:
        ConfigError: Neither names a model, or they contradict each other.
    """
    chat, model, api_key_env, options = named
    config = None if files.alone else read_run_config(files.folder)
    if config is None:
        if not chat:
            raise ConfigError(
                f"{files.path} has no config.yaml that names a model: give --chat, --model"
            )
        client = endpoint(chat, model, api_key_env, options=options)
        return _Grader(load_task(task or TASK), client, 0, BudgetConfig(), "observe")
    if task:
        raise ConfigError(f"--task: {files.path} says itself that its task is {config.task!r}")
    if chat:
        loaded = task_of(config)
        client = endpoint(chat, model, api_key_env, seed=config.seed, options=options)
    else:
        own = load_chat_config(config.chat.model_dump(), options)
        checked = check(config.model_copy(update={"chat": own}))
        loaded, client = checked.task, checked.chat
    return _Grader(loaded, client, config.seed, config.budget, config.reward.on_injection)


# ---------------------------------------------------------------------- asking


async def _replay(
    folder: Path, store: Store, grader: _Grader, rubric: Rubric, cases: Sequence[Case]
) -> tuple[dict[str, Judgement], int]:
    """Judgements under the rubric by rollout id, and how many are new."""
    answers = BoxedAnswers() if grader.task.spec.rm.answer_check != "off" else None
    grader.task.check_rubric(rubric)
    # One file for each rubric: in a store, a group of completions has one rubric only.
    with create_store(folder / f"{rubric.id}.db") as side:
        side.put_rubric(rubric)
        chats = compose(grader.chat, grader.chat, grader.budget, side, cache=True)
        # The run's own fences: with others the answers would be to another question.
        model = make_reward_model(grader.task, chats.rm, store.secret, grader.seed, answers=answers)
        scorer = Scorer(
            grader.task,
            side,
            model,
            Normalized(),
            rubric,
            on_injection=grader.on_injection,
            max_unscored=1.0,  # who is missing is said in the result
            seed=grader.seed,
        )
        side.append(list(_paid(store, cases, rubric, model)))
        known = {
            case.rollout.id
            for case in side.window(cohort=None)
            if case.judgement.answered_by == judge_identity(model)
        }
        try:
            judgements = await score_in_chunks(scorer.score, [case.rollout for case in cases])
        finally:
            chats.keep()
            await grader.chat.aclose()
    fresh = sum(case.rollout.id not in known for case in cases)
    return {judgement.rollout_id: judgement for judgement in judgements}, fresh


def _paid(
    store: Store, cases: Sequence[Case], rubric: Rubric, model: RewardModel
) -> Iterator[Case]:
    """Judgements of the run itself under the rubric."""
    for case in cases:
        for judgement in store.judgements_of(case.rollout.id):
            if (
                judgement.rubric_id == rubric.id
                and judgement.reward is not None
                and judgement.answered_by == judge_identity(model)
                and judgement.template_hash == model.template_hash
            ):
                yield Case(rollout=case.rollout, judgement=judgement)


# ---------------------------------------------------------------------- comparing


def _compare(
    cases: Sequence[Case],
    now: Mapping[str, Judgement],
    rubrics: Mapping[str, Rubric],
    target: Rubric,
) -> dict[str, Any]:
    """Agreement of then and now, over the rollouts that both have scored; JSON values."""
    both: list[tuple[Judgement, Judgement]] = []
    by_step: dict[int, list[tuple[float, float]]] = {}
    equal = common = 0
    for case in cases:
        one, other = case.judgement, now[case.rollout.id]
        if one.normalized_reward is None or other.normalized_reward is None:
            continue
        both.append((one, other))
        pair = (one.normalized_reward, other.normalized_reward)
        by_step.setdefault(case.rollout.step, []).append(pair)
        same = _common(rubrics[one.rubric_id], target)
        scores = {s.criterion: s.score for s in other.scores}
        for score in one.scores:
            if score.criterion in same and score.criterion in scores:
                common += 1
                equal += score.score == scores[score.criterion]
    pairs = [pair for step in by_step.values() for pair in step]
    return {
        "rubric": target.id,
        "rollouts": len(cases),
        "compared": len(both),
        "unscored_then": sum(case.judgement.reward is None for case in cases),
        "unscored_now": sum(now[case.rollout.id].reward is None for case in cases),
        "common_scores": common,
        "agreement": equal / common if common else None,
        "mean_difference": fmean(abs(a - b) for a, b in pairs) if pairs else None,
        "spearman": spearman([a for a, _ in pairs], [b for _, b in pairs]),
        "steps": [
            {
                "step": step,
                "n": len(pairs),
                "then": fmean(a for a, _ in pairs),
                "now": fmean(b for _, b in pairs),
            }
            for step, pairs in sorted(by_step.items())
        ],
    }


def _common(one: Rubric, other: Rubric) -> set[str]:
    """Keys of the criteria that both have with the same scores; their texts may differ."""
    theirs = {key: c.scores for key, c in zip(other.criterion_ids, other.criteria, strict=True)}
    keyed = zip(one.criterion_ids, one.criteria, strict=True)
    return {key for key, criterion in keyed if theirs.get(key) == criterion.scores}


def spearman(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Rank correlation, ties sharing their mean rank; None where one side is all alike."""
    try:
        return correlation(_ranks(one), _ranks(other))
    except StatisticsError:
        return None


def _ranks(values: Sequence[float]) -> list[float]:
    order = sorted(values)
    return [(bisect_left(order, v) + bisect_right(order, v) - 1) / 2 for v in values]


def _print(result: Mapping[str, Any]) -> None:
    typer.echo(
        f"{result['rollouts']} rollouts under rubric {result['rubric']}: {result['asked']} asked, "
        f"{result['compared']} scored then and now"
    )
    rows = [
        [str(step["step"]), str(step["n"]), number(step["then"]), number(step["now"])]
        for step in result["steps"]
    ]
    print_table(table("", ("n", "then", "now"), rows, names="step"))
    for name, key in (
        ("equal scores of common criteria", "agreement"),
        ("mean difference of rewards (0 to 1)", "mean_difference"),
        ("rank correlation (Spearman)", "spearman"),
    ):
        value = result[key]
        typer.echo(f"{name}: {'–' if value is None else number(value)}")
