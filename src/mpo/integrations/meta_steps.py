"""Meta steps over ranks: the main process evolves the rubric while the other ranks wait.

    steps = MetaSteps(reward)
    steps.begin()                      # after a checkpoint: steps.begin(step, saved)
    for step in range(1, updates + 1):
        ...                            # one update of the policy, on every rank
        steps.hold(step)
    checkpoint["mpo"] = steps.state()  # where the store stands, as JSON values

It works for any trainer, in one process or in several of `torch.distributed`, and knows no engine.
A meta step has to end before the process group's timeout (30 minutes by default).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from ..chat import Chat
from ..chat.event_loop import run_in_loop
from ..chat.ledger import Price
from ..errors import ConfigError, MPOError, StoreError
from ..records import Decision
from ..reward import EvolvingReward
from .run_log import RunLog

__all__ = [
    "CALLBACK",
    "MetaSteps",
    "processes_in",
    "run_on_all",
    "saved_state",
    "snapshot_in",
    "world_size",
]

_log = logging.getLogger(__name__)

CALLBACK = "MPOCallback"
"""Key of the saved state in the `stateful_callbacks` of a `trainer_state.json`."""

T = TypeVar("T")


class MetaSteps:
    """Holds the meta steps of a reward in a training loop, and keeps its state.

    After each update the main process calls `reward.step`, while all other ranks wait; then all
    make sure that they see the same rubric. An error there (a broken store, a spent budget) is
    raised on all ranks.

    A resumed run goes back to where the store stood at its checkpoint; a new run goes back to the
    seed rubric. Later entries are set aside, not deleted.

    Args:
        reward: The reward that scores the rollouts.
        on_step: Called on the main process after each update with its number (1-based), and with
            the decision where a meta step was decided.

    Attributes:
        log: Metrics and texts of the run, since `begin`.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        *,
        on_step: Callable[[int, Decision | None], None] | None = None,
    ) -> None:
        self.reward = reward
        self.on_step = on_step
        self.log = self._make_log(0)
        self._step = 0

    def begin(self, step: int = 0, saved: Mapping[str, Any] | None = None) -> None:
        """Put the store where the run begins.

        Args:
            step: Updates that the policy has had.
            saved: What `state` returned at that step; not needed at step 0.

        Raises:
            ConfigError: `saved` does not say which rubric was in effect.
            StoreError: The snapshot belongs to another store, or ranks see different rubrics.
        """
        self._step = step
        _run_on_main(lambda: self._restore(step, saved or {}))
        self.log = self._make_log(step)
        self._check_ranks_agree(step)

    def hold(self, step: int, last: int | None = None) -> None:
        """Hold the meta step after update `step` (1-based), if one is due.

        Args:
            step: Updates that the policy has had.
            last: Number of the last update, where it is known: no meta step is started that could
                not be decided by then.

        Raises:
            MPOError: The meta step stopped on the main process; raised on every rank.
            StoreError: Ranks see different rubrics.
        """
        self._step = step
        _run_on_main(lambda: self._evolve(step, last))
        self._check_ranks_agree(step)

    def state(self) -> dict[str, Any]:
        """Where the store stands and how many processes there are, as JSON values."""
        return {"snapshot": self.reward.snapshot(self._step), "processes": world_size()}

    def _restore(self, step: int, saved: Mapping[str, Any]) -> None:
        store = self.reward.store
        if step:
            snapshot = snapshot_in(saved)
            if snapshot is None:
                raise ConfigError(
                    f"the checkpoint of step {step} was written without MPOCallback: it does not "
                    "say which rubric was in effect; start again, or from another checkpoint"
                )
            if (before := processes_in(saved)) != world_size():
                _log.warning(
                    "the checkpoint was written by %d process(es) and is continued by %d: what is "
                    "sampled from here on differs from a run that was not stopped",
                    before,
                    world_size(),
                )
            self.reward.restore(snapshot)
        elif (
            # An evaluation before training does not count as a run.
            store.count(cohort=None, scored=None) or len(store.lineage()) > len(store.heads())
        ):
            _log.warning("%s: starting again from the seed rubric", store.path)
            store.restore(store.genesis())

    def _make_log(self, step: int) -> RunLog:
        reward = self.reward
        chats = {"rm": reward.chat, "mrm": reward.meta_chat, "audit": reward.second_judge}
        return RunLog(reward.store, step, {role: _price(chat) for role, chat in chats.items()})

    def _evolve(self, step: int, last: int | None) -> None:
        decision = run_in_loop(self.reward.step(step, last))
        self.log.note(decision)
        if self.on_step is not None:
            self.on_step(step, decision)

    def _check_ranks_agree(self, step: int) -> None:
        """Make sure that all ranks see the same rubrics (law 12 of docs/design.md)."""
        if world_size() == 1:
            return
        views = _gather(run_on_all(self.reward.store.heads))
        for rank, heads in enumerate(views):
            if heads != views[0]:
                raise StoreError(
                    f"rank {rank} sees rubrics {heads} at step {step}, rank 0 sees {views[0]}: "
                    f"do all ranks open the same file {str(self.reward.store.path)!r}?"
                )


def _price(chat: Chat | None) -> Price | None:
    """Price of a chat that spends from a budget, itself or under wrappers."""
    while chat is not None:
        price = getattr(chat, "price", None)
        if isinstance(price, Price):
            return price
        chat = getattr(chat, "inner", None)
    return None


# ---------------------------------------------------------------------- saved state


def saved_state(stateful_callbacks: Mapping[str, Any]) -> Mapping[str, Any]:
    """State of the meta steps in a `trainer_state.json`; empty where there is none."""
    entry = stateful_callbacks.get(CALLBACK)
    last = entry[-1] if isinstance(entry, list) and entry else entry
    return last if isinstance(last, dict) else {}


def snapshot_in(saved: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The store's snapshot in a saved state."""
    snapshot = saved.get("snapshot")
    return snapshot if isinstance(snapshot, dict) else None


def processes_in(saved: Mapping[str, Any]) -> int:
    """Number of processes that wrote a saved state."""
    return int(saved.get("processes", 1))


# ---------------------------------------------------------------------- ranks


def world_size() -> int:
    """Number of ranks; 1 without `torch.distributed`."""
    import torch.distributed as dist

    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def run_on_all(work: Callable[[], T]) -> T:
    """Run `work` on every rank and return this rank's result.

    All ranks must call it together.

    Raises:
        Exception: The error of this rank.
        MPOError: This rank is fine and another one failed; the message names rank and error.
    """
    if world_size() == 1:
        return work()
    error: Exception | None = None
    result: Any = None
    try:
        result = work()
    except Exception as raised:
        error = raised
    failure = None if error is None else f"{type(error).__name__}: {error}"
    for rank, other in enumerate(_gather(failure)):
        if other is not None:
            raise error if error is not None else MPOError(f"rank {rank} stopped with {other}")
    return result  # type: ignore[no-any-return]


def _run_on_main(work: Callable[[], None]) -> None:
    """Run `work` on rank 0 while the others wait; all ranks raise its error."""
    run_on_all(work if _rank() == 0 else _nothing)


def _nothing() -> None:
    return


def _rank() -> int:
    import torch.distributed as dist

    return dist.get_rank() if world_size() > 1 else 0


def _gather(value: T) -> list[T]:
    import torch.distributed as dist

    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values
