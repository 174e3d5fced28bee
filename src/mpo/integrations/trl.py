"""TRL: an evolving reward in a TRL program of your own (GRPO, RLOO).

    from mpo.training.trl import MPOCallback, TRLReward

    trainer = GRPOTrainer(
        model, reward_funcs=[TRLReward(reward)], callbacks=[MPOCallback(reward)], ...
    )

`TRLReward` scores, on every rank. `MPOCallback` holds the meta steps, on the main process while
the others wait, and puts the rubric's state into the trainer's checkpoints. Steps are optimizer
updates: with k = 10 the rubric may change after updates 10, 20, …, however many batches, micro-
batches or processes an update has.

A meta step has to end before the process group's timeout (`ddp_timeout`, 30 minutes by default).
"""

from __future__ import annotations

import atexit
import logging
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import CodeType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from ..chat.event_loop import hand_over, run_in_loop
from ..errors import ConfigError, MissingExtraError, MPOError, StoreError
from ..records import Decision, Judgement, Mode, Rollout, content_hash
from ..reward import EvolvingReward

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = [
    "GoldScorer",
    "MPOCallback",
    "TRLReward",
    "flatten",
    "processes_in",
    "require_trl",
    "snapshot_in",
]

_log = logging.getLogger(__name__)

OLDEST_TRL = (1, 9, 2)
"""Before it, a completion without a reward trained as one with reward 0."""

T = TypeVar("T")


class GoldScorer(Protocol):
    """Scores rollouts from outside: gold in the sandbox, a second judge elsewhere."""

    def audit(
        self, rollouts: Sequence[Rollout]
    ) -> Sequence[tuple[str, float | None, Mapping[str, float]]]:
        """Rollout id, value (None for "no value", never 0 for it), and what it is made of."""
        ...


def require_trl() -> None:
    """Raises an error where TRL is missing or too old.

    Raises:
        MissingExtraError: Not installed.
        ConfigError: Older than 1.9.2.
    """
    try:
        found = version("trl")
    except PackageNotFoundError:
        raise MissingExtraError("trl", "train") from None
    digits = tuple(int(part) for part in re.findall(r"\d+", found)[:3])
    if digits < OLDEST_TRL:
        raise ConfigError(
            f"trl {found} turns a missing reward into 0; install a newer one: "
            "pip install 'trl>=1.9.2'"
        )


