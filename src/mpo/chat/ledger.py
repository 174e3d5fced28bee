"""The account of a run: usage, money and time by role, with hard caps over all chats.

    budget = Budget(usd=20.0)
    rm = budget.chat(OpenAIChat(...), role="rm", price=Price(prompt=0.15, completion=0.60))
    mrm = budget.chat(OpenAIChat(...), role="mrm", price=Price(prompt=2.5, completion=10.0))
    ...
    budget.ledger["rm"].usd
    budget.timings["rm"].mean_s

A call is checked before it is sent, at its worst case: all its `max_tokens`. If the cap has room
only when calls in flight stay below their worst case, the call waits for them. If the finished
calls alone leave no room, `BudgetError` ends the run: it is no `ChatError`, so nobody takes it for
an unscored rollout. The amount spent is kept, and a resumed run goes on from it.

The cap holds to within the error of the prompt estimate (a third of the prompt's bytes, which is
high for English and about right for Chinese). It holds for the calls of one process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BudgetError, ChatError, ChatReplyError, ConfigError
from ..records import Usage
from .base import Chat, ChatRequest, ChatWrapper, Completion
from .limiter import AdmissionQueue

__all__ = ["TIMINGS", "Budget", "LedgerChat", "Price", "Spent", "Timing"]

_log = logging.getLogger(__name__)

TIMINGS = "timings"
"""Key under which a run's store keeps the timings by role; see `mpo.config.chats.Chats`."""


@dataclass(frozen=True)
class Price:
    """Price of a model, in US dollars per million tokens."""

    prompt: float
    completion: float
    cached: float | None = None
    """Price of prompt tokens that the server had cached; None: the same as `prompt`."""

    def of(self, usage: Usage) -> float:
        """US dollars for a usage."""
        cached = self.prompt if self.cached is None else self.cached
        fresh = usage.prompt_tokens - usage.cached_tokens
        dollars = fresh * self.prompt + usage.cached_tokens * cached
        return (dollars + usage.completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Spent:
    """An amount spent: usage, and US dollars if the price is known."""

    usage: Usage = field(default_factory=Usage)
    usd: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.usage + other.usage, self.usd + other.usd)

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.usage.prompt_tokens + self.usage.completion_tokens


@dataclass(frozen=True)
class Timing:
    """Durations of answered calls.

    A call's time includes retries and the wait for a free place at the endpoint. It excludes the
    wait for the budget. Failed calls and cached answers do not count.
    """

    calls: int = 0
    seconds: float = 0.0
    """Sum over the calls. Calls overlap, so the sum exceeds the elapsed time."""
    slowest_s: float = 0.0

    @property
    def mean_s(self) -> float | None:
        """Mean seconds per call; None before the first."""
        return self.seconds / self.calls if self.calls else None


@dataclass(frozen=True, slots=True)
class _Amount:
    """The three capped quantities as plain numbers, since they are added twice for each call."""

    calls: int = 0
    tokens: int = 0
    usd: float = 0.0

    @classmethod
    def of(cls, spent: Spent) -> _Amount:
        return cls(spent.usage.calls, spent.tokens, spent.usd)

    def __add__(self, other: _Amount) -> _Amount:
        return _Amount(self.calls + other.calls, self.tokens + other.tokens, self.usd + other.usd)

    def __sub__(self, other: _Amount) -> _Amount:
        return _Amount(self.calls - other.calls, self.tokens - other.tokens, self.usd - other.usd)


