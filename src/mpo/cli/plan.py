"""`mpo plan`: what a run will ask and cost, before it starts.

No model is loaded and none is called. One judgement and one meta step run with the task's own
prompts and the protocols' own code, against a chat that answers in stated lengths and counts; the
rest is multiplication. The assumptions are listed with the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import typer

from ..config import (
    ARMS,
    Config,
    arm_rubric,
    load_config,
    load_plugin,
    load_rows,
    read_rubric_file,
)
from ..config.build import task_of
from ..config.data import is_local
from ..config.plugins import is_free
from ..config.schema import ChatConfig, DataConfig
from ..errors import ConfigError
from ..evolve.gate import Pairs, Probes, load_pairs
from ..judge.scale import ANCHORS, normalized
from ..records import to_json
from ..rubric import Rubric
from ..task import Task
from ..training.untrained_arms import BATCHES
from ..watch import CANARIES_PER_RUBRIC, SECOND_JUDGE_SHARE
from .dry_run import (
    CRITERIA,
    CRITERION_WORDS,
    GUIDELINES_WORDS,
    PLAN_WORDS,
    TOKENS_PER_WORD,
    WORDS,
    DryRun,
    ModelUse,
    Sizes,
)
from .endpoints import read_price
from .tables import in_brackets

__all__ = ["app", "make_plan"]

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@app.command()
def plan(
    config: str = typer.Argument(..., help="A YAML file, or a preset such as paper/essay."),
    overrides: list[str] = typer.Argument(None, metavar="KEY=VALUE", help="Config overrides."),
    price: str = typer.Option(
        "",
        metavar="PROMPT,COMPLETION[,CACHED]",
        help="US dollars per million tokens, for every model; budget.prices if empty.",
    ),
    prompt_words: int = typer.Option(
        0, min=0, help="Words in a prompt; 0 measures them on the rows."
    ),
    response_words: int = typer.Option(
        0, min=0, help="Words in a response; 0 takes the task's limit."
    ),
    as_json: bool = typer.Option(False, "--json", help="Print JSON."),
) -> None:
    """Say what a run will ask and cost.

    Nothing is loaded or called. Tokens are estimated from the task's own prompts; the assumptions
    are printed too.

    Example: mpo plan paper/essay --price 0.4,0.4
    """
    try:
        prices = read_price("--price", price)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    figures = make_plan(
        load_config(config, overrides or []),
        prices,
        prompt_words=prompt_words or None,
        response_words=response_words or None,
    )
    typer.echo(to_json(figures, indent=2) if as_json else _shown(figures))


def _shown(figures: Mapping[str, Any]) -> str:
    cohorts = f", each for {figures['cohorts']} cohorts" if figures["cohorts"] > 1 else ""
    lines = [
        f"arm {figures['arm']}{in_brackets(figures['simulated'])}",
        f"updates        {figures['updates']:>16,}",
        f"meta steps     {figures['meta_steps']:>16,}{cohorts}",
        f"judgements     {figures['judgements']:>16,}",
        f"RM calls       {figures['rm_calls']:>16,}",
        f"MRM calls      {figures['mrm_calls']:>16,}",
        *([f"audit calls    {figures['audit_calls']:>16,}"] if figures["audit_calls"] else []),
        f"prompt tokens  {figures['prompt_tokens']:>16,}",
        f"  with a prefix cache {figures['prompt_tokens_cached']:>9,}",
        f"output tokens  {figures['output_tokens']:>16,}",
    ]
    if figures["cost"] is None:
        lines.append("cost           no price given: --price PROMPT,COMPLETION[,CACHED]")
    else:
        lines.append(f"cost           {figures['cost']:>16,.2f} USD")
    return "\n".join([*lines, "assumed:", *(f"  {line}" for line in figures["assumptions"])])


def make_plan(
    config: Config,
    price: Sequence[float] | None = None,
    *,
    prompt_words: int | None = None,
    response_words: int | None = None,
) -> dict[str, Any]:
    """Calls, tokens and cost of a run of this config.

    Args:
        price: US dollars per million tokens of every model: prompt, completion, and optionally
            cached prompt tokens. The prices of `budget.prices` if None.
        prompt_words: Words in a filled prompt; measured on the task's rows if None.
        response_words: Words in a completion; the task's limit if None.

    Returns:
        JSON values: `updates`, `meta_steps`, `rm_calls`, `mrm_calls`, `audit_calls` (those of the
        second judge), `prompt_tokens`, `prompt_tokens_cached` (those left to read with a prefix
        cache), `output_tokens`, `cost` (None without a price), and more: `arm`, `simulated`,
        `cohorts`, `judgements`, `rm`, `mrm` and `audit` alone, `assumptions`.

    Raises:
        MPOError: Task, rubric or rows cannot be used.
    """
    task = task_of(config)
    path = arm_rubric(config.arm, task, config.rubric)
    seed = read_rubric_file(path) if path is not None else task.rubric
    task.check_rubric(seed)
    sizes = _sizes(config, task, prompt_words, response_words)
    dry = DryRun(config, task, sizes)
    arm, batch, every = ARMS[config.arm], config.trainer.batch_size, _interval(config)
    updates = config.trainer.steps if arm.trains else 0
    # One that could not be decided before the end is not started.
    decided = max(0, updates - config.meta.delay) if arm.evolves else updates
    meta_steps = decided // every if every and (arm.evolves or arm.blind) else 0
    window = (batch if arm.blind else every * batch) // sizes.cohorts
    cases = max(1, min(config.meta.samples, window))

    rm, mrm, second, grown = ModelUse(), ModelUse(), ModelUse(), seed
    if meta_steps:
        first, grown = dry.meta_step(seed, cases, window)
        further, _ = dry.meta_step(grown, cases, window)
        mrm = (first + further * (meta_steps - 1)) * sizes.cohorts
    by_rm = 1 - (task.spec.rm.answer_share if task.spec.rm.answer_check != "off" else 0)
    judgements = 0
    for rubric, batches in _batches(config, updates, meta_steps, seed, grown):
        judgements += batches * batch
        rm += dry.judgements(rubric, batches * batch * by_rm, config.trainer.num_generations)
        if config.second_judge is not None:  # the few that are drawn share no prompt
            second += dry.judgements(rubric, batches * batch * by_rm * SECOND_JUDGE_SHARE, 1)
    checks = _checks(config, task, dry) * meta_steps * sizes.cohorts
    for rubric in (seed if meta_steps == 1 else grown, grown):
        rm += dry.judgements(rubric, checks / 2, 1)
    reads_canaries = config.evolve.reads_canaries and updates
    canaries = CANARIES_PER_RUBRIC * sizes.cohorts if reads_canaries else 0
    rm += dry.judgements(seed, canaries, 1) + dry.judgements(grown, canaries * meta_steps, 1)
    whole = rm + mrm + second
    return {
        "arm": config.arm,
        "simulated": config.simulated,
        "updates": updates,
        "meta_steps": meta_steps,
        "cohorts": sizes.cohorts,
        "judgements": judgements,
        "rm_calls": round(rm.calls),
        "mrm_calls": round(mrm.calls),
        "audit_calls": round(second.calls),
        **{key: n for key, n in whole.figures().items() if key != "calls"},
        "cost": _cost(config, rm, mrm, second, price),
        "rm": rm.figures(),
        "mrm": mrm.figures(),
        "audit": second.figures(),
        "assumptions": [
            *_assumptions(config, task, sizes, meta_steps, checks),
            *_watched(config, canaries * (meta_steps + 1)),
        ],
    }


def _batches(
    config: Config, updates: int, meta_steps: int, seed: Rubric, grown: Rubric
) -> list[tuple[Rubric, int]]:
    """Batches that are scored, and under which rubric."""
    arm, meta = ARMS[config.arm], config.meta
    if not arm.trains:
        return [(seed, min(BATCHES, config.trainer.steps))]
    if arm.blind:  # a batch for each meta step, before training
        return [(seed, min(meta_steps, 1)), (grown, max(meta_steps - 1, 0) + updates)]
    first = min(updates, _interval(config) + meta.delay) if meta_steps else updates
    return [(seed, first), (grown, updates - first)]


def _interval(config: Config) -> int:
    """Updates between meta steps; 0 where none is due."""
    return config.meta.every if isinstance(config.meta.every, int) else 0


def _checks(config: Config, task: Task, dry: DryRun) -> int:
    """Judgements that gate and scale ask for in one meta step, at most."""
    model = dry.model(dry.tally())
    total = 2 * ANCHORS if config.reward.scale == "anchored" else 0
    for name in config.meta.gates:
        kind, _, argument = str(name).partition(":")
        if kind == "probes":
            total += Probes(model, task, normalized).calls()
        elif kind == "pairs" and argument:
            total += Pairs(model, task, normalized, load_pairs(Path(argument))).calls()
    return total


def _sizes(
    config: Config, task: Task, prompt_words: int | None, response_words: int | None
) -> Sizes:
    spec = task.spec
    measured, rows = "given", []
    if is_local(config, task):
        measured, rows = "the mean of the rows", load_rows(config, task)
    elif task.sample.is_file():
        data = DataConfig(path=str(task.sample))
        rows = load_rows(config.model_copy(update={"data": data}), task)
        measured = f"the mean of {len(rows)} rows of {task.name}/sample.jsonl, not of the dataset"
    elif prompt_words is None:
        raise ConfigError(
            f"no rows of task {task.name!r} to measure without a network: say how "
            "long a prompt is with --prompt-words"
        )
    column, cohorts = spec.dataset.reference_column, 1
    if spec.cohorts is not None:
        values = {str(row.get(spec.cohorts.column)) for row in rows} or {""}
        known = {row["cohort"] for row in rows if "cohort" in row}
        cohorts = len(known) or len(values) * spec.cohorts.clusters
    return Sizes(
        prompt=prompt_words or round(fmean(len(row["prompt"].split()) for row in rows)),
        response=response_words
        or spec.response.max_words
        or round(spec.response.max_tokens / TOKENS_PER_WORD),
        reference=round(fmean(len(str(row[column]).split()) for row in rows))
        if column and rows
        else 0,
        measured="given" if prompt_words else measured,
        cohorts=cohorts,
    )


def _watched(config: Config, canaries: int) -> list[str]:
    lines = [f"canaries ask for {canaries:,} judgements, at most"] if canaries else []
    if config.second_judge is not None:
        lines.append(f"a second RM grades {SECOND_JUDGE_SHARE:.0%} of the rollouts")
    return lines


def _cost(
    config: Config, rm: ModelUse, mrm: ModelUse, second: ModelUse, price: Sequence[float] | None
) -> float | None:
    """US dollars; None where a model that is used has no price."""
    total = 0.0
    roles = (
        (rm, config.chat),
        (mrm, config.meta_chat or config.chat),
        (second, config.second_judge or config.chat),
    )
    for spent, chat in roles:
        known = price if price is not None else _price(config, chat)
        if known is None and spent.calls:
            return None
        total += spent.cost(known) if known is not None else 0.0
    return round(total, 4)


def _price(config: Config, chat: ChatConfig) -> Sequence[float] | None:
    if chat.plugin is not None:
        client = load_plugin(chat.plugin).chat(config.seed, chat.options)
        return (0.0, 0.0) if is_free(client) else config.budget.prices.get(client.name)
    return config.budget.prices.get(chat.model or "")


def _assumptions(
    config: Config, task: Task, sizes: Sizes, meta_steps: int, checks: float
) -> list[str]:
    rm, most = task.spec.rm, task.spec.dataset.max_prompt_tokens
    lines = [
        f"{TOKENS_PER_WORD} tokens per word",
        f"a prompt has {sizes.prompt} words ({sizes.measured}), a response {sizes.response}",
        f"RM: protocol {rm.protocol}; no call is made twice, no rule answers in its place",
    ]
    if most is not None:
        lines.append(
            f"training drops prompts over {most:,} tokens; only the policy's tokenizer can tell "
            "which, so none is left out here"
        )
    if rm.protocol == "plan_execute":
        lines.append(f"a plan and an execution have {PLAN_WORDS} words each")
    else:
        lines.append(f"a rationale has {WORDS['rationale']} words")
    if rm.answer_check != "off":
        lines.append(
            f"{rm.answer_share:.0%} of the rollouts are graded by their answer, without RM"
        )
    if meta_steps:
        rubric = (
            f"guidelines of {GUIDELINES_WORDS} words"
            if rm.protocol == "plan_execute"
            else f"{CRITERIA} criteria of {CRITERION_WORDS} words"
        )
        lines += [
            f"every proposal is accepted; from the first meta step on the rubric is {rubric}",
            f"an analysis has {WORDS['findings'] + WORDS['advice']} words; none needs a repair",
        ]
    if checks:
        lines.append(f"gate and scale ask for {checks:,.0f} judgements, at most")
    if config.meta.alarm_distance is not None:
        lines.append("meta steps that a monitor calls for are not counted")
    return lines
