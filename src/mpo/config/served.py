"""`build_served`: the parts of a config that a service needs. It trains nobody, reads no rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..chat import Chat
from ..errors import ConfigError
from ..reward import EvolvingReward
from ..store import Store
from ..task import load_task
from .arms import ARMS, arm_rubric
from .build import Checked, _reward, read_rubric_file
from .chats import Chats, Endpoints, check_prices, compose, make_chat, reachable
from .schema import Config

__all__ = ["Served", "build_served"]


@dataclass(frozen=True)
class Served:
    """A reward, ready to be served."""

    reward: EvolvingReward
    chats: Chats
    """What it asks, with the ledger of what that has cost."""
    concurrency: int
    """Calls that the RM's chat makes at once."""


def build_served(config: Config, folder: Path, chat: Chat | None = None) -> Served:
    """Put a reward together for `mpo serve`.

    Args:
        config: Its `model` and `data` are the engine's business, and not looked at.
        folder: Of the run; the store is `folder/mpo.db`.
        chat: Asked instead of the config's endpoints.

    Raises:
        MPOError: Task, rubric or endpoint cannot be used; nothing was asked.
    """
    arm = ARMS[config.arm]
    if arm.blind:
        raise ConfigError("arm 'blind' rewrites its rubric before training: it cannot be served")
    task = load_task(config.task)
    path = arm_rubric(config.arm, task, config.rubric)
    rubric = read_rubric_file(path) if path is not None else None
    endpoints = Endpoints()
    rm = chat or make_chat(config.chat, config.sandbox, config.seed, endpoints)
    mrm = rm
    if chat is None and config.meta_chat is not None:
        mrm = make_chat(config.meta_chat, config.sandbox, config.seed, endpoints)
    audit = None
    if chat is None and config.second_judge is not None:
        audit = make_chat(config.second_judge, config.sandbox, config.seed + 1, endpoints)
    asked = [rm, mrm, *([audit] if audit is not None else [])]
    check_prices(config.budget, *asked)
    for part in asked:
        reachable(part)
    store = Store(folder / "mpo.db")
    chats = compose(rm, mrm, config.budget, store, cache=config.cache, second_judge=audit)
    # Only the engine can stop its run; it is told of each item that is unscored.
    lenient = config.reward.model_copy(update={"max_unscored": 1.0})
    reward = _reward(
        config.model_copy(update={"reward": lenient}),
        store,
        Checked(task, rubric, [], rm, mrm, audit),
        chats,
        rubric,
        config.evolve,
    )
    return Served(reward, chats, config.chat.concurrency)
