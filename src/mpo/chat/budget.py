"""Caps on what a run may spend, over all its chats, with a ledger by role.

    budget = Budget(usd=20.0)
    rm = budget.chat(OpenAIChat(...), role="rm", price=Price(prompt=0.15, completion=0.60))
    mrm = budget.chat(OpenAIChat(...), role="mrm", price=Price(prompt=2.5, completion=10.0))
    ...
    budget.ledger["rm"].usd

A call is checked before it is sent, with the most that it may cost: all its `max_tokens`. Where
the cap has room only if the calls in flight stay below their most, it waits for them. Where even
the calls that are done leave no room, `BudgetError` ends the run: it is no `ChatError`, so nobody
takes it for an unscored rollout. What was spent stays known, and a resumed run goes on from it.

The cap holds to within the error of the prompt estimate (a third of the prompt's bytes, which is
high for English and about right for Chinese). With several processes that share a store it holds to
within what the others spend in `LOOK_S`: see `Budget.watch`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import BudgetError, ChatReplyError, ConfigError
from ..records import Usage
from .base import Chat, ChatRequest, ChatWrapper, Completion
from .limiter import AdmissionQueue

__all__ = ["Budget", "BudgetedChat", "Price", "Spent"]

_log = logging.getLogger(__name__)

LOOK_S = 2.0
"""Seconds between two looks at what other processes have spent."""


@dataclass(frozen=True)
class Price:
    """What a model costs, in US dollars per million tokens."""

    prompt: float
    completion: float
    cached: float | None = None
    """Prompt tokens that the server had cached; as `prompt` where it gives no discount."""

    def of(self, usage: Usage) -> float:
        """US dollars for a usage."""
        cached = self.prompt if self.cached is None else self.cached
        fresh = usage.prompt_tokens - usage.cached_tokens
        dollars = fresh * self.prompt + usage.cached_tokens * cached
        return (dollars + usage.completion_tokens * self.completion) / 1e6


@dataclass(frozen=True)
class Spent:
    """What was spent: usage, and US dollars where the price is known."""

    usage: Usage = field(default_factory=lambda: Usage())
    usd: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.usage + other.usage, self.usd + other.usd)

    @property
    def tokens(self) -> int:
        """Prompt and completion tokens together."""
        return self.usage.prompt_tokens + self.usage.completion_tokens


@dataclass(frozen=True, slots=True)
class _Amount:
    """The three capped quantities. Plain numbers: they are added twice for each call."""

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
    """Hard caps, shared by all chats that are made from it. None leaves a quantity free.

    Args:
        usd: US dollars; every chat then needs a price.
        tokens: Prompt and completion tokens together, cached ones included.
        calls: Completed requests.

    Attributes:
        ledger: What each role has spent.
    """

    def __init__(
        self, *, usd: float | None = None, tokens: int | None = None, calls: int | None = None
    ) -> None:
        for name, cap in (("usd", usd), ("tokens", tokens), ("calls", calls)):
            if cap is not None and not cap > 0:
                raise ConfigError(f"budget.{name} must be above 0, not {cap!r}")
        self.usd = usd
        self.tokens = tokens
        self.calls = calls
        self.ledger: dict[str, Spent] = {}
        self._spent = _Amount()
        self._held = _Amount()
        self._turnstile = AdmissionQueue()
        self._known: Callable[[], Mapping[str, Any]] | None = None
        self._others = _Amount()
        self._next_look = float("-inf")

    def __getstate__(self) -> dict[str, Any]:
        # The copy has no calls in flight, and a clock of its own.
        return self.__dict__ | {"_held": _Amount(), "_next_look": float("-inf")}

    def chat(self, inner: Chat, role: str, price: Price | None = None) -> BudgetedChat:
        """A chat that spends from this budget.

        Args:
            inner: The chat that is asked.
            role: Name in the ledger: `rm`, `mrm`, `audit`.
            price: Of the inner chat's model.

        Raises:
            ConfigError: There is a cap in dollars, and no price.
        """
        if self.usd is not None and price is None:
            raise ConfigError(
                f"budget.usd needs the price of {inner.name!r} (role {role!r}); give its price, "
                "or cap budget.tokens instead"
            )
        return BudgetedChat(inner, self, role, price)

    @property
    def capped(self) -> bool:
        """Whether anything is capped; otherwise the budget only keeps the ledger."""
        return self.calls is not None or self.tokens is not None or self.usd is not None

    @property
    def spent(self) -> Spent:
        """What all roles have spent together."""
        return sum(self.ledger.values(), Spent())

    async def reserve(self, role: str, most: Spent) -> None:
        """Set aside what a call may cost at most.

        Raises:
            BudgetError: What is already spent leaves no room for it.
        """
        if not self.capped:
            return
        if self._known is not None and time.monotonic() >= self._next_look:
            self._look(self._known)
        amount = _Amount.of(most)

        def admit() -> bool:
            lacking = self._over(self._others + self._spent + amount)
            if lacking:
                raise BudgetError(self._message(role, lacking))
            if self._over(self._others + self._spent + self._held + amount):
                return False  # the calls in flight may turn out cheaper than their most
            self._held += amount
            return True

        await self._turnstile.enter(admit, lambda: self._free(amount))

    def settle(self, role: str, most: Spent, spent: Spent) -> None:
        """Write down what a call did cost, and free what was set aside for it."""
        with self._turnstile.lock:
            if self.capped:
                self._free(_Amount.of(most))
                self._spent += _Amount.of(spent)
            self.ledger[role] = self.ledger.get(role, Spent()) + spent
        if len(self._turnstile):
            self._turnstile.advance()

    def snapshot(self) -> dict[str, Any]:
        """The ledger as JSON values, for a checkpoint."""
        return {
            role: {"usage": spent.usage.model_dump(), "usd": spent.usd}
            for role, spent in self.ledger.items()
        }

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on from a `snapshot`: what a run spent before it was stopped counts."""
        self.ledger = _spent(snapshot)
        self._spent = _Amount.of(self.spent)

    def watch(self, known: Callable[[], Mapping[str, Any]]) -> None:
        """Count what other processes of the run spend.

        Args:
            known: A snapshot of what all processes have spent together, this one included, as far
                as it is committed. Asked at most every `LOOK_S`, and only where there is a cap.
        """
        self._known = known

    def _look(self, known: Callable[[], Mapping[str, Any]]) -> None:
        started = time.monotonic()
        total = _Amount.of(sum(_spent(known()).values(), Spent()))
        rest = total - self._spent
        self._others = _Amount(max(0, rest.calls), max(0, rest.tokens), max(0.0, rest.usd))
        ended = time.monotonic()
        self._next_look = ended + max(LOOK_S, 50 * (ended - started))

    def _free(self, amount: _Amount) -> None:
        self._held -= amount

    def _over(self, total: _Amount) -> str:
        """Name of the first cap that a total exceeds; empty where it fits."""
        if self.calls is not None and total.calls > self.calls:
            return "calls"
        if self.tokens is not None and total.tokens > self.tokens:
            return "tokens"
        # Sums of floats: a cap that is met exactly is not exceeded.
        if self.usd is not None and total.usd > self.usd * (1 + 1e-9):
            return "usd"
        return ""

    def _message(self, role: str, lacking: str) -> str:
        def amount(spent: Spent) -> str:
            if lacking == "usd":
                return f"{spent.usd:.4f}"
            return f"{spent.usage.calls if lacking == 'calls' else spent.tokens:,}"

        by_role = ", ".join(f"{name} {amount(spent)}" for name, spent in self.ledger.items())
        others = getattr(self._others, lacking)
        if others:
            shown = f"{others:.4f}" if lacking == "usd" else f"{others:,}"
            by_role = f"{by_role or 'nothing here'}; {shown} more by other processes"
        return (
            f"budget.{lacking} is used up: {amount(self.spent)} of {getattr(self, lacking):,} "
            f"spent ({by_role or 'nothing yet'}), too little is left for the next call of role "
            f"{role!r}. Raise budget.{lacking} and resume the run to go on"
        )


