"""Health of a service: can its store be written, do its models answer?

A service that cannot keep what it pays for must not pay: it refuses new work while the store has a
fault, and goes on by itself when the fault is gone. A model that is down stops nothing: judgements
that are known are served, the others are unscored and say why.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping

from ..errors import ChatTransportError, StoreError, StoreFileError
from ..records import Judgement
from ..reward import EvolvingReward

__all__ = ["PLACES", "Check", "Health"]

_log = logging.getLogger(__name__)

Check = Callable[[], None]
"""Opens and closes a connection to a model's endpoint; raises ChatTransportError if it cannot."""

PLACES = ("store", "rm", "mrm", "audit")
"""Places that may have a fault: the store, and the models by role."""
MIN_FREE_BYTES = 256 * 2**10
"""Least room on the store's disk for new work: a batch's judgements and the log's next pages."""
_AGAIN_S = 1.0
"""Seconds between two attempts to write a store that has a fault."""
_SAY_EVERY_S = 60.0
"""Seconds between two lines of log about a model that does not answer."""
_AGAIN_MODEL_S = 5.0
"""Seconds between two looks at a model that is down."""


class Health:
    """Faults of the store and of the models. May be used from several threads.

    Args:
        reward: The reward whose store is watched.
        checks: Check of each model's endpoint by role: `rm`, `mrm`, `audit`.
        down: Messages by role about models that did not answer at the start.
    """

    def __init__(
        self,
        reward: EvolvingReward,
        checks: Mapping[str, Check] | None = None,
        down: Mapping[str, str] | None = None,
    ) -> None:
        self._reward = reward
        self._checks = dict(checks or {})
        self._down = dict(down or {})
        self._looked = dict.fromkeys(self._checks, -_AGAIN_MODEL_S)
        self._fault: StoreFileError | None = None
        self._tried = 0.0
        self._said = -_SAY_EVERY_S
        self._lock = threading.Lock()

    # ------------------------------------------------------------------ the store

    def check_store(self) -> None:
        """Raises an error while the store cannot take new judgements.

        A fault that is gone is noticed here. What was paid for meanwhile is written first.

        Raises:
            StoreFileError: The store has a fault; the message says what to do.
        """
        fault = self._fault
        if fault is None:
            try:
                self._check_place()
            except StoreFileError as error:
                self.note_fault(error)
                raise
        elif time.monotonic() < self._tried + _AGAIN_S or not self._lock.acquire(blocking=False):
            raise fault  # it was tried a moment ago, or another thread is trying
        else:
            try:
                self._recover()
            finally:
                self._lock.release()

    def note_fault(self, error: StoreFileError) -> None:
        """Refuse new work from now on, since the store could not be written."""
        if self._fault is None:
            _log.error("new work is refused: %s", error)
        self._fault, self._tried = error, time.monotonic()

    def _recover(self) -> None:
        """Write what waits; on success the fault is over."""
        self._tried = time.monotonic()
        try:
            self._check_place()
            self._reward.flush()
            self._reward.store.check_writable()
        except StoreFileError as error:
            self._fault = error
            raise
        self._fault = None
        _log.warning("the store can be written again: new work is taken")

    def _check_place(self) -> None:
        store = self._reward.store
        store.check_file()
        try:
            disk = os.statvfs(store.path.parent)
        except OSError:
            return  # a place that cannot be asked; the next write tells
        free = disk.f_bavail * disk.f_frsize
        if free < MIN_FREE_BYTES:
            raise StoreFileError(
                f"store {str(store.path)!r}: the disk is full ({free:,} bytes are free, and "
                f"{MIN_FREE_BYTES:,} are needed): free some space; nothing needs to be restarted"
            )

    # ------------------------------------------------------------------ the models

    def note_judgement(self, judgement: Judgement) -> None:
        """See from a new judgement whether the reward model can be reached."""
        if judgement.unscored is not None:
            if judgement.unscored.startswith("unreachable:"):
                if time.monotonic() > self._said + _SAY_EVERY_S:
                    self._said = time.monotonic()
                    _log.warning("the reward model does not answer: %s", judgement.unscored)
                self._down["rm"] = judgement.unscored
        elif judgement.rule is None:
            self._down.pop("rm", None)

    def _look_at_models(self) -> None:
        for role in [role for role in self._down if role in self._checks]:
            if time.monotonic() < self._looked[role] + _AGAIN_MODEL_S:
                continue
            self._looked[role] = time.monotonic()
            try:
                self._checks[role]()
            except ChatTransportError as error:
                self._down[role] = str(error)
            else:
                self._down.pop(role, None)
                _log.warning("the endpoint of role %r answers again", role)

    # ------------------------------------------------------------------ for people

    def problems(self) -> dict[str, str]:
        """Present faults by place: `store`, `rm`, `mrm`, `audit`; empty if all is well.

        It looks again at what was faulty, and may take a few seconds: call it from a thread.
        """
        problems = {}
        try:
            self.check_store()
        except StoreError as error:
            problems["store"] = str(error)
        self._look_at_models()
        return problems | dict(self._down)
