"""`build`: from a config to the parts of a run. The only place where they are put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mpo_sandbox.audit import SandboxGold
from mpo_sandbox.chat import SimulatedChat
from mpo_sandbox.policy import ensure_policy

from ..chat import Chat
from ..errors import ConfigError, RubricError
from ..evolve.gate import AllOf, Always, Gate, Pairs, Probes, load_pairs
from ..evolve.schedule import SELECTIONS, Every, Never, Schedule
from ..integrations.rollouts import GoldScorer
from ..judge import make_reward_model
from ..judge.scale import Anchored, Normalized, Raw, Scale, normalized
from ..reward import EvolvingReward
from ..rubric import Rubric, read_rubric
from ..store import Store
from ..task import Task, load_task
from ..task.answers import BoxedAnswers
from ..training.arms import blind_rubric
from ..training.model import filter_by_length
from .arms import ARMS, arm_rubric
from .chats import Chats, Endpoints, check_prices, compose, make_chat, reachable
from .data import load_rows
from .folder import write_text
from .schema import SANDBOX, Config

__all__ = ["Checked", "Parts", "build", "check", "read_rubric_file"]

SCALES: dict[str, type[Scale]] = {"normalized": Normalized, "raw": Raw, "anchored": Anchored}

STEP_DEADLINE_S = 1500.0
"""Longest time for grading a step, in seconds: ranks wait for each other, and torch.distributed
gives up after 1800."""
SANDBOX_TOKENS = 72
"""Longest text of the sandbox's policies, in their tokens (words and marks): what they have learned
ends at 70."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Parts:
    """A run, ready to train."""

    config: Config
    reward: EvolvingReward
    model: str
    """Folder or hub id of the policy."""
    rows: list[dict[str, Any]]
    """Each with the policy's prompt under `prompt`."""
    dropped: int
    """Rows of the dataset that are left out: their prompts are over the task's
    `dataset.max_prompt_tokens`."""
    auditor: GoldScorer | None
    """Measures gold; None where nobody can."""
    measure: str
    """What gold is here: `gold`, or what the sandbox measures for this task."""
    exploits: tuple[str, ...]
    """What the simulated RM takes for quality; empty outside the sandbox."""
    chats: Chats
    """What the reward asks, with the ledger of what it has cost."""


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
    """Put a run together. What is wrong with the config is found before anything is paid for.

    Args:
        folder: Of the run; the store is `folder/mpo.db`.
        say: Told what takes long.

    Raises:
        MPOError: Task, rubric, rows or endpoint cannot be used; nothing was asked or trained.
    """
    checked = check(config)
    model = config.model
    if model == SANDBOX:
        model = str(ensure_policy(task=checked.task.name, progress=say))
    rows = _fitting(checked, model, say)
    dropped, checked = len(checked.rows) - len(rows), dataclasses.replace(checked, rows=rows)
    rubric = checked.rubric
    store = Store(folder / "mpo.db")
    chats = compose(
        checked.chat,
        checked.meta_chat,
        config.budget,
        store,
        cache=config.cache,
        second_judge=checked.second_judge,
    )
    if ARMS[config.arm].blind:
        try:
            rubric = _blind(config, folder, checked, chats, model, say)
        finally:
            chats.keep()
    schedule = Every(config.meta.every) if ARMS[config.arm].evolves else Never()
    chat, auditor = checked.chat, _auditor(config, checked.task)
    return Parts(
        config=config,
        reward=_reward(config, store, checked, chats, rubric, schedule),
        model=model,
        rows=checked.rows,
        dropped=dropped,
        auditor=auditor,
        measure="gold" if auditor is None else auditor.measure,
        exploits=chat.biases if isinstance(chat, SimulatedChat) else (),
        chats=chats,
    )


def check(config: Config) -> Checked:
    """Task, rubric, rows and endpoints of a config; nothing is trained, asked or written.

    Raises:
        MPOError: One of them cannot be used.
    """
    task = load_task(config.task)
    if config.model == SANDBOX:
        task = in_sandbox(task)
    path = arm_rubric(config.arm, task, config.rubric)
    rubric = read_rubric_file(path) if path is not None else None
    rows = load_rows(config, task)
    endpoints = Endpoints()
    chat = make_chat(config.chat, config.sandbox, config.seed, endpoints)
    meta, audit = (
        None if part is None else make_chat(part, config.sandbox, seed, endpoints)
        # A simulated auditor has biases of its own.
        for part, seed in ((config.meta_chat, config.seed), (config.second_judge, config.seed + 1))
    )
    meta_chat = chat if meta is None else meta
    asked = [chat, meta_chat, *([audit] if audit is not None else [])]
    check_prices(config.budget, *asked)
    for part in asked:
        reachable(part)
    return Checked(task, rubric, rows, chat, meta_chat, audit)


