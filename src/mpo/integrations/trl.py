"""TRL: an evolving reward in a TRL program of your own (GRPO, RLOO).

    from mpo.integrations.trl import MPOCallback, TRLReward

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
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from types import CodeType
from typing import TYPE_CHECKING, Any

from ..chat.event_loop import hand_over, run_in_loop
from ..data import flatten
from ..errors import ConfigError, MissingExtraError
from ..records import Decision, Judgement, Mode, Rollout
from ..reward import EvolvingReward
from .meta_steps import MetaSteps, saved_state
from .trainer_rollouts import GoldScorer, make_rollout, score_rollouts

if TYPE_CHECKING:
    from transformers import TrainerCallback

__all__ = ["MPOCallback", "TRLReward", "require_trl"]

OLDEST_TRL = (1, 9, 2)
"""Before it, a completion without a reward trained as one with reward 0."""


def require_trl() -> None:
    """Raise an error where TRL is missing or too old.

    Raises:
        MissingExtraError: TRL is not installed.
        ConfigError: TRL is older than 1.9.2.
    """
    try:
        installed = version("trl")
    except PackageNotFoundError:
        raise MissingExtraError("trl", "train") from None
    digits = tuple(int(part) for part in re.findall(r"\d+", installed)[:3])
    if digits < OLDEST_TRL:
        raise ConfigError(
            f"trl {installed} turns a missing reward into 0; install a newer one: "
            "pip install 'trl>=1.9.2'"
        )


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
        self.reward = reward
        self.gold_scorer = gold_scorer
        self.on_scored = on_scored
        self._place: tuple[int, Mode] = (0, "train")
        self._earlier = 0  # completions that this rank had before, at the same place
        self._since: dict[str, int] = {}  # step at which a rubric took effect, by its id
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
            completions: Texts, or lists of messages.
            trainer_state: The trainer's state, which has the step.
            log_metric: Takes `mpo/…` metrics; it belongs to the trainer, which has rank and mode.
            log_extra: Takes columns for the table of completions.
            completion_ids: Ignored; the reward reads text.
            environments: Ignored.
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
        judgements = await score_rollouts(self.reward, rollouts, self.gold_scorer)
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
        return [
            make_rollout(
                flatten(prompt),
                flatten(completion),
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

    def _report(
        self,
        judgements: Sequence[Judgement],
        log_metric: Callable[[str, float], None] | None,
        log_extra: Callable[[str, list[Any]], None] | None,
    ) -> None:
        if log_metric is not None and judgements:
            rewards = [j.normalized_reward for j in judgements if j.normalized_reward is not None]
            if rewards:  # a mean over nothing is not 0
                log_metric("mpo/reward_normalized", sum(rewards) / len(rewards))
            log_metric("mpo/unscored", 1 - len(rewards) / len(judgements))
            newest = judgements[-1]
            log_metric("mpo/rubric_age", float(newest.step - self._birth_step(newest)))
        if log_extra is not None:
            log_extra("mpo_rubric", [j.rubric_id for j in judgements])
            log_extra("mpo_unscored", [j.unscored or "" for j in judgements])

    def _birth_step(self, judgement: Judgement) -> int:
        """Step at which the judgement's rubric took effect."""
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
    """Close the reward's connections at the end of the process."""
    reward = reference()
    if reward is not None:
        run_in_loop(reward.aclose())


# ---------------------------------------------------------------------- the callback


class _Callback:
    """Holds the meta steps of a reward in a Hugging Face trainer, and keeps its state.

    See `MetaSteps`. The trainer's checkpoints carry where the store stood.

    Args:
        reward: The same object that `TRLReward` has.
        on_step: Called on the main process after each update with its number (1-based), and with
            the decision where a meta step was decided.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        on_step: Callable[[int, Decision | None], None] | None = None,
    ) -> None:
        require_trl()
        self.reward = reward
        self._meta_steps = MetaSteps(reward, on_step=on_step)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._meta_steps.begin(state.global_step, saved_state(state.stateful_callbacks))

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._meta_steps.hold(state.global_step, state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run_in_loop(self.reward.aclose())

    def state(self) -> dict[str, Any]:
        """The entry of `trainer_state.json`."""
        # Not in "attributes": those are set on a new callback, and it is the store that goes back.
        return {"args": {}, "attributes": {}, **self._meta_steps.state()}


if TYPE_CHECKING:

    class MPOCallback(_Callback, TrainerCallback):
        """See `_Callback`."""


def __getattr__(name: str) -> Any:
    """`MPOCallback` is made on first use: its base class takes seconds to import."""
    if name != "MPOCallback":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_trl()
    from transformers import TrainerCallback
    from transformers.trainer_callback import ExportableState

    callback = type(
        name,
        (_Callback, TrainerCallback, ExportableState),
        {"__module__": __name__, "__doc__": _Callback.__doc__},
    )
    return globals().setdefault(name, callback)