class TRLReward:
    """An evolving reward as an entry of a TRL trainer's `reward_funcs`.

    Every call scores this rank's completions under the rubric in force, and never changes it. In
    an evaluation pass rollouts are marked `eval`: no meta step sees them.

    Args:
        reward: The reward.
        auditor: Scores the same rollouts from outside; kept in the store, never shown to a model.
        on_scored: Called with the rollouts and their judgements after each call, on this rank.

    Raises:
        ConfigError: TRL is too old.
        MissingExtraError: TRL is not installed.
    """

    __name__ = "mpo_reward"

    # TRL before 1.14 asks `inspect.iscoroutinefunction`, which is false for an instance with an
    # async `__call__`, unless it has all that a function has (as functions compiled by Cython do).
    __code__: CodeType
    __defaults__ = None
    __kwdefaults__: dict[str, Any] | None

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        auditor: GoldScorer | None = None,
        on_scored: Callable[[Sequence[Rollout], Sequence[Judgement]], None] | None = None,
    ) -> None:
        require_trl()
        self.reward = reward
        self.auditor = auditor
        self.on_scored = on_scored
        self._place: tuple[int, Mode] = (0, "train")
        self._before = 0  # completions that this rank had before, at the same place
        self._since: dict[str, int] = {}  # step at which a rubric came into force, by its id
        atexit.register(_close, weakref.ref(reward))

    async def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        *,
        trainer_state: Any = None,
        log_metric: Callable[[str, float], None] | None = None,
        log_extra: Callable[[str, list[Any]], None] | None = None,
        completion_ids: Any = None,
        environments: Any = None,
        **columns: Sequence[Any],
    ) -> list[float | None]:
        """Rewards in order; None for a completion that stayed unscored.

        Args:
            prompts: Texts, or conversations as lists of messages.
            completions: The same.
            trainer_state: Tells the step.
            log_metric: Takes `mpo/…` metrics; also tells rank and mode.
            log_extra: Takes columns for the table of completions.
            completion_ids: Not used; the reward reads text.
            environments: Not used.
            **columns: The dataset's other columns, one value per completion.

        Raises:
            UnscoredError: More completions stayed unscored than the reward allows.
            StoreError: The store cannot be written.
            ConfigError: The caller is not a TRL trainer.
        """
        rollouts = self._rollouts(prompts, completions, trainer_state, log_metric, columns)
        judgements = await hand_over(self._score(rollouts))
        self._report(judgements, log_metric, log_extra)
        return [judgement.reward for judgement in judgements]

    async def _score(self, rollouts: Sequence[Rollout]) -> list[Judgement]:
        judgements = await self.reward.score(rollouts)
        if self.auditor is not None:
            distinct = list({rollout.id: rollout for rollout in rollouts}.values())
            self.reward.store.add_external_scores(self.auditor.audit(distinct), name="gold")
        if self.on_scored is not None:
            self.on_scored(rollouts, judgements)
        return judgements

    def _rollouts(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        trainer_state: Any,
        log_metric: Callable[[str, float], None] | None,
        columns: Mapping[str, Sequence[Any]],
    ) -> list[Rollout]:
        trainer = getattr(log_metric, "__self__", None)
        if trainer is None or trainer_state is None:
            raise ConfigError(
                "TRLReward is called by a TRL trainer, which passes it trainer_state and "
                "log_metric; elsewhere, call EvolvingReward.score"
            )
        step = int(trainer_state.global_step)
        # As TRL itself tells its own "train" metrics from its "eval" metrics.
        mode: Mode = "train" if trainer.model.training else "eval"
        first = self._first_index(step, mode, len(prompts), trainer.accelerator)
        rollouts = []
        for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            others = {name: _jsonable(values[i]) for name, values in columns.items()}
            cohort = str(others.pop("cohort", None) or "")
            text = flatten(prompt)
            rollouts.append(
                Rollout(
                    prompt=text,
                    completion=flatten(completion),
                    columns=others,
                    step=step,
                    # Two rows may ask the same and want different answers.
                    group=content_hash([text, others]) if others else "",
                    index=first + i,
                    cohort=cohort,
                    mode=mode,
                )
            )
        return rollouts

    def _first_index(self, step: int, mode: Mode, n: int, accelerator: Any) -> int:
        """Position of this call's first completion within the step, over all calls and ranks.

        As in one process with the whole batch: TRL gives each rank an equal slice, in rank order.
        """
        if self._place != (step, mode):
            self._place, self._before = (step, mode), 0
        first = self._before * accelerator.num_processes + accelerator.process_index * n
        self._before += n
        return int(first)

    def _report(
        self,
        judgements: Sequence[Judgement],
        log_metric: Callable[[str, float], None] | None,
        log_extra: Callable[[str, list[Any]], None] | None,
    ) -> None:
        if log_metric is not None and judgements:
            shares = [j.normalized_reward for j in judgements if j.normalized_reward is not None]
            if shares:  # a mean over nothing is not 0
                log_metric("mpo/reward_normalized", sum(shares) / len(shares))
            log_metric("mpo/unscored", 1 - len(shares) / len(judgements))
            newest = judgements[-1]
            log_metric("mpo/rubric_age", float(newest.step - self._born(newest)))
        if log_extra is not None:
            log_extra("mpo_rubric", [j.rubric_id for j in judgements])
            log_extra("mpo_unscored", [j.unscored or "" for j in judgements])

    def _born(self, judgement: Judgement) -> int:
        """Step at which the judgement's rubric came into force."""
        if judgement.rubric_id not in self._since:
            self._since = {
                d.proposed: d.step
                for d in self.reward.store.lineage(judgement.cohort)
                if d.accepted and d.proposed is not None
            }
        return self._since.get(judgement.rubric_id, judgement.step)


TRLReward.__code__ = TRLReward.__call__.__code__
TRLReward.__kwdefaults__ = TRLReward.__call__.__kwdefaults__


def _close(reference: weakref.ref[EvolvingReward]) -> None:
    """At the end of the process: the reward's connections, if it still has any."""
    reward = reference()
    if reward is not None:
        run_in_loop(reward.aclose())


def flatten(content: Any) -> str:
    """Text of a prompt or completion that is a text, or a list of messages.

    A single message is its content; several are told apart by their roles.
    """
    if isinstance(content, str):
        return content
    texts = [(str(message.get("role", "")), _text(message.get("content"))) for message in content]
    if len(texts) == 1:
        return texts[0][1]
    return "\n\n".join(f"{role}: {text}" for role, text in texts)


