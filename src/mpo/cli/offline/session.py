"""A file of completions with the reward that scores it and the store that keeps the scores.

The store is in `runs/offline-…/`, whose name depends on file, task, rubric and model: the same
command pays for nothing twice, and `mpo evolve` after `mpo score` pays for no score again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, TypeVar

import typer
from pydantic import ValidationError

from ...chat import Chat, Price, WindowedChat, estimate_tokens, identity_of
from ...config import Chats, Config, compose, read_rubric_file
from ...config.plugins import find_plugin, is_simulated
from ...config.schema import BudgetConfig
from ...errors import ChatTransportError, ConfigError
from ...evaluation.simulated import keep_simulated
from ...evolve.options import Evolve
from ...judge import judge_identity
from ...judge.options import Scoring
from ...judge.scorer import Scorer
from ...records import Case, Judgement, Rollout, Usage, content_hash, to_json
from ...reward import EvolvingReward
from ...rubric import Rubric, first_fault
from ...task import PROTOCOL_PROMPTS, PromptFile, Task, load_task
from ..board import short
from ..endpoints import endpoint, read_price
from ..evaluate_common import progress_bar
from ..plan import make_plan
from ..runs import RUNS, create_store
from .options import DEFAULT_KEY_ENV, OfflineOptions
from .rows import FROM_FILE, FileRow, FileRows, file_judgements, read_file_rows

__all__ = [
    "MetaOptions",
    "OfflineSession",
    "estimate_cost",
    "open_session",
    "print_estimate",
    "score_in_chunks",
    "task_or_generic",
]

T = TypeVar("T")

GENERIC = "generic"
"""The task of files of which nobody says what they are: responses to prompts."""
CHUNK = 16
"""Rollouts per update of the progress bar."""
AT_ONCE = 512
"""Rollouts under way at once; how many requests that makes is the chat's to limit."""
DEAD = 32
"""Rollouts after which an endpoint that has scored none of them counts as dead."""


@dataclass(frozen=True)
class OfflineSession:
    """A file of completions, ready to be scored."""

    options: OfflineOptions
    reward: EvolvingReward
    chats: Chats
    file: FileRows
    price: list[float] | None
    """US dollars per million prompt, completion and cached tokens of the RM; None if it is not
    known."""
    meta_price: list[float] | None
    """The same of the MRM."""
    sandbox: bool

    @property
    def rows(self) -> list[FileRow]:
        """The file's completions, each once."""
        return self.file.rows

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run work; at its end, save the ledger and close the connections."""

        async def run() -> T:
            try:
                return await work
            finally:
                self.chats.keep()
                await self.reward.aclose()

        return asyncio.run(run())

    def judgements(self) -> dict[str, Judgement]:
        """The last judgement of each of the file's rollouts, by rollout id; of this model or of the
        file itself, as the store may hold another model's too."""
        cases = self.reward.store.window(cohort=None, scored=None)
        mine = (FROM_FILE, judge_identity(self.reward.reward_model))
        return {c.rollout.id: c.judgement for c in cases if c.judgement.answered_by in mine}

    def use_file_scores(self, rows: Sequence[FileRow]) -> None:
        """Store the file's own scores of rows that have no judgement yet."""
        known = self.judgements()
        rollouts = {row.rollout.id: row.rollout for row in rows}
        self.reward.store.append(
            [
                Case(rollout=rollouts[judgement.rollout_id], judgement=judgement)
                for judgement in file_judgements(self.rows, self.reward.seed_rubric)
                if judgement.rollout_id in rollouts and judgement.rollout_id not in known
            ]
        )

    def unscored(self, rows: Sequence[FileRow]) -> list[Rollout]:
        """The rollouts of rows without a score, from the file or the reward model."""
        known = self.judgements()
        done = {id for id, judgement in known.items() if judgement.reward is not None}
        return [row.rollout for row in rows if row.rollout.id not in done]

    def scorer(self) -> Scorer:
        """A scorer under any rubric, into the same store."""
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


@dataclass(frozen=True)
class MetaOptions:
    """The meta step of a command, and the model that it asks."""

    samples: int = 16
    """Rollouts that it looks at."""
    seed: int = 0
    """Random seed for the choice of them, and for a simulated model."""
    gates: Sequence[str] = ("always",)
    chat: str = ""
    """As `OfflineOptions.chat`; the RM's if empty."""
    model: str = ""
    """The RM's if chat and model are both empty."""
    api_key_env: str = ""
    """The RM's if empty and the endpoint is the RM's."""
    chat_option: Sequence[str] = ()
    price: str = ""
    """The RM's if empty and the model is the RM's."""


