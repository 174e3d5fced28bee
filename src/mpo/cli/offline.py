"""What `mpo score` and `mpo evolve` share: their options, and a JSONL of completions.

What is scored is kept in `runs/offline-…/`, whose name says file, task, rubric and model: the same
command again asks for nothing twice, and `mpo evolve` after `mpo score` pays for no score again.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..config import Chats, compose, read_records, read_rubric_file
from ..config.plugins import find_plugin
from ..config.schema import BudgetConfig
from ..errors import ChatTransportError, StoreError
from ..evolve.options import Evolve
from ..judge.options import Scoring
from ..judge.scorer import Scorer
from ..records import Case, Judgement, Rollout, content_hash
from ..reward import EvolvingReward
from ..store import Store
from ..task import load_task
from .endpoints import endpoint, read_price
from .offline_rows import FileRow, given_judgements, read_rows
from .train import RUNS

__all__ = [
    "API_KEY_ENV",
    "CHAT",
    "CONCURRENCY",
    "FILE",
    "MODEL",
    "PRICE",
    "RUBRIC",
    "STORE",
    "TASK",
    "Offline",
    "Options",
    "offline_command",
    "open_offline",
    "score_in_chunks",
]

FILE: Any = typer.Argument(..., help="With prompt and completion: .jsonl, .json or .parquet.")
TASK: Any = typer.Option("essay", "--task", help="A built-in task, or a task folder.")
RUBRIC: Any = typer.Option(None, "--rubric", help="Rubric file; the task's own if left out.")
CHAT: Any = typer.Option(..., "--chat", help="http://host:port/v1, or a plugin such as sandbox.")
MODEL: Any = typer.Option("", "--model", help="Name of the model at that endpoint.")
API_KEY_ENV: Any = typer.Option("OPENAI_API_KEY", help="Variable with the API key.")
CONCURRENCY: Any = typer.Option(32, min=1, help="Most requests in flight.")
PRICE: Any = typer.Option(
    "", "--price", help="US dollars per million tokens: prompt,completion[,cached]."
)
STORE: Any = typer.Option(
    None, "--store", help="Store file; by default one in runs/ that belongs to file and rubric."
)
ESTIMATE: Any = typer.Option(False, "--estimate", help="Only say what it would ask and cost.")

CHUNK = 32
"""Rollouts per progress update; they are asked at once."""


@dataclass(frozen=True)
class Options:
    """The options that both commands have."""

    file: Path = FILE
    task: str = TASK
    rubric: Path | None = RUBRIC
    chat: str = CHAT
    model: str = MODEL
    api_key_env: str = API_KEY_ENV
    concurrency: int = CONCURRENCY
    price: str = PRICE
    store: Path | None = STORE
    estimate: bool = ESTIMATE


def offline_command(app: typer.Typer) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a command of a function whose first argument is `Options`: on the command line their
    fields come before the function's own options."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        shared = [
            inspect.Parameter(
                f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=_type(f.name)
            )
            for f in fields(Options)
        ]
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]
        names = [parameter.name for parameter in shared]

        def command(**values: Any) -> None:
            options = Options(**{name: values.pop(name) for name in names})
            function(options, **values)

        every = [*shared, *(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own)]
        command.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
        command.__doc__ = function.__doc__
        app.command(name=function.__name__)(command)
        return function

    return register


def _type(name: str) -> Any:
    types = {"file": Path, "rubric": Path, "store": Path, "concurrency": int, "estimate": bool}
    return types.get(name, str)


@dataclass(frozen=True)
class Offline:
    """A file of completions with what scores them."""

    options: Options
    reward: EvolvingReward
    chats: Chats
    rows: list[FileRow]
    sandbox: bool

    @property
    def price(self) -> list[float] | None:
        """US dollars per million tokens, as it was given."""
        return [0.0, 0.0] if self.sandbox else read_price("--price", self.options.price)

    def judgements(self) -> dict[str, Judgement]:
        """The last one of each rollout of the file that has one, by rollout id."""
        cases = self.reward.store.window(cohort=None, scored=None)
        return {case.rollout.id: case.judgement for case in cases}

    def use_given(self) -> None:
        """Take the file's own scores for rows that were not scored here."""
        known = self.judgements()
        rubric = self.reward.seed_rubric
        rows = [row for row in self.rows if row.rollout.id not in known]
        whole = [row.score for row in self.rows if row.score is not None]
        given = given_judgements(rows, rubric, whole)
        rollouts = {row.rollout.id: row.rollout for row in rows}
        self.reward.store.append([Case(rollout=rollouts[j.rollout_id], judgement=j) for j in given])

    def unscored(self) -> list[Rollout]:
        """Of rows that have no score, neither their own nor from here."""
        known = self.judgements()
        done = {id for id, judgement in known.items() if judgement.reward is not None}
        return [row.rollout for row in self.rows if row.rollout.id not in done]

    def scorer(self) -> Scorer:
        """Scores under any rubric, into the same store."""
        reward = self.reward
        return Scorer(
            reward.task,
            reward.store,
            reward.reward_model,
            reward.scale,
            reward.seed_rubric,
            on_injection="observe",
            max_unscored=1.0,
            seed=reward.seed,
        )


