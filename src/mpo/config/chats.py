"""From config to chats: the client for an endpoint, and what is put around it.

    raw = make_chat(config.chat, config.seed, Endpoints())
    chats = compose(raw, raw, config.budget, store, cache=config.cache)
    ...
    chats.keep()         # what was spent, in the store: a resumed run goes on from it
    chats.costs()

The order of what is put around a client is that of `mpo.chat`.
"""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from ..chat import (
    TIMINGS,
    Budget,
    CachedChat,
    Chat,
    DedupedChat,
    Limiter,
    OpenAIChat,
    Price,
    Tier,
    TimedChat,
    Timing,
)
from ..errors import ChatTransportError, ConfigError
from ..records import Usage
from ..store import Store
from .plugins import is_free, load_plugin
from .schema import BudgetConfig, ChatConfig

__all__ = ["Chats", "Endpoints", "check_prices", "compose", "make_chat", "reachable"]

LEDGER = "budget"
"""Under this key the store keeps what each role has spent."""


@dataclass
class Endpoints:
    """What the chats of one run share: a limit for each endpoint, and what it enforces."""

    limiters: dict[str, Limiter] = field(default_factory=dict)
    tiers: dict[str, Tier] = field(default_factory=dict)

    def limiter(self, base_url: str, concurrency: int) -> Limiter:
        """The endpoint's own; where two chats want different limits, the higher one counts."""
        limiter = self.limiters.setdefault(base_url, Limiter(concurrency))
        if limiter.ceiling < concurrency:  # nothing is in flight yet
            limiter.ceiling, limiter.limit = concurrency, float(concurrency)
        return limiter


def make_chat(chat: ChatConfig, seed: int, endpoints: Endpoints | None = None) -> Chat:
    """The client for an endpoint, or the chat that a plugin brings.

    Args:
        seed: The run's seed; only a plugin's chat uses it.
        endpoints: Shared by the chats of a run.
    """
    if chat.plugin is not None:
        return load_plugin(chat.plugin).chat(seed, chat.options)
    assert chat.base_url is not None
    assert chat.model is not None
    shared = endpoints if endpoints is not None else Endpoints()
    return OpenAIChat(
        chat.base_url,
        chat.model,
        api_key_env=chat.api_key_env,
        timeout_s=chat.timeout_s,
        retries=chat.retries,
        concurrency=chat.concurrency,
        tier=chat.structured_output,
        tiers=shared.tiers,
        limiter=shared.limiter(chat.base_url, chat.concurrency),
    )


def reachable(chat: Chat, timeout_s: float = 5.0) -> None:
    """Find out that an endpoint is down before models are loaded. Asks nothing, so costs nothing.

    Raises:
        ChatTransportError: Nobody listens there.
    """
    if not isinstance(chat, OpenAIChat):
        return
    url = urlsplit(chat.url)
    port = url.port or (443 if url.scheme == "https" else 80)
    try:
        socket.create_connection((url.hostname or "", port), timeout_s).close()
    except OSError as error:
        raise ChatTransportError(
            f"unreachable: nobody answers at {chat.shown_url} ({error}); is the server running, "
            "and is chat.base_url right?"
        ) from error


# ---------------------------------------------------------------------- what is put around it


@dataclass(frozen=True)
class Chats:
    """RM, MRM and maybe a second RM, ready to be asked, and what they may spend together."""

    rm: Chat
    mrm: Chat
    audit: Chat | None
    """The second RM; None where nobody audits."""
    budget: Budget
    prices: dict[str, Price | None]
    """By role; None where it is not known."""
    store: Store
    clocks: dict[str, TimedChat]
    """By role; what is innermost of each chat but its client."""
    timed_before: dict[str, Any]
    """`timings` of the run before it was stopped."""

    def keep(self) -> None:
        """Write the ledger and the timings into the store."""
        for key, value in ((LEDGER, self.budget.snapshot()), (TIMINGS, self.timings())):
            text = json.dumps(value)
            if text != (self.store.meta(key) or "{}"):
                self.store.set_meta(key, text)

    def timings(self) -> dict[str, dict[str, Any]]:
        """How long answers took since the run began, and how many calls were spared.

        Returns:
            By role: the fields of `Timing`, and `cached` (answers that were known) and `shared`
            (asked twice at once), None where the chat keeps no answers.
        """
        chats = {"rm": self.rm, "mrm": self.mrm, "audit": self.audit}
        return {
            role: {**asdict(clock.timing), **_spared(chats[role], self.timed_before.get(role, {}))}
            for role, clock in self.clocks.items()
        }

    def costs(self) -> dict[str, dict[str, Any]]:
        """What each role has used since the run began; `usd` is None without a price."""
        found = {}
        for role, spent in self.budget.ledger.items():
            usd = None if self.prices.get(role) is None else round(spent.usd, 6)
            found[role] = {**spent.usage.model_dump(), "usd": usd}
        return found