def open_session(options: OfflineOptions, meta: MetaOptions = MetaOptions()) -> OfflineSession:
    """Read the file, find task, rubric and models, and open the store.

    Args:
        options: Options of the command.
        meta: The meta step, where the command has one.

    Raises:
        MPOError: One of them cannot be used; no model was called.
    """
    task = task_or_generic(options.task)
    file = read_file_rows(options.file, task, options.reading)
    if file.remark:
        typer.echo(f"{options.file}: {file.remark}", err=True)
    rubric = read_rubric_file(options.rubric) if options.rubric is not None else task.rubric
    price = read_price("--price", options.price)
    evolve = _evolve(meta)
    client = endpoint(
        options.chat,
        options.model,
        options.api_key_env,
        options.concurrency,
        meta.seed,
        options.chat_option,
    )
    meta_client, meta_price = _meta_chat(options, meta, client, price)
    _say_what_is_too_long(client, file, task, rubric)
    path = options.store
    if path is None:
        texts = [row.rollout.id for row in file.rows]
        # Other scores in the file are other evidence.
        scores = [[row.score, row.rationale] for row in file.rows]
        key = [
            texts,
            scores,
            rubric.id,
            [prompt.hash for prompt in _rm_prompts(task)],
            identity_of(client),
            meta.seed,
        ]
        path = RUNS / f"offline-{content_hash(key, 12)}" / "mpo.db"
    store = create_store(path)
    known = {meta_client.name: meta_price, client.name: price}
    budget = BudgetConfig(prices={name: p for name, p in known.items() if p is not None})
    chats = compose(client, meta_client, budget, store, cache=True)
    reward = EvolvingReward(
        task,
        chats.rm,
        store,
        meta_chat=chats.mrm,
        rubric=rubric,
        # A file is scored to its end; the result says what is missing.
        scoring=Scoring(max_unscored=1.0, deadline_s=None),
        evolve=evolve,
        seed=meta.seed,
    )
    sandbox = is_simulated(options.chat, options.model)
    keep_simulated(store, {"judge": sandbox})
    simulated = is_simulated(meta.chat or options.chat, meta.model or options.model)
    return OfflineSession(
        options,
        reward,
        chats,
        file,
        [0.0, 0.0] if sandbox else price,
        [0.0, 0.0] if simulated else meta_price,
        sandbox,
    )


def _evolve(meta: MetaOptions) -> Evolve:
    try:
        # There is no start of the run to compare with.
        return Evolve(
            every=1, samples=meta.samples, baseline_cases=0, gate=tuple(meta.gates), delay=0
        )
    except ValidationError as error:
        raise ConfigError(f"--gate: {first_fault(error)}") from error


def _meta_chat(
    options: OfflineOptions, meta: MetaOptions, client: Chat, price: list[float] | None
) -> tuple[Chat, list[float] | None]:
    """The MRM, and its price."""
    own = read_price("--meta-price", meta.price)
    if not (meta.chat or meta.model):
        return client, own or price
    chat = meta.chat or options.chat
    if not meta.model and find_plugin(chat) is None:
        raise ConfigError(f"--meta-model is missing: name the model to call at {chat}")
    # Another model at the same endpoint takes its key and settings; no other endpoint gets them.
    key = meta.api_key_env or (DEFAULT_KEY_ENV if meta.chat else options.api_key_env)
    settings = [*([] if meta.chat else options.chat_option), *meta.chat_option]
    other = endpoint(chat, meta.model, key, options.concurrency, meta.seed, settings)
    return other, own or (price if identity_of(other) == identity_of(client) else None)


def _rm_prompts(task: Task) -> list[PromptFile]:
    return [task.prompts[kind] for kind in PROTOCOL_PROMPTS[task.spec.rm.protocol]]


def _say_what_is_too_long(client: Chat, file: FileRows, task: Task, rubric: Rubric) -> None:
    """Say how many completions do not fit into the model's window, where it is known."""
    if not isinstance(client, WindowedChat):
        return
    wording = "\n".join(text for _, text in _rm_prompts(task)[0].sections)
    fixed = task.spec.rm.max_tokens + estimate_tokens(wording + rubric.to_markdown())
    too_long = sum(
        fixed + estimate_tokens(row.rollout.prompt) + estimate_tokens(row.rollout.completion)
        > client.tokens
        for row in file.rows
    )
    if too_long:
        typer.echo(
            f"{too_long} of {len(file.rows)} completions do not fit into window_tokens="
            f"{client.tokens}: the reward model does not score them, and the meta-reward model "
            "reads them clipped where the file has their score",
            err=True,
        )


