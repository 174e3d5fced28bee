"""What `mpo score` and `mpo evolve` share: a JSONL of completions, scored without a trainer.

What is scored is kept in `runs/offline-…/`, whose name says file, task, rubric and model: the same
command again asks for nothing twice, and `mpo evolve` after `mpo score` pays for no score again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..chat import Chat
from ..config import Chats, compose, make_chat, reachable, read_records, read_rubric_file
from ..config.schema import SANDBOX, BudgetConfig, ChatConfig, SandboxConfig
from ..errors import ChatTransportError, ConfigError, DataError, StoreError
from ..evolving_reward import EvolvingReward
from ..records import Judgement, Rollout, content_hash
from ..schedule import Every
from ..store import Store
from ..task import load_task
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
    "open_offline",
    "score_all",
]

FILE: Any = typer.Argument(..., help="With prompt and completion: .jsonl, .json or .parquet.")
TASK: Any = typer.Option("essay", "--task", help="A built-in task, or a task folder.")
RUBRIC: Any = typer.Option(None, "--rubric", help="Rubric file; the task's own if left out.")
CHAT: Any = typer.Option(..., "--chat", help="http://host:port/v1, or sandbox.")
MODEL: Any = typer.Option("", "--model", help="Name of the model at that endpoint.")
API_KEY_ENV: Any = typer.Option("OPENAI_API_KEY", help="Variable with the API key.")
CONCURRENCY: Any = typer.Option(32, min=1, help="Most requests in flight.")
PRICE: Any = typer.Option(
    "", "--price", help="US dollars per million tokens: prompt,completion[,cached]."
)
STORE: Any = typer.Option(
    None, "--store", help="Store file; by default one in runs/ that belongs to file and rubric."
)

CHUNK = 32
"""Rollouts per progress update; they are asked at once."""


@dataclass(frozen=True)
class Offline:
    """A file of completions with what scores them."""

    reward: EvolvingReward
    chats: Chats
    rollouts: list[Rollout]
    rows: list[dict[str, Any]]
    sandbox: bool


def open_offline(
    file: Path,
    *,
    task: str,
    rubric: Path | None,
    chat: str,
    model: str,
    api_key_env: str,
    concurrency: int,
    store: Path | None,
    price: str,
    samples: int = 16,
    seed: int = 0,
) -> Offline:
    """Read the file, find task, rubric and model, and open the store.

    Raises:
        MPOError: One of them cannot be used; nothing was asked.
    """
    rows = read_records(file)
    rollouts = _rollouts(file, rows)
    loaded = load_task(task)
    start = read_rubric_file(rubric) if rubric is not None else loaded.rubric
    client = _client(chat, model, api_key_env, concurrency, seed)
    budget = BudgetConfig(prices=_prices(client.name, price))
    reachable(client)
    if store is None:
        key = [[r.id for r in rollouts], start.id, loaded.prompts["rm"].hash, client.name, seed]
        store = RUNS / f"offline-{content_hash(key, 12)}" / "mpo.db"
    try:
        store.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"{store.parent}: cannot be made: {error.strerror}") from error
    opened = Store(store)
    chats = compose(client, client, budget, opened, cache=True)
    reward = EvolvingReward(
        loaded,
        chats.rm,
        opened,
        meta_chat=chats.mrm,
        rubric=start,
        schedule=Every(1),
        samples=samples,
        earlier=0,  # there is no start of the run to compare with
        max_unscored=1.0,  # a file is scored to its end; who is missing is said there
        seed=seed,
    )
    return Offline(reward, chats, rollouts, rows, sandbox=client.name.startswith(f"{SANDBOX}-"))


def _client(chat: str, model: str, api_key_env: str, concurrency: int, seed: int) -> Chat:
    if chat == SANDBOX:
        return make_chat(ChatConfig(sandbox=True), SandboxConfig(), seed)
    if not model:
        raise ConfigError(f"--model is missing: which model of {chat} is to be asked?")
    config = ChatConfig(
        base_url=chat, model=model, api_key_env=api_key_env, concurrency=concurrency
    )
    return make_chat(config, SandboxConfig(), seed)


def _prices(model: str, price: str) -> dict[str, list[float]]:
    if not price:
        return {}
    try:
        numbers = [float(part) for part in price.split(",")]
        return BudgetConfig(prices={model: numbers}).prices
    except ValueError:
        raise ConfigError(
            f"--price {price!r}: give US dollars per million tokens, prompt,completion or "
            "prompt,completion,cached; e.g. 0.15,0.6"
        ) from None


def _rollouts(file: Path, rows: Sequence[dict[str, Any]]) -> list[Rollout]:
    if not rows:
        raise DataError(f"{file} is empty: it has no row with a prompt and a completion")
    rollouts = []
    for number, row in enumerate(rows, start=1):
        for column in ("prompt", "completion"):
            if not isinstance(row.get(column), str):
                has = "is missing" if column not in row else "must be text"
                raise DataError(
                    f"{file}, row {number}: {column!r} {has}; its columns are {', '.join(row)}"
                )
        # `score` and `rationale` are somebody's verdict: the RM must not see it.
        hidden = ("prompt", "completion", "score", "rationale", "human_score")
        columns = {key: value for key, value in row.items() if key not in hidden}
        rollouts.append(
            Rollout(
                prompt=row["prompt"],
                completion=row["completion"],
                columns=columns,
                index=number - 1,
            )
        )
    return rollouts


async def score_all(offline: Offline) -> list[Judgement]:
    """Score every rollout of the file, with a progress bar on a terminal.

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
        bar = progress.add_task("scoring", total=len(offline.rollouts))
        for start in range(0, len(offline.rollouts), CHUNK):
            chunk = offline.rollouts[start : start + CHUNK]
            judgements += await offline.reward.score(chunk)
            progress.advance(bar, len(chunk))
            if all(j.reward is None for j in judgements):
                # Going on would ask a dead endpoint for every row, with all its retries.
                raise ChatTransportError(
                    f"none of the first {len(judgements)} completions could be scored; the first "
                    f"because of: {judgements[0].unscored}"
                )
    return judgements
