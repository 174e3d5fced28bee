"""From a config to the parts of a run (`build`) or of a service (`build_served`). The only place
where they are put together."""

from __future__ import annotations

import dataclasses
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..chat import Chat, identity_of
from ..errors import ChatTransportError, ConfigError, RubricError
from ..evaluation.simulated import keep_simulated
from ..evolve.options import Evolve
from ..integrations.trainer_rollouts import GoldScorer
from ..reward import EvolvingReward
from ..rubric import Rubric, read_rubric
from ..store import Store
from ..task import Task, load_task
from ..training.model import filter_by_length
from ..training.untrained_arms import blind_rubric
from .arms import ARMS, arm_rubric
from .chats import Chats, Endpoints, check_prices, compose, make_chat, reachable
from .data import load_rows
from .plugins import Say, find_plugin
from .run_folder import open_run_store, remember_store, write_text
from .schema import Config

__all__ = [
    "Checked",
    "Parts",
    "Served",
    "build",
    "build_served",
    "check",
    "read_rubric_file",
    "task_of",
]


_log = logging.getLogger(__name__)

JUDGES = "judges"
"""Key under which the store keeps the identities of the RM, oldest first."""


@dataclass(frozen=True)
class Parts:
    """A run, ready to train."""

    config: Config
    reward: EvolvingReward
    model: str
    """Folder or hub id of the policy."""
    rows: list[dict[str, Any]]
    """Rows of the dataset, each with the policy's prompt under `prompt`."""
    dropped: int
    """Number of rows that are left out: their prompts are over the task's
    `dataset.max_prompt_tokens`."""
    gold_scorer: GoldScorer | None
    """Measures gold; None where nobody knows it."""
    measure: str
    """Name of what gold is here."""
    exploits: tuple[str, ...]
    """Biases that a simulated RM declares; empty for any other."""
    chats: Chats
    """The models that the reward asks, with the ledger of what they have cost."""


@dataclass(frozen=True)
class Served:
    """A reward, ready to be served."""

    reward: EvolvingReward
    chats: Chats
    """The models that the reward asks, with the ledger of what they have cost."""
    concurrency: int
    """Calls that the RM's chat makes at once."""
    clients: dict[str, Chat]
    """The clients behind `chats` by role, each once."""
    down: dict[str, str]
    """Messages about those that nobody answers for now, by role."""


@dataclass(frozen=True)
class Checked:
    """The parts of a config that cost nothing."""

    task: Task
    rubric: Rubric | None
    """The seed rubric that arm or config name; None for the task's own."""
    rows: list[dict[str, Any]]
    chat: Chat
    meta_chat: Chat
    second_judge: Chat | None = None


def build(config: Config, folder: Path, say: Say = lambda message: None) -> Parts:
    """Put a run together. Every fault of the config is found before anything is paid for.

    Args:
        folder: The run's folder; the store is `folder/mpo.db`.
        say: Receives a line about what takes long.

    Raises:
        MPOError: Task, rubric, rows or endpoint cannot be used; nothing was called or trained.
    """
    checked = check(config)
    plugin, model = find_plugin(config.model), config.model
    if plugin is not None:
        model = str(plugin.policy(checked.task.name, say))
    rows = _fitting(checked, model, say)
    dropped, checked = len(checked.rows) - len(rows), dataclasses.replace(checked, rows=rows)
    store = open_run_store(folder)
    keep_simulated(store, config.simulated)
    chats = _compose(config, checked, store)
    if ARMS[config.arm].blind:
        try:
            rubric = _blind(config, folder, checked, chats, model, say)
        finally:
            chats.keep()
        checked = dataclasses.replace(checked, rubric=rubric)
    source = find_plugin(config.data.path)
    gold_scorer = None if source is None else source.gold(checked.task)
    reward = _reward(config, store, checked, chats, config.evolve)
    remember_store(store)
    return Parts(
        config=config,
        reward=reward,
        model=model,
        rows=checked.rows,
        dropped=dropped,
        gold_scorer=gold_scorer,
        measure="gold" if source is None else source.measure(checked.task),
        exploits=tuple(getattr(checked.chat, "biases", ())),
        chats=chats,
    )


def build_served(config: Config, folder: Path, chat: Chat | None = None) -> Served:
    """Put a reward together for `mpo serve`.

    Args:
        config: Its `model` and `data` are the engine's business and not read.
        folder: The run's folder; the store is `folder/mpo.db`.
        chat: Chat to ask instead of the config's models.

    Raises:
        MPOError: Task, rubric or endpoint cannot be used; nothing was called. An endpoint that is
            down is no such error: what was judged before can be served.
    """
    if ARMS[config.arm].blind:
        raise ConfigError("arm 'blind' rewrites its rubric before training: it cannot be served")
    task = load_task(config.task)
    checked = Checked(task, _rubric(config, task), [], *_chats(config, chat))
    roles = {"rm": checked.chat, "mrm": checked.meta_chat, "audit": checked.second_judge}
    clients: dict[str, Chat] = {}
    down: dict[str, str] = {}
    for role, client in roles.items():
        if client is None or client in clients.values():
            continue
        clients[role] = client
        try:
            reachable(client)
        except ChatTransportError as error:
            down[role] = str(error)
    store = open_run_store(folder)
    keep_simulated(store, config.simulated_models)
    chats = _compose(config, checked, store)
    # Only the engine can stop its run; it learns of each item that is unscored.
    scoring = config.reward.model_copy(update={"max_unscored": 1.0})
    lenient = config.model_copy(update={"reward": scoring})
    reward = _reward(lenient, store, checked, chats, config.evolve)
    remember_store(store)
    return Served(reward, chats, config.chat.concurrency, clients, down)


