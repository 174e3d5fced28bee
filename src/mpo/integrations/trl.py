"""TRL: an evolving reward in a TRL program of your own (GRPO, RLOO).

    from mpo.integrations.trl import MPOCallback, TRLReward

    trainer = GRPOTrainer(
        model, reward_funcs=[TRLReward(reward)], callbacks=[MPOCallback(reward)], ...
    )

`TRLReward` scores, on every rank. `MPOCallback` holds the meta steps, on the main process while
the others wait, logs what `mpo train` logs, and puts the rubric's state into the trainer's
checkpoints. Steps are optimizer updates: with k = 10 the rubric may change after updates 10, 20, …,
however many batches, micro-batches or processes an update has.

Beside other reward functions: `reward_funcs=TRLReward(reward).beside(length, format)`. TRL adds up
what the functions return, and there a completion without a score would count as one with score 0.

A meta step has to end before the process group's timeout (`ddp_timeout`, 30 minutes by default).
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import inspect
import logging
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from types import CodeType
from typing import TYPE_CHECKING, Any

from ..chat.event_loop import run_in_loop, submit
from ..data import flatten
from ..errors import ConfigError, DataError
from ..records import Judgement, Mode, Rollout
from ..reward import EvolvingReward
from .trainer_rollouts import GoldScorer, make_rollout, score_rollouts
from .trl_callback import MetaStepCallback, check_reward, require_trl

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["MPOCallback", "TRLReward", "require_trl"]

_log = logging.getLogger(__name__)

RewardFunction = Callable[..., Any]
"""A reward function as TRL takes it: keyword arguments, and rewards or a coroutine of them."""


class TRLReward:
    """An evolving reward as an entry of a TRL trainer's `reward_funcs`.

    Every call scores this rank's completions under the rubric in effect, and never changes it.
    In an evaluation pass rollouts are marked `eval`: no meta step sees them.

    Args:
        reward: The reward.
        gold_scorer: Scores the same rollouts from outside; its scores are stored, and never shown
            to a model.
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
        gold_scorer: GoldScorer | None = None,
        on_scored: Callable[[Sequence[Rollout], Sequence[Judgement]], None] | None = None,
    ) -> None:
        require_trl()
        check_reward(reward, "TRLReward")
        self.reward = reward
        self.gold_scorer = gold_scorer
        self.on_scored = on_scored
        self._place: tuple[int, Mode] = (0, "train")
        self._earlier = 0  # completions that this rank had before, at the same place
        self._beside: list[RewardFunction] = []
        self._call: tuple[Any, Future[list[Judgement]]] | None = None
        self._trainer: Callable[[], Any] | None = None
        self._looked_to = 0  # updates of which it is known whether a meta step was due
        self._warned = False
        atexit.register(_close, weakref.ref(reward))

    def beside(self, *functions: RewardFunction) -> list[RewardFunction]:
        """`reward_funcs` of this reward and others, in this order.

        A completion that this reward leaves unscored gets None from the others too: TRL then leaves
        it out of its group's mean and spread, and gives it advantage 0. The others are called as
        before, on the main thread unless they are coroutine functions.

        Args:
            functions: Reward functions as TRL takes them.

        Raises:
            ConfigError: One is a reward model, or a reward of this class.
        """
        for function in functions:
            if isinstance(function, TRLReward):
                raise ConfigError(_ONE_REWARD)
            if not callable(function) or hasattr(function, "parameters"):
                raise ConfigError(
                    f"beside() takes functions, not {type(function).__name__}: call the reward "
                    "model in a reward function of your own"
                )
        self._beside = [self._masked(function) for function in functions]
        return [self, *self._beside]

    def _masked(self, function: RewardFunction) -> RewardFunction:
        """The function, with None where this reward has no score."""

        def mask(rewards: Sequence[Any], judgements: list[Judgement]) -> list[Any]:
            pairs = zip(rewards, judgements, strict=True)
            return [None if judgement.reward is None else reward for reward, judgement in pairs]

        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
            getattr(function, "__call__", None)  # noqa: B004 - an object may be a coroutine function
        ):

            async def masked(**arguments: Any) -> list[Any]:
                scoring = self._scoring(arguments)
                rewards = await function(**arguments)
                return mask(rewards, await asyncio.wrap_future(scoring))
        else:

            def masked(**arguments: Any) -> list[Any]:  # type: ignore[misc]
                scoring = self._scoring(arguments)  # under way while the function works
                return mask(function(**arguments), _wait(scoring))

        named = function.func if isinstance(function, functools.partial) else function
        masked.__name__ = getattr(named, "__name__", type(named).__name__)
        return masked

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
            completions: Texts, or lists of messages.
            trainer_state: The trainer's state, which has the step.
            log_metric: The trainer's method, which leads to the trainer; it has rank and mode.
            log_extra: Takes columns for the table of completions.
            completion_ids: Ignored; the reward reads text.
            environments: Ignored.
            **columns: The dataset's other columns, one value per completion.

        Raises:
            UnscoredError: More completions stayed unscored than the reward allows.
            StoreError: The store cannot be written.
            DataError: A prompt or a completion has an image or the like, and no text.
            ConfigError: The caller is not a TRL trainer, or counts unscored completions as 0.
        """
        arguments = {
            "prompts": prompts,
            "completions": completions,
            "trainer_state": trainer_state,
            "log_metric": log_metric,
            **columns,
        }
        scoring = self._scoring(arguments)
        try:
            judgements = await asyncio.wrap_future(scoring)
        finally:
            self._call = None  # the functions beside it have begun, and have it already
        if log_extra is not None:
            log_extra("mpo_rubric", [judgement.rubric_id for judgement in judgements])
            log_extra("mpo_unscored", [judgement.unscored or "" for judgement in judgements])
        return [judgement.reward for judgement in judgements]

    def _scoring(self, arguments: Mapping[str, Any]) -> Future[list[Judgement]]:
        """The scoring of a call, started by whichever of the functions TRL calls first."""
        completions = arguments["completions"]
        if self._call is None or self._call[0] is not completions:
            trainer = getattr(arguments.get("log_metric"), "__self__", None)
            state = arguments.get("trainer_state")
            if trainer is None or state is None:
                raise ConfigError(
                    "TRLReward is called by a TRL trainer, which passes it trainer_state and "
                    "log_metric; elsewhere, call EvolvingReward.score"
                )
            self._meet(trainer)
            self._warn_if_alone(trainer, int(state.global_step))
            columns = {name: arguments[name] for name in arguments if name not in _NO_COLUMNS}
            rollouts = self._rollouts(
                arguments["prompts"], completions, trainer, int(state.global_step), columns
            )
            self._call = completions, submit(self._score(rollouts))
        return self._call[1]

    async def _score(self, rollouts: Sequence[Rollout]) -> list[Judgement]:
        judgements = await score_rollouts(self.reward, rollouts, self.gold_scorer)
        if self.on_scored is not None:
            self.on_scored(rollouts, judgements)
        return judgements

    def _rollouts(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any],
        trainer: Any,
        step: int,
        columns: Mapping[str, Sequence[Any]],
    ) -> list[Rollout]:
        # As TRL itself tells its own "train" metrics from its "eval" metrics.
        mode: Mode = "train" if trainer.model.training else "eval"
        first = self._first_index(step, mode, len(prompts), trainer.accelerator)
        return [
            make_rollout(
                _text(prompt, f"prompt {i} of step {step}"),
                _text(completion, f"completion {i} of step {step}"),
                {name: values[i] for name, values in columns.items()},
                step=step,
                index=first + i,
                mode=mode,
            )
            for i, (prompt, completion) in enumerate(zip(prompts, completions, strict=True))
        ]

    def _first_index(self, step: int, mode: Mode, n: int, accelerator: Any) -> int:
        """Position of this call's first completion within the step, over all calls and ranks.

        As in one process with the whole batch: TRL gives each rank an equal slice, in rank order.
        """
        if self._place != (step, mode):
            self._place, self._earlier = (step, mode), 0
        first = self._earlier * accelerator.num_processes + accelerator.process_index * n
        self._earlier += n
        return int(first)

    # ------------------------------------------------------------------ the trainer

    def _meet(self, trainer: Any) -> None:
        """Check a trainer at its first call, and lead its MPOCallback to it.

        Raises:
            ConfigError: It would count a completion without a score as one with score 0.
        """
        if self._trainer is not None and self._trainer() is trainer:
            return
        functions = [_inner(f) for f in getattr(trainer, "reward_funcs", [self])]
        if sum(isinstance(function, TRLReward) for function in functions) > 1:
            raise ConfigError(_ONE_REWARD)
        known = [self, *self._beside]
        others = [f for f in functions if not any(f is one for one in known)]
        if others:
            names = ", ".join(getattr(f, "__name__", type(f).__name__) for f in others)
            raise ConfigError(
                "TRL adds up its reward functions, and counts a completion that TRLReward leaves "
                f"unscored as 0: pass reward_funcs=TRLReward(reward).beside({names})"
            )
        if self not in functions:
            raise ConfigError(
                "TRLReward is not among the trainer's reward functions: pass all that beside() "
                "returned as reward_funcs"
            )
        for callback in self._callbacks(trainer):
            callback.meet(trainer)
        self._trainer = weakref.ref(trainer)

    def _callbacks(self, trainer: Any) -> list[MetaStepCallback]:
        """The trainer's callbacks for this reward's store."""
        handler = getattr(trainer, "callback_handler", None)
        callbacks = getattr(handler, "callbacks", ())
        path = self.reward.store.path
        return [
            c for c in callbacks if isinstance(c, MetaStepCallback) and c.reward.store.path == path
        ]

    def _warn_if_alone(self, trainer: Any, step: int) -> None:
        """Warn once where meta steps have been due and nobody holds them."""
        if self._warned or trainer.accelerator.process_index or self._callbacks(trainer):
            return
        due = next(
            (n for n in range(self._looked_to + 1, step + 1) if self.reward.schedule.due(n)), None
        )
        self._looked_to = step
        if due is None:
            return
        self._warned = True
        lineage = self.reward.store.lineage()
        if not self.reward.pending_steps and all(d.kind == "seed" for d in lineage):
            _log.warning(
                "a meta step was due after update %d, and this trainer has no MPOCallback for %s: "
                "the rubric stays as it is. Pass callbacks=[MPOCallback(reward)], with the reward "
                "that TRLReward has",
                due,
                self.reward.store.path,
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_beside": [], "_call": None, "_trainer": None}


TRLReward.__code__ = TRLReward.__call__.__code__
TRLReward.__kwdefaults__ = TRLReward.__call__.__kwdefaults__


_NO_COLUMNS = (
    "prompts",
    "completions",
    "completion_ids",
    "trainer_state",
    "log_metric",
    "log_extra",
    "environments",
)
"""Arguments by TRL that are no columns of the dataset."""

_ONE_REWARD = (
    "a trainer takes one TRLReward: put the criteria of both rubrics into one rubric, or give the "
    "rows a column `cohort` where they need different ones"
)


def _inner(function: Any) -> Any:
    """The function under `functools.partial`, or the object of a bound method."""
    while isinstance(function, functools.partial):
        function = function.func
    owner = getattr(function, "__self__", None)
    return owner if isinstance(owner, TRLReward) else function


def _wait(scoring: Future[list[Judgement]]) -> list[Judgement]:
    try:
        return scoring.result()
    except BaseException:  # Ctrl-C in the waiting thread ends the work as well
        scoring.cancel()
        raise


def _text(content: Any, name: str) -> str:
    try:
        return flatten(content)
    except DataError as error:
        raise DataError(f"{name} {error}") from None


def _close(reference: weakref.ref[EvolvingReward]) -> None:
    """Close the reward's connections at the end of the process."""
    reward = reference()
    if reward is not None:
        run_in_loop(reward.aclose())


# ---------------------------------------------------------------------- the callback


if TYPE_CHECKING:

    class MPOCallback(MetaStepCallback, TrainerCallback):
        """See `MetaStepCallback`."""


def __getattr__(name: str) -> Any:
    """`MPOCallback` is made on first use: its base class takes seconds to import."""
    if name != "MPOCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_trl()
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState

    callback = type(
        name,
        (MetaStepCallback, TrainerCallback, ExportableState),
        {"__module__": __name__, "__doc__": MetaStepCallback.__doc__},
    )
    return globals().setdefault(name, callback)