def _text(content: Any) -> str:
    """Content of a message: a text, None, or parts of which some have a text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part["text"]) for part in content if "text" in part)


def _jsonable(value: Any) -> Any:
    """The value if JSON can express it as it is, else as text."""
    try:
        content_hash(value)
    except (TypeError, ValueError):
        return str(value)
    return value


# ---------------------------------------------------------------------- the callback

Outcome = tuple[str, str] | None
"""Name and message of the error that stopped the main process; None if none did."""


class _MetaSteps:
    """Holds the meta steps of a reward in a Hugging Face trainer, and keeps its state.

    After each update the main process calls `reward.step`, while all other ranks wait; then all
    make sure that they see the same rubric. An error there (a broken store, a budget that is
    spent) is raised on all ranks.

    The trainer's checkpoints carry where the store stood. A resumed trainer goes back to that
    point; one that starts anew goes back to the seed rubric. What came after is set aside, not
    deleted.

    Args:
        reward: The same object that `TRLReward` has.
        on_step: Called on the main process after each update with its number (1-based), and the
            decision where a meta step was held.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        on_step: Callable[[int, Decision | None], None] | None = None,
    ) -> None:
        require_trl()
        self.reward = reward
        self.on_step = on_step
        self._step = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step = state.global_step
        _on_main(state, lambda: self._enter(state))
        self._agree(state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._step = state.global_step
        _on_main(state, lambda: self._hold(state.global_step))
        self._agree(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run_in_loop(self.reward.aclose())

    def state(self) -> dict[str, Any]:
        """For `trainer_state.json`: where the store stands."""
        snapshot = self.reward.snapshot(self._step)
        # Not in "attributes": those are set on a new callback, and it is the store that goes back.
        return {"args": {}, "attributes": {}, "snapshot": snapshot, "processes": _world()}

    def _enter(self, state: Any) -> None:
        store = self.reward.store
        if state.global_step:
            snapshot = snapshot_in(state.stateful_callbacks)
            if snapshot is None:
                raise ConfigError(
                    f"the checkpoint of step {state.global_step} was written without MPOCallback: "
                    "it does not say which rubric was in force; start anew, or from another one"
                )
            if (before := processes_in(state.stateful_callbacks)) != _world():
                _log.warning(
                    "the checkpoint was written by %d process(es) and is continued by %d: what is "
                    "sampled from here on differs from a run that was not stopped",
                    before,
                    _world(),
                )
            self.reward.restore(snapshot)
        elif (
            # An evaluation before training is no beginning.
            store.count(cohort=None, scored=None) or len(store.lineage()) > len(store.heads())
        ):
            _log.warning("%s: starting anew from the seed rubric", store.path)
            store.restore(store.genesis())

    def _hold(self, step: int) -> None:
        decision = run_in_loop(self.reward.step(step))
        if self.on_step is not None:
            self.on_step(step, decision)

    def _agree(self, step: int) -> None:
        """Make sure that all ranks see the same rubrics (DESIGN law 12)."""
        if _world() == 1:
            return
        views = _gather(_attempt(lambda: self.reward.store.heads()))
        for rank, (failure, heads) in enumerate(views):
            if failure is not None:
                raise _rebuilt(failure, rank)
            if heads != views[0][1]:
                raise StoreError(
                    f"rank {rank} sees rubrics {heads} at step {step}, rank 0 sees {views[0][1]}: "
                    f"do all ranks open the same file {str(self.reward.store.path)!r}?"
                )


def snapshot_in(stateful_callbacks: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The store's snapshot in the `stateful_callbacks` of a `trainer_state.json`."""
    found = _entry(stateful_callbacks).get("snapshot")
    return found if isinstance(found, dict) else None


def processes_in(stateful_callbacks: Mapping[str, Any]) -> int:
    """How many processes wrote the checkpoint of a `trainer_state.json`."""
    return int(_entry(stateful_callbacks).get("processes", 1))


def _entry(stateful_callbacks: Mapping[str, Any]) -> Mapping[str, Any]:
    entry = stateful_callbacks.get("MPOCallback")
    last = entry[-1] if isinstance(entry, list) and entry else entry
    return last if isinstance(last, dict) else {}


def _on_main(state: Any, work: Callable[[], None]) -> None:
    """Run `work` on the main process while the others wait; what it raises, all raise."""
    if _world() == 1:
        work()
        return
    import torch.distributed as dist

    error: Exception | None = None
    failure: list[Outcome] = [None]
    if state.is_world_process_zero:
        try:
            work()
        except Exception as raised:
            error, failure = raised, [(type(raised).__name__, str(raised))]
    dist.broadcast_object_list(failure, src=0)
    if error is not None:
        raise error
    if failure[0] is not None:
        raise _rebuilt(failure[0], 0)


def _attempt(work: Callable[[], T]) -> tuple[Outcome, T | None]:
    try:
        return None, work()
    except Exception as error:
        return (type(error).__name__, str(error)), None


def _rebuilt(failure: tuple[str, str], rank: int) -> MPOError:
    name, message = failure
    return MPOError(f"rank {rank} stopped with {name}: {message}")


def _gather(value: T) -> list[T]:
    import torch.distributed as dist

    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def _world() -> int:
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


if TYPE_CHECKING:

    class MPOCallback(_MetaSteps, TrainerCallback):
        """See `_MetaSteps`."""


def __getattr__(name: str) -> Any:
    """`MPOCallback` is made on first use: its base class costs seconds to import."""
    if name != "MPOCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_trl()
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState

    made = type(
        name,
        (_MetaSteps, TrainerCallback, ExportableState),
        {"__module__": __name__, "__doc__": _MetaSteps.__doc__},
    )
    return globals().setdefault(name, made)