def _fitting(checked: Checked, model: str, say: Say) -> list[dict[str, Any]]:
    """The rows that the policy can take: only its tokenizer can tell."""
    most, rows = checked.task.spec.dataset.max_prompt_tokens, checked.rows
    if most is None:
        return rows
    say(f"counting the tokens of {len(rows):,} prompts")
    kept = filter_by_length(rows, model, most)
    if len(kept) < len(rows):
        dropped = len(rows) - len(kept)
        say(f"{dropped:,} of {len(rows):,} prompts dropped: over {most:,} tokens")
    return kept


def in_sandbox(task: Task) -> Task:
    """The task for a policy that knows no instruction but its corpus's own, and has 72 tokens."""
    response = task.spec.response.model_copy(
        update={"max_tokens": SANDBOX_TOKENS, "max_words": SANDBOX_TOKENS}
    )
    spec = task.spec.model_copy(update={"prompt": "{{prompt}}", "response": response})
    return dataclasses.replace(task, spec=spec)


def read_rubric_file(path: Path) -> Rubric:
    """A rubric from a file of any known form.

    Raises:
        RubricError: No such file, or no rubric in it; the message names the file.
    """
    try:
        return read_rubric(path.read_text("utf-8")).rubric
    except FileNotFoundError:
        raise RubricError(f"rubric {str(path)!r}: no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RubricError(f"rubric {str(path)!r}: cannot be read as text: {error}") from error
    except RubricError as error:
        raise RubricError(f"rubric {str(path)!r}: {error}") from error


def _reward(
    config: Config,
    store: Store,
    checked: Checked,
    chats: Chats,
    rubric: Rubric | None,
    schedule: Schedule,
) -> EvolvingReward:
    meta = config.meta
    return EvolvingReward(
        checked.task,
        chats.rm,
        store,
        meta_chat=chats.mrm,
        rubric=rubric,
        schedule=schedule,
        selection=SELECTIONS[meta.selection](),
        samples=meta.samples,
        others=meta.others,
        earlier=meta.earlier,
        gate=_gate(config, checked.task, chats, store),
        scale=SCALES[config.reward.scale](),
        max_unscored=config.reward.max_unscored,
        deadline_s=STEP_DEADLINE_S,
        flags=config.reward.flags,
        analysis=meta.analysis,
        rationales=meta.rationales,
        answers=_answers(checked.task),
        delay=meta.delay if config.arm != "blind" else 0,
        lint=meta.lint,
        on_alarm=meta.alarm is not None,
        min_distance=meta.alarm or 1,
        canaries=config.guarded,
        second_judge=chats.audit,
        seed=config.seed,
    )


def _auditor(config: Config, task: Task) -> SandboxGold | None:
    """Who knows the outcome that the reward was meant to measure: of the sandbox's own rows."""
    if config.data.path != SANDBOX:
        return None
    return SandboxGold(task.name, BoxedAnswers())


def _answers(task: Task) -> BoxedAnswers | None:
    """What compares final answers, for a task that grades by them."""
    return BoxedAnswers() if task.spec.rm.answer_check != "off" else None


def _gate(config: Config, task: Task, chats: Chats, store: Store) -> Gate:
    """The gate that `meta.gate` names; several must all accept.

    Raises:
        ConfigError: An unknown name.
        DataError: A file of pairs that cannot be read.
    """
    names = [config.meta.gate] if isinstance(config.meta.gate, str) else config.meta.gate
    model = make_reward_model(task, chats.rm, store.secret, config.seed, answers=_answers(task))
    gates: list[Gate] = []
    for name in names:
        kind, _, argument = name.partition(":")
        if name == "always":
            gates.append(Always())
        elif name == "probes":
            gates.append(Probes(model, task, normalized, seed=config.seed))
        elif kind == "pairs" and argument:
            pairs = load_pairs(Path(argument))
            gates.append(Pairs(model, task, normalized, pairs, seed=config.seed))
        else:
            raise ConfigError(
                f"unknown gate {name!r} in meta.gate; write always, probes, pairs:FILE, or a list"
            )
    return gates[0] if len(gates) == 1 else AllOf(gates)


def _blind(
    config: Config, folder: Path, checked: Checked, chats: Chats, model: str, say: Say
) -> Rubric:
    """The rubric of the blind arm: evolved once, as often as `mpo` would, and kept."""
    kept = folder / "blind.md"
    if kept.is_file():
        return read_rubric_file(kept)
    rounds = config.trainer.steps // config.meta.every
    if rounds < 1:
        raise ConfigError(
            f"arm 'blind': trainer.steps={config.trainer.steps} holds no meta step of "
            f"meta.every={config.meta.every}"
        )
    say(f"rewriting the rubric {rounds} times on the untrained policy")
    store = Store(folder / "blind.db")
    reward = _reward(config, store, checked, chats, checked.rubric, Every(1))
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
    write_text(kept, rubric.to_markdown())
    return rubric