def open_offline(options: Options, *, samples: int = 16, seed: int = 0) -> Offline:
    """Read the file, find task, rubric and model, and open the store.

    Raises:
        MPOError: One of them cannot be used; nothing was asked.
    """
    rows = read_rows(options.file, read_records(options.file))
    loaded = load_task(options.task)
    start = read_rubric_file(options.rubric) if options.rubric is not None else loaded.rubric
    price = read_price("--price", options.price)
    client = endpoint(options.chat, options.model, options.api_key_env, options.concurrency, seed)
    store = options.store
    if store is None:
        # Other scores of the file's own are other evidence.
        given = [[row.score, row.rationale] for row in rows]
        texts = [row.rollout.id for row in rows]
        key = [texts, given, start.id, loaded.prompts["rm"].hash, client.name, seed]
        store = RUNS / f"offline-{content_hash(key, 12)}" / "mpo.db"
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{store.parent}: cannot be made: {error.strerror}") from error
    opened = Store(store)
    budget = BudgetConfig(prices={} if price is None else {client.name: price})
    chats = compose(client, client, budget, opened, cache=True)
    reward = EvolvingReward(
        loaded,
        chats.rm,
        opened,
        meta_chat=chats.mrm,
        rubric=start,
        # A file is scored to its end; the result says what is missing.
        scoring=Scoring(max_unscored=1.0, deadline_s=None),
        # There is no start of the run to compare with.
        evolve=Evolve(every=1, samples=samples, baseline_cases=0, gate="always", delay=0),
        seed=seed,
    )
    plugin = find_plugin(options.chat)
    sandbox = plugin is not None and plugin.simulated
    return Offline(options, reward, chats, rows, sandbox)


async def score_in_chunks(
    score: Callable[[Sequence[Rollout]], Any], rollouts: Sequence[Rollout], label: str = "scoring"
) -> list[Judgement]:
    """Score rollouts, with a progress bar on a terminal.

    Args:
        score: An async function from rollouts to their judgements, in order.

    Raises:
        ChatTransportError: Nothing at all could be scored.
        StoreError: The store cannot be written.
    """
    judgements: list[Judgement] = []
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task(label, total=len(rollouts))
        for start in range(0, len(rollouts), CHUNK):
            chunk = rollouts[start : start + CHUNK]
            judgements += await score(chunk)
            progress.advance(bar, len(chunk))
            if all(j.reward is None for j in judgements):
                # Going on would ask a dead endpoint for every row, with all its retries.
                raise ChatTransportError(
                    f"none of the first {len(judgements)} completions could be scored; the first "
                    f"because of: {judgements[0].unscored}"
                )
    return judgements
