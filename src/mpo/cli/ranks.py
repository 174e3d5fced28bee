"""`mpo train` in several processes: under `torchrun`, or `accelerate launch`.

    torchrun --nproc-per-node 2 -m mpo train CONFIG --name NAME

The main process holds the run's folder, shows progress and writes what is kept. The others follow
it: they wait until it has made folder and store, train with it, and say nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from ..config import ARMS, Config, Parts, build, finished
from ..errors import ConfigError
from ..training.model import processes
from ..training.start import train

__all__ = ["check_ranks", "costs", "follow"]

PATIENCE_S = 5
"""Seconds until a follower says what it waits for."""


def check_ranks(config: Config) -> None:
    """Refuse a config that cannot be trained in as many processes as there are.

    Raises:
        ConfigError: Its arm does not train, or it has a cap, at which several processes cannot stop
            together.
    """
    if processes() == 1:
        return
    if not ARMS[config.arm].trains:
        raise ConfigError(f"arm {config.arm!r} does not train: run it in one process")
    caps = [name for name in ("usd", "tokens", "calls") if getattr(config.budget, name) is not None]
    if caps:
        raise ConfigError(
            f"budget.{caps[0]} cannot stop a run cleanly where these are {processes()} processes: "
            "the first that finds it spent leaves the others in the middle of a step. Leave it "
            "out and cap the endpoint's key, or train in one process"
        )


def follow(config: Config, folder: Path) -> None:
    """Train as a process that is not the main one.

    Raises:
        MPOError: As in the main process.
    """
    _wait(folder / "config.yaml")
    if finished(folder) is not None:
        return
    _wait(folder / "mpo.db")  # by then the main process has the sandbox's policy too
    if ARMS[config.arm].blind:
        _wait(folder / "blind.md")
    parts = build(config, folder)
    train(
        reward=parts.reward,
        settings=config.trainer,
        model=parts.model,
        rows=parts.rows,
        folder=folder,
        seed=config.seed,
        gold_scorer=parts.gold_scorer,
    )
    parts.reward.store.close()


def _wait(path: Path) -> None:
    # Without a limit: where the main process fails, the launcher ends this one.
    started, reported = time.monotonic(), False
    while not path.exists():
        if not reported and time.monotonic() - started > PATIENCE_S:
            typer.echo(f"waiting until the process of rank 0 has made {path}", err=True)
            reported = True
        time.sleep(0.2)


def costs(parts: Parts) -> Mapping[str, Any]:
    """Use by role; with several processes, from the store that they share."""
    if processes() == 1:
        return parts.chats.costs()
    roles = {}
    for role, usage in parts.reward.store.usage().items():
        price = parts.chats.prices.get(role)
        usd = None if price is None else round(price.of(usage), 6)
        roles[role] = {**usage.model_dump(), "usd": usd}
    return roles