def check(config: Config) -> Checked:
    """Task, rubric, rows and endpoints of a config; nothing is trained, called or written.

    Raises:
        MPOError: One of them cannot be used.
    """
    task = task_of(config)
    rubric = _rubric(config, task)
    rows = load_rows(config, task)
    chats = _chats(config)
    for client in dict.fromkeys(chat for chat in chats if chat is not None):
        reachable(client)
    return Checked(task, rubric, rows, *chats)


def task_of(config: Config) -> Task:
    """The task of a config, as its policy can do it.

    Raises:
        TaskError: There is no such task, or its folder is faulty.
    """
    task, plugin = load_task(config.task), find_plugin(config.model)
    return task if plugin is None else plugin.policy_task(task)


def _rubric(config: Config, task: Task) -> Rubric | None:
    path = arm_rubric(config.arm, task, config.rubric)
    return read_rubric_file(path) if path is not None else None


def _chats(config: Config, chat: Chat | None = None) -> tuple[Chat, Chat, Chat | None]:
    """RM, MRM and second judge; `chat` takes the place of all of them.

    Raises:
        ConfigError: A price is missing.
    """
    endpoints = Endpoints()
    rm = chat or make_chat(config.chat, config.seed, endpoints)
    mrm, second = rm, None
    if chat is None and config.meta_chat is not None:
        mrm = make_chat(config.meta_chat, config.seed, endpoints)
    if chat is None and config.second_judge is not None:
        # A simulated second judge has biases of its own.
        second = make_chat(config.second_judge, config.seed + 1, endpoints)
    check_prices(config.budget, rm, mrm, *([second] if second is not None else []))
    return rm, mrm, second


def _compose(config: Config, checked: Checked, store: Store) -> Chats:
    return compose(
        checked.chat,
        checked.meta_chat,
        config.budget,
        store,
        cache=config.cache,
        second_judge=checked.second_judge,
    )


def _fitting(checked: Checked, model: str, say: Say) -> list[dict[str, Any]]:
    """The rows that the policy can take: only its tokenizer can tell."""
    limit, rows = checked.task.spec.dataset.max_prompt_tokens, checked.rows
    if limit is None:
        return rows
    say(f"counting the tokens of {len(rows):,} prompts")
    short_enough = filter_by_length(rows, model, limit)
    dropped = len(rows) - len(short_enough)
    if dropped:
        say(f"{dropped:,} of {len(rows):,} prompts dropped: over {limit:,} tokens")
    return short_enough


def read_rubric_file(path: Path) -> Rubric:
    """A rubric from a file of any known form; a warning names text that is no part of it.

    Raises:
        RubricError: No such file, or no rubric in it; the message names the file.
    """
    try:
        read = read_rubric(path.read_text("utf-8"))
    except FileNotFoundError:
        raise RubricError(f"rubric {str(path)!r}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RubricError(f"rubric {str(path)!r}: cannot be read as text: {error}") from error
    except RubricError as error:
        raise RubricError(f"rubric {str(path)!r}: {error}") from error
    for note in read.notes:
        _log.warning("rubric %r: %s", str(path), note)
    return read.rubric


def _reward(
    config: Config, store: Store, checked: Checked, chats: Chats, evolve: Evolve
) -> EvolvingReward:
    return EvolvingReward(
        checked.task,
        chats.rm,
        store,
        meta_chat=chats.mrm,
        second_judge=chats.audit,
        rubric=checked.rubric,
        scoring=config.reward,
        evolve=evolve,
        seed=config.seed,
        earlier_judges=_earlier_judges(store, chats.rm),
    )


def _earlier_judges(store: Store, chat: Chat) -> list[str]:
    """Identities of the RM at the endpoints that it had in this run before; keeps the one it has
    now."""
    known: list[str] = json.loads(store.meta(JUDGES) or "[]")
    now = identity_of(chat)
    if now not in known:
        store.set_meta(JUDGES, json.dumps([*known, now]))
    return [identity for identity in known if identity != now]


def _blind(
    config: Config, folder: Path, checked: Checked, chats: Chats, model: str, say: Say
) -> Rubric:
    """The rubric of the blind arm: rewritten as often as one is due in arm `mpo`, once, and kept in
    the run's folder."""
    path = folder / "blind.md"
    if path.is_file():
        return read_rubric_file(path)
    every = config.meta.every
    rounds = config.trainer.steps // every if isinstance(every, int) else 0
    if rounds < 1:
        raise ConfigError(
            f"arm 'blind': trainer.steps={config.trainer.steps} holds no meta step of "
            f"meta.every={every}"
        )
    say(f"rewriting the rubric {rounds} times on the untrained policy")
    store = Store(folder / "blind.db")
    changes = {"every": 1, "delay": 0, "canaries": False, "alarm_distance": None}
    evolve = config.meta.model_copy(update=changes)
    reward = _reward(config, store, checked, chats, evolve)
    try:
        rubric = blind_rubric(
            reward=reward,
            settings=config.trainer,
            model=model,
            rows=checked.rows,
            rounds=rounds,
            seed=config.seed,
        )
    finally:
        reward.store.close()
    write_text(path, rubric.to_markdown())
    return rubric