class Budget:
    """The run's account, with hard caps shared by all chats made from it.

    Args:
        usd: Cap in US dollars; every chat then needs a price. None sets no cap.
        tokens: Cap on prompt and completion tokens together, cached ones included.
        calls: Cap on completed requests.
        record: Called with role, usage and US dollars of each call that was paid for; keeps the
            account outside this process (`Store.add_spending`).

    Attributes:
        ledger: Amount spent by each role.
        timings: Durations of answered calls by role.

    Raises:
        ConfigError: A cap is not above 0.
    """

    def __init__(
        self,
        *,
        usd: float | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        record: Callable[[str, Usage, float], None] | None = None,
    ) -> None:
        for name, cap in (("usd", usd), ("tokens", tokens), ("calls", calls)):
            if cap is not None and not cap > 0:
                raise ConfigError(f"budget.{name} must be above 0, not {cap!r}")
        self.usd = usd
        self.tokens = tokens
        self.calls = calls
        self.capped = usd is not None or tokens is not None or calls is not None
        self.ledger: dict[str, Spent] = {}
        self.timings: dict[str, Timing] = {}
        self._record = record
        self._spent = _Amount()
        self._reserved = _Amount()
        self._queue = AdmissionQueue()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_reserved": _Amount()}  # the copy has no calls in flight

    def chat(self, inner: Chat, role: str, price: Price | None = None) -> LedgerChat:
        """A chat that spends from this budget.

        Args:
            inner: The chat that answers.
            role: Name in the ledger: `rm`, `mrm`, `audit`.
            price: Price of the inner chat's model.

        Raises:
            ConfigError: There is a cap in dollars, and no price.
        """
        if self.usd is not None and price is None:
            raise ConfigError(
                f"budget.usd needs the price of {inner.name!r} (role {role!r}); give its price, "
                "or cap budget.tokens instead"
            )
        self.timings.setdefault(role, Timing())
        return LedgerChat(inner, self, role, price)

    @property
    def spent(self) -> Spent:
        """Amount spent by all roles together."""
        return sum(self.ledger.values(), Spent())

    async def reserve(self, role: str, worst_case: Spent) -> None:
        """Set aside the worst case of a call. Waits for calls in flight if there is no room yet.

        Raises:
            BudgetError: The amount already spent leaves no room for it.
        """
        amount = _Amount.of(worst_case)

        def admit() -> bool:
            exceeded = self._exceeded(self._spent + amount)
            if exceeded:
                raise BudgetError(self._message(role, exceeded))
            if self._exceeded(self._spent + self._reserved + amount):
                return False  # calls in flight may turn out cheaper than their worst case
            self._reserved += amount
            return True

        def undo() -> None:
            self._reserved -= amount

        await self._queue.enter(admit, undo)

    def settle(
        self, role: str, reserved: Spent | None, spent: Spent, seconds: float | None = None
    ) -> None:
        """Enter a call into the account, and free its reservation.

        Args:
            role: Name in the ledger.
            reserved: Amount passed to `reserve`; None if nothing was reserved.
            spent: Actual cost of the call.
            seconds: Duration of the call; None if it was not answered.
        """
        with self._queue.lock:
            if reserved is not None:
                self._reserved -= _Amount.of(reserved)
                self._spent += _Amount.of(spent)
            before = self.ledger.get(role)
            self.ledger[role] = spent if before is None else before + spent
            if seconds is not None:
                timing = self.timings[role]
                slowest = max(timing.slowest_s, seconds)
                self.timings[role] = Timing(timing.calls + 1, timing.seconds + seconds, slowest)
        if reserved is not None:
            self._queue.advance()
        if self._record is not None and spent.usage != Usage():
            self._record(role, spent.usage, spent.usd)

    def snapshot(self) -> dict[str, Any]:
        """The ledger as JSON values, for a checkpoint."""
        return {
            role: {"usage": spent.usage.model_dump(), "usd": spent.usd}
            for role, spent in self.ledger.items()
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Continue from a `snapshot`: the caps then cover the amount spent before a stop too."""
        self.ledger = {
            role: Spent(Usage(**entry["usage"]), float(entry["usd"]))
            for role, entry in snapshot.items()
        }
        self._spent = _Amount.of(self.spent)

    def _exceeded(self, total: _Amount) -> str:
        """Name of the first cap that a total exceeds; empty if it fits."""
        if self.calls is not None and total.calls > self.calls:
            return "calls"
        if self.tokens is not None and total.tokens > self.tokens:
            return "tokens"
        # The total is a sum of floats: a cap that is met exactly is not exceeded.
        if self.usd is not None and total.usd > self.usd * (1 + 1e-9):
            return "usd"
        return ""

    def _message(self, role: str, exceeded: str) -> str:
        def amount(spent: Spent) -> str:
            if exceeded == "usd":
                return f"{spent.usd:.4f}"
            return f"{spent.usage.calls if exceeded == 'calls' else spent.tokens:,}"

        by_role = ", ".join(f"{name} {amount(spent)}" for name, spent in self.ledger.items())
        return (
            f"budget.{exceeded} is used up: {amount(self.spent)} of {getattr(self, exceeded):,} "
            f"spent ({by_role or 'nothing yet'}), too little is left for the next call of role "
            f"{role!r}. Raise budget.{exceeded} and resume the run to go on"
        )


class LedgerChat(ChatWrapper):
    """A chat that spends from a budget and is timed; made by `Budget.chat`."""

    def __init__(self, inner: Chat, budget: Budget, role: str, price: Price | None) -> None:
        super().__init__(inner)
        self.budget = budget
        self.role = role
        self.price = price
        self._warned = False

    async def complete(self, request: ChatRequest) -> Completion:
        reserved = None
        if self.budget.capped:
            reserved = self._priced(_worst_case(request))
            await self.budget.reserve(self.role, reserved)
        usage, seconds = Usage(), None
        started = time.monotonic()
        try:
            completion = await self.inner.complete(request)
            seconds = time.monotonic() - started
            usage = completion.usage
            if usage.calls and not (usage.prompt_tokens or usage.completion_tokens):
                usage = self._estimate(request, completion)
            return completion
        except ChatError as error:
            if isinstance(error.usage, Usage):
                usage = error.usage
            elif isinstance(error, ChatReplyError):
                # The model answered and the call will be billed, but the cost is unknown.
                usage = _worst_case(request)
            error.usage = usage  # for the meters above
            raise
        finally:
            self.budget.settle(self.role, reserved, self._priced(usage), seconds)

    def _priced(self, usage: Usage) -> Spent:
        return Spent(usage, self.price.of(usage) if self.price else 0.0)

    def _estimate(self, request: ChatRequest, completion: Completion) -> Usage:
        """Usage of a call whose server reports none."""
        if not self._warned:
            self._warned = True
            _log.warning("%s reports no usage: the budget counts estimates", self.name)
        return Usage(
            calls=completion.usage.calls,
            prompt_tokens=_worst_case(request).prompt_tokens,
            completion_tokens=_estimated_tokens(completion.text),
        )


def _worst_case(request: ChatRequest) -> Usage:
    """Highest usage that a call may have."""
    return Usage(
        calls=1,
        prompt_tokens=sum(_estimated_tokens(m["content"]) + 8 for m in request.messages),
        completion_tokens=request.max_tokens,
    )


def _estimated_tokens(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size // 3 + 1