def _spent(snapshot: Mapping[str, Any]) -> dict[str, Spent]:
    """The ledger of a `Budget.snapshot`."""
    return {
        role: Spent(Usage(**entry["usage"]), float(entry["usd"]))
        for role, entry in snapshot.items()
    }


_NOTHING = Usage()


class BudgetedChat(ChatWrapper):
    """A chat that spends from a budget; made by `Budget.chat`."""

    def __init__(self, inner: Chat, budget: Budget, role: str, price: Price | None) -> None:
        super().__init__(inner)
        self.budget = budget
        self.role = role
        self.price = price
        self._warned = False

    async def complete(self, request: ChatRequest) -> Completion:
        most = Usage(
            calls=1,
            prompt_tokens=sum(_tokens(m["content"]) + 8 for m in request.messages),
            completion_tokens=request.max_tokens,
        )
        held = self._priced(most)
        await self.budget.reserve(self.role, held)
        spent = _NOTHING
        try:
            completion = await self.inner.complete(request)
            spent = self._counted(completion, most)
        except ChatReplyError:
            spent = most  # it answered and will be billed, and nobody says how much
            raise
        finally:
            self.budget.settle(self.role, held, self._priced(spent))
        return completion

    def _priced(self, usage: Usage) -> Spent:
        return Spent(usage, self.price.of(usage) if self.price else 0.0)

    def _counted(self, completion: Completion, most: Usage) -> Usage:
        usage = completion.usage
        if usage.calls == 0 or usage.prompt_tokens or usage.completion_tokens:
            return usage
        if not self._warned:
            self._warned = True
            _log.warning("%s reports no usage: the budget counts estimates", self.name)
        return Usage(
            calls=usage.calls,
            prompt_tokens=most.prompt_tokens,
            completion_tokens=_tokens(completion.text),
        )


def _tokens(text: str) -> int:
    size = len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
    return size // 3 + 1
