"""`mpo evaluate rank` on generations: the games to play, their cost, and the judge's verdicts."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import typer

from ..chat import Chat, Price
from ..config.plugins import find_plugin
from ..errors import ConfigError
from ..evaluation.pairwise import PairwiseJudge, Planned, Played, plan_games, read_pairwise_prompt
from ..evaluation.rows import JsonlLog, Outputs, Row, common_prompts, read_outputs
from ..records import content_hash
from .endpoints import endpoint, read_price
from .evaluate_common import progress_bar
from .runs import RUNS, open_store

__all__ = ["JudgeOptions", "Judged", "Source", "judge_generations"]


@dataclass(frozen=True)
class Source:
    """A file of the command line."""

    name: str
    """The name before `=`; empty if there is none."""
    path: Path
    rows: list[Row]

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.path.name.partition(".json")[0]


@dataclass(frozen=True)
class JudgeOptions:
    """Options of the command line for judging."""

    chat: str
    model: str
    api_key_env: str
    concurrency: int
    run: str
    verdicts: Path | None
    baseline: str
    limit: int
    only_common: bool
    prompt: Path | None
    price: str
    yes: bool
    seed: int


@dataclass(frozen=True)
class Judged:
    """Result of judging."""

    judge: str
    """Name of the judge."""
    verdicts: Path
    """File of the verdicts."""
    played: Played


def judge_generations(sources: Sequence[Source], options: JudgeOptions) -> Judged:
    """Let a judge compare all models on their common prompts.

    Raises:
        MPOError: The outputs cannot be compared, or nobody agreed to the price: nothing was sent.
            Or the judge gave no verdict at all.
    """
    if not options.chat:
        raise ConfigError(
            "these files hold generations: say who compares them, --chat URL --model NAME"
        )
    if find_plugin(options.chat) is not None:
        raise ConfigError(
            "the simulated model grades single texts and compares none: give the --chat URL of a "
            "real one"
        )
    prices = read_price("--price", options.price)
    price = Price(*prices) if prices is not None else None
    models = _outputs(sources)
    common = common_prompts(models, only_common=options.only_common)
    prompts = common[: options.limit or None]
    plan = plan_games(models, prompts, baseline=options.baseline or None, seed=options.seed)
    wording = read_pairwise_prompt(options.prompt) if options.prompt else read_pairwise_prompt()
    judge = endpoint(options.chat, options.model, options.api_key_env, options.concurrency)
    _warn_if_rm(judge.name, options.run)
    path = options.verdicts
    if path is None:
        # Named after the judge and the test set, so that one more model pays only for itself.
        name = content_hash([judge.name, wording.hash, common], 12)
        path = RUNS / "verdicts" / f"{name}.jsonl"
    with JsonlLog(path) as log:
        pairwise = PairwiseJudge(
            judge, log, prompt=wording, concurrency=options.concurrency, seed=options.seed
        )
        _agree(pairwise, plan, price, options.yes)
        played = asyncio.run(_play(pairwise, judge, plan))
    return Judged(judge.name, path, played)


def _outputs(sources: Sequence[Source]) -> list[Outputs]:
    models: list[Outputs] = []
    for source in sources:
        in_file = read_outputs(source.rows, str(source.path), source.name or None, source.stem)
        for outputs in in_file:
            if outputs.repeated:
                _say(
                    f"{source.path}: {outputs.repeated} rows of {outputs.model!r} repeat a "
                    "prompt; the first row of each prompt counts"
                )
        models += in_file
    return models


def _warn_if_rm(judge: str, run: str) -> None:
    """Warn if the judge is the model that the policy was trained to please."""
    if not run:
        return
    with open_store(run) as store:
        last = store.last_step()
        cases = [] if last is None else store.window(after_step=last - 10, cohort=None, scored=None)
    models = sorted({case.judgement.model for case in cases if case.judgement.model})
    if not models:
        raise ConfigError(f"run {run!r} has no judgements: leave --run out, or name another run")
    for model in models:
        # "org/name" and "name" are the same weights behind two servers.
        if model.rpartition("/")[2].lower() == judge.rpartition("/")[2].lower():
            _say(
                f"warning: {judge!r} gave the reward of {run}, too: the policy was trained to "
                "please it. Use another model as the judge"
            )


def _agree(
    pairwise: PairwiseJudge, plan: Sequence[Planned], price: Price | None, yes: bool
) -> None:
    """Print the expected cost, and continue only with consent.

    Raises:
        ConfigError: There is no terminal to ask on, and no --yes.
        typer.Exit: The answer is no.
    """
    estimate = pairwise.estimate(plan)
    if not estimate.calls:
        _say(f"all {estimate.games} games are judged already: nothing to pay")
        return
    cost = "" if price is None else f", about ${estimate.usd(price):.2f}"
    text = (
        f"{estimate.calls} calls for {estimate.games} games ({estimate.known} need none): about "
        f"{estimate.prompt_tokens:,} prompt and {estimate.completion_tokens:,} completion "
        f"tokens{cost}"
    )
    if yes:
        _say(text)
    elif sys.stdin.isatty() and sys.stderr.isatty():
        if not typer.confirm(f"{text}. Continue?", err=True):
            raise typer.Exit(1)
    else:
        raise ConfigError(f"{text}: nothing was sent yet; add --yes to continue")


async def _play(pairwise: PairwiseJudge, judge: Chat, plan: Sequence[Planned]) -> Played:
    try:
        with progress_bar("judging") as progress:
            return await pairwise.play(plan, progress)
    finally:
        await judge.aclose()


def _say(text: str) -> None:
    typer.echo(text, err=True)
