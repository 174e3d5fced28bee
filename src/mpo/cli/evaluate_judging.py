"""`mpo evaluate rank` on generations: who plays whom, what it would cost, and asking."""

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
from ..evaluation.outputs import Outputs, common_prompts, read_outputs
from ..evaluation.pairwise import PairwiseJudge, Planned, Played, plan_games, read_pairwise_prompt
from ..evaluation.rows import JsonlLog, Row
from ..records import content_hash
from .endpoints import endpoint, read_price
from .evaluate_common import progress_bar
from .runs import open_store
from .train import RUNS

__all__ = ["Asking", "Judged", "Source", "judge_generations"]


@dataclass(frozen=True)
class Source:
    """A file of the command line."""

    name: str
    """That was given to it; empty if none was."""
    path: Path
    rows: list[Row]

    @property
    def stem(self) -> str:
        """The file's name without its ending."""
        return self.path.name.partition(".json")[0]


@dataclass(frozen=True)
class Asking:
    """Who is asked about what; the options of the command line."""

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
    """What a judge said."""

    judge: str
    verdicts: Path
    played: Played


def judge_generations(sources: Sequence[Source], asking: Asking) -> Judged:
    """Let a judge compare all models on their common prompts.

    Raises:
        MPOError: The outputs cannot be compared, or nobody said yes to the price: nothing was
            asked. Or the judge gave no verdict at all.
    """
    if not asking.chat:
        raise ConfigError(
            "these files hold generations: say who compares them, --chat URL --model NAME"
        )
    if find_plugin(asking.chat) is not None:
        raise ConfigError(
            "the simulated model grades single texts and compares none: give the --chat URL of a "
            "real one"
        )
    price = _price(asking.price)
    models = _outputs(sources)
    common = common_prompts(models, only_common=asking.only_common)
    prompts = common[: asking.limit or None]
    plan = plan_games(models, prompts, baseline=asking.baseline or None, seed=asking.seed)
    wording = read_pairwise_prompt(asking.prompt) if asking.prompt else read_pairwise_prompt()
    judge = endpoint(asking.chat, asking.model, asking.api_key_env, asking.concurrency)
    _warn_if_rm(judge.name, asking.run)
    path = asking.verdicts
    if path is None:
        # Of the judge and the test set, not of the models: a further one pays only for itself.
        name = content_hash([judge.name, wording.hash, common], 12)
        path = RUNS / "verdicts" / f"{name}.jsonl"
    with JsonlLog(path) as log:
        pairwise = PairwiseJudge(
            judge, log, prompt=wording, concurrency=asking.concurrency, seed=asking.seed
        )
        _agree(pairwise, plan, price, asking.yes)
        played = asyncio.run(_play(pairwise, judge, plan))
    return Judged(judge.name, path, played)


def _outputs(sources: Sequence[Source]) -> list[Outputs]:
    models: list[Outputs] = []
    for source in sources:
        found = read_outputs(source.rows, str(source.path), source.name or None, source.stem)
        for outputs in found:
            if outputs.repeated:
                _say(
                    f"{source.path}: {outputs.repeated} rows of {outputs.model!r} are of prompts "
                    "that were there before; the first row of each prompt counts"
                )
        models += found
    return models


def _warn_if_rm(judge: str, run: str) -> None:
    """A policy that learnt to please a model is not to be ranked by it."""
    if not run:
        return
    with open_store(run) as store:
        last = store.last_step()
        cases = [] if last is None else store.window(after_step=last - 10, cohort=None, scored=None)
    models = sorted({case.judgement.model for case in cases if case.judgement.model})
    if not models:
        raise ConfigError(f"run {run!r} has no judgements: leave --run out, or name another")
    for model in models:
        # "org/name" and "name" are the same weights behind two servers.
        if model.rpartition("/")[2].lower() == judge.rpartition("/")[2].lower():
            _say(
                f"warning: {judge!r} gave the reward of {run}, too: the policy was trained to "
                "please it. Let another model judge"
            )


def _agree(
    pairwise: PairwiseJudge, plan: Sequence[Planned], price: Price | None, yes: bool
) -> None:
    """Say what it would cost, and go on only if that is wanted.

    Raises:
        ConfigError: Nobody is there to be asked.
        typer.Exit: It is not wanted.
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
        if not typer.confirm(f"{text}. Go on?", err=True):
            raise typer.Exit(1)
    else:
        raise ConfigError(f"{text}: nothing was asked yet; add --yes to go on")


async def _play(pairwise: PairwiseJudge, judge: Chat, plan: Sequence[Planned]) -> Played:
    try:
        with progress_bar("judging") as progress:
            return await pairwise.play(plan, progress)
    finally:
        await judge.aclose()


def _price(text: str) -> Price | None:
    numbers = read_price("--price", text)
    return None if numbers is None else Price(*numbers)


def _say(text: str) -> None:
    typer.echo(text, err=True)
