"""The callback of `trl`: meta steps, metrics and checkpoints of a reward in a TRL trainer."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..chat.event_loop import run_in_loop
from ..errors import ConfigError, MissingExtraError
from ..records import Decision
from ..reward import EvolvingReward
from ..sanitize import control_strings_of
from .meta_steps import MetaSteps, saved_state
from .tracker_texts import TrackerTexts
from .trainer_figures import keep_figures

__all__ = ["MetaStepCallback", "check_reward", "require_trl"]

_log = logging.getLogger(__name__)

OLDEST_TRL = (1, 9, 2)
"""Before it, a completion without a reward trained as one with reward 0."""


FALSE_ZERO = ("OnlineDPOConfig", "SDPOConfig", "A2POConfig")
"""Configs of TRL's other trainers with reward functions (1.16): they sum without looking for
completions that have no reward."""


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


def check_reward(reward: Any, owner: str) -> None:
    """Raise an error where `owner`, a class of this adapter, was given something else.

    Raises:
        ConfigError: It is no EvolvingReward.
    """
    if not isinstance(reward, EvolvingReward):
        raise ConfigError(
            f"{owner} takes an EvolvingReward, not {type(reward).__name__}: "
            f"{owner}(mpo.EvolvingReward(task, chat, store))"
        )


class MetaStepCallback:
    """Holds the meta steps of a reward in a Hugging Face trainer, and keeps its state.

    See `MetaSteps`. The trainer's checkpoints carry where the store stood. Each of the trainer's
    logs gets the run's metrics (`mpo/…`, docs/training.md), and the trackers that the trainer
    reports to get rubrics, their changes and alarms as text.

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
        check_reward(reward, "MPOCallback")
        self.reward = reward
        self._meta_steps = MetaSteps(reward, on_step=on_step)
        self._texts = TrackerTexts(self._meta_steps.log)
        self._handler: Any = None
        self._first = self._logged = 0
        self._warned = False

    def meet(self, trainer: Any) -> None:
        """Take a place before the trainer's trackers: they log what stands in the log by then."""
        self._handler = trainer.callback_handler
        self._handler.callbacks.remove(self)
        self._handler.callbacks.insert(0, self)

    def on_init_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        names = [base.__name__ for base in type(args).__mro__]
        false_zero = next((name for name in names if name in FALSE_ZERO), None)
        if false_zero is not None:
            raise ConfigError(
                f"the trainer of {false_zero} counts a completion without a score as one with "
                "score 0: use GRPOTrainer or RLOOTrainer"
            )
        if getattr(args, "restore_callback_states_from_checkpoint", False):
            raise ConfigError(
                "MPOCallback continues from a checkpoint by itself: leave "
                "restore_callback_states_from_checkpoint=False"
            )
        data = self.reward.task.spec.dataset
        column = data.reference_column or data.answer_column
        if column is not None and getattr(args, "remove_unused_columns", False):
            raise ConfigError(
                f"task {self.reward.task.name!r} grades with the dataset's column {column!r}, "
                "which TRL drops: leave remove_unused_columns=False"
            )

    def on_train_begin(
        self, args: Any, state: Any, control: Any, processing_class: Any = None, **_: Any
    ) -> None:
        self.reward.control_strings.add(control_strings_of(processing_class))
        self._first = self._logged = state.global_step
        self._meta_steps.begin(state.global_step, saved_state(state.stateful_callbacks))
        self._texts = TrackerTexts(self._meta_steps.log)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._meta_steps.hold(state.global_step, state.max_steps)
        if state.is_world_process_zero:
            self._warn_if_alone(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not state.is_world_process_zero or not logs:
            return
        keep_figures(self.reward.store, state.global_step, logs)
        if any(name.startswith("eval_") for name in logs):
            fresh = self._meta_steps.log.evaluation_metrics(state.global_step)
            figures = {f"eval_{name}": value for name, value in fresh.items()}
        elif state.global_step > self._logged:
            self._logged = state.global_step
            figures = self._meta_steps.log.metrics(state.global_step)
        else:  # the totals at the end of a run
            return
        logs.update(figures)
        state.log_history[-1].update(figures)
        if self._handler is not None:
            self._texts.show(self._handler.callbacks)

    def _warn_if_alone(self, step: int) -> None:
        """Warn once where a meta step has been due and nothing was scored since training began."""
        due = any(self.reward.schedule.due(n) for n in range(self._first + 1, step + 1))
        if self._warned or not due:
            return
        self._warned = True
        last = self.reward.store.last_step()
        if last is None or last < self._first:
            _log.warning(
                "%d updates, and no completion was scored with the reward of MPOCallback (%s): "
                "pass reward_funcs=[TRLReward(reward)], with the same reward",
                step - self._first,
                self.reward.store.path,
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        run_in_loop(self.reward.aclose())

    def state(self) -> dict[str, Any]:
        """The entry of `trainer_state.json`."""
        # Not in "attributes": those are set on a new callback, and it is the store that goes back.
        return {"args": {}, "attributes": {}, **self._meta_steps.state()}