def task_or_generic(named: str) -> Task:
    """The task that an option names, or else `generic`, which is said on stderr.

    Raises:
        TaskError: There is no such task, or its folder is faulty.
    """
    if not named:
        typer.echo(f"task: {GENERIC} (built in; --task names another)", err=True)
    return load_task(named or GENERIC)


async def score_in_chunks(
    score: Callable[[Sequence[Rollout]], Any], rollouts: Sequence[Rollout], label: str = "scoring"
) -> list[Judgement]:
    """Score rollouts, with a progress bar on a terminal.

    Args:
        score: An async function from rollouts to their judgements, in order.
        rollouts: Rollouts to score.
        label: Label of the progress bar.

    Raises:
        ChatTransportError: No rollout at all could be scored.
        StoreError: The store cannot be written.
    """
    places = asyncio.Semaphore(AT_ONCE // CHUNK)

    async def one(start: int) -> list[Judgement]:
        async with places:
            return list(await score(rollouts[start : start + CHUNK]))

    tasks = [asyncio.create_task(one(start)) for start in range(0, len(rollouts), CHUNK)]
    done, any_scored = 0, False
    try:
        with progress_bar(label) as progress:
            for next_one in asyncio.as_completed(tasks):
                judgements = await next_one
                done += len(judgements)
                progress(done, len(rollouts))
                any_scored |= any(j.reward is not None for j in judgements)
                if not any_scored and done >= min(DEAD, len(rollouts)):
                    # Going on would ask a dead endpoint for every row, with all its retries.
                    raise ChatTransportError(
                        f"none of the first {done} completions could be scored; reason of one: "
                        f"{judgements[0].unscored}"
                    )
    finally:
        for task in tasks:
            task.cancel()
    return [judgement for task in tasks for judgement in task.result()]


# ---------------------------------------------------------------------- cost


def estimate_cost(session: OfflineSession, judgements: int, samples: int = 0) -> dict[str, Any]:
    """Estimate from the task's own prompts and the lengths of the file's texts.

    Args:
        session: The file and its reward.
        judgements: Number of judgements that are needed, those of gate and canaries included.
        samples: Rollouts that the meta step looks at; 0 for no meta step.

    Returns:
        JSON values: `judgements`, `calls`, `meta_calls` (those of the MRM), `prompt_tokens`,
        `completion_tokens`, and `usd`, None where a model has no price.
    """
    options = session.options
    config = Config.model_validate(
        {
            "task": str(session.reward.task.folder),
            "model": "none",
            "chat": {"plugin": "sandbox"},
            "rubric": str(options.rubric) if options.rubric is not None else None,
            "meta": {"every": 1, "samples": max(samples, 1), "gate": "always", "delay": 0},
            "trainer": {"steps": 1, "batch_size": 2 * max(samples, 2), "num_generations": 2},
        }
    )
    plan = make_plan(
        config,
        prompt_words=_mean_words(row.rollout.prompt for row in session.rows),
        response_words=_mean_words(row.rollout.completion for row in session.rows),
    )
    judging = _usage(plan["rm"], judgements / plan["judgements"])
    rewriting = _usage(plan["mrm"], 1.0) if samples else Usage()
    usage = judging + rewriting
    parts = [(session.price, judging), *([(session.meta_price, rewriting)] if samples else [])]
    costs = [None if price is None else Price(*price).of(spent) for price, spent in parts]
    usd = None if None in costs else round(sum(cost or 0.0 for cost in costs), 6)
    return {
        "judgements": judgements,
        "calls": usage.calls,
        "meta_calls": rewriting.calls,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "usd": usd,
    }


def _mean_words(texts: Iterable[str]) -> int:
    return max(1, round(fmean(len(text.split()) for text in texts)))


def _usage(figures: Mapping[str, int], times: float) -> Usage:
    return Usage(
        calls=round(figures["calls"] * times),
        prompt_tokens=round(figures["prompt_tokens"] * times),
        completion_tokens=round(figures["output_tokens"] * times),
    )


def print_estimate(estimate: Mapping[str, Any], *, as_json: bool = False) -> None:
    """Print an estimate: one line on stderr, or JSON on stdout."""
    if as_json:
        typer.echo(to_json(estimate, indent=2))
        return
    usd = "" if estimate["usd"] is None else f", about {estimate['usd']:.4f} USD"
    typer.echo(
        f"about {estimate['calls']:,} calls, {short(estimate['prompt_tokens'])} prompt and "
        f"{short(estimate['completion_tokens'])} completion tokens{usd}",
        err=True,
    )