def compose(
    chat: Chat,
    meta_chat: Chat,
    budget: BudgetConfig,
    store: Store,
    *,
    cache: bool,
    second_judge: Chat | None = None,
) -> Chats:
    """Chats that spend from one budget, ask nothing twice at once, and remember.

    A chat that is free only keeps its ledger: it answers faster than any cache.

    Args:
        chat: The RM.
        meta_chat: The MRM; maybe the same.
        budget: Caps and prices.
        store: Keeps answers and ledger; what the run has spent before is read from it.
        cache: Whether answers are kept.
        second_judge: The second RM, if there is one.

    Raises:
        ConfigError: A cap in dollars, and a model without a price.
    """
    roles = {"rm": chat, "mrm": meta_chat} | ({"audit": second_judge} if second_judge else {})
    check_prices(budget, *roles.values())
    prices = {role: _price(inner, budget) for role, inner in roles.items()}
    spending = Budget(usd=budget.usd, tokens=budget.tokens, calls=budget.calls)
    spending.restore(_spent_before(store, prices))
    spending.watch(partial(_spent_before, store, prices))
    timed: dict[str, Any] = json.loads(store.meta(TIMINGS) or "{}")
    clocks = {role: TimedChat(inner, _timing(timed.get(role))) for role, inner in roles.items()}

    def around(inner: Chat, role: str) -> Chat:
        spender = spending.chat(clocks[role], role, prices[role])
        if is_free(inner):
            return spender
        deduped = DedupedChat(spender)
        return CachedChat(deduped, store) if cache else deduped

    ready = {role: around(inner, role) for role, inner in roles.items()}
    rm, mrm, audit = ready["rm"], ready["mrm"], ready.get("audit")
    return Chats(rm, mrm, audit, spending, prices, store, clocks, timed)


def _timing(kept: dict[str, Any] | None) -> Timing | None:
    return Timing(kept["calls"], kept["seconds"], kept["slowest_s"]) if kept else None


def _spared(chat: Chat | None, before: dict[str, Any]) -> dict[str, int | None]:
    """Calls that cost nothing, those before a resume included."""
    deduped = chat.inner if isinstance(chat, CachedChat) else chat
    cached = chat.hits if isinstance(chat, CachedChat) else None
    shared = deduped.shared if isinstance(deduped, DedupedChat) else None
    now = {"cached": cached, "shared": shared}
    return {name: None if n is None else n + (before.get(name) or 0) for name, n in now.items()}


def check_prices(budget: BudgetConfig, *chats: Chat) -> None:
    """Raises an error where dollars are to be counted and a price is not known.

    Raises:
        ConfigError: A model has no price.
    """
    for chat in chats:
        if budget.usd is not None and _price(chat, budget) is None:
            raise ConfigError(
                f"budget.usd needs the price of {chat.name!r}: add budget.prices: "
                f"{{{chat.name}: [prompt, completion]}}, in US dollars per million tokens, or cap "
                "budget.tokens instead"
            )


def _price(chat: Chat, budget: BudgetConfig) -> Price | None:
    if is_free(chat):
        return Price(0.0, 0.0)
    price = budget.prices.get(chat.name)
    return None if price is None else Price(*price)


def _spent_before(store: Store, prices: dict[str, Price | None]) -> dict[str, Any]:
    """The ledger that was kept, brought up to date: a killed run could not write its last one.

    What the store's judgements and decisions have cost is known to the last commit. The ledger
    knows more only where an answer was paid for and could not be used.
    """
    kept: dict[str, Any] = json.loads(store.meta(LEDGER) or "{}")
    for role, usage in store.usage().items():
        known = Usage(**kept[role]["usage"]) if role in kept else Usage()
        if usage.calls > known.calls:
            price = prices.get(role)
            usd = price.of(usage) if price is not None else 0.0
            kept[role] = {"usage": usage.model_dump(), "usd": usd}
    return kept
