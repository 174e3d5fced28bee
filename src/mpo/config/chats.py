"""From config to chats: the client for an endpoint, and its wrappers.

    raw = make_chat(config.chat, config.seed, Endpoints())
    chats = compose(raw, raw, config.budget, store, cache=config.cache)
    ...
    chats.keep()         # commits amounts and timings to the store; a resumed run continues there
    chats.costs()

Wrappers nest in the order that `mpo.chat` gives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from ..chat import (
    TIMINGS,
    Budget,
    CachedChat,
    Chat,
    Dialect,
    Limiter,
    OpenAIChat,
    Price,
    Timing,
    WindowedChat,
)
from ..errors import ConfigError
from ..records import Usage, to_json
from ..store import Store
from .plugins import is_free, load_plugin
from .schema import BudgetConfig, ChatConfig

__all__ = ["Chats", "Endpoints", "check_prices", "compose", "make_chat", "reachable"]


@dataclass
class Endpoints:
    """State shared by the chats of one run: a limit for each endpoint, and what it enforces."""

    limiters: dict[str, Limiter] = field(default_factory=dict)
    """Limits by base URL."""
    dialects: dict[str, Dialect] = field(default_factory=dict)
    """Findings about endpoints, by URL and model."""

    def limiter(self, base_url: str, concurrency: int) -> Limiter:
        """The endpoint's limiter; if two chats want different limits, the higher one counts."""
        limiter = self.limiters.setdefault(base_url, Limiter(concurrency))
        if limiter.ceiling < concurrency:  # nothing is in flight yet
            limiter.ceiling, limiter.limit = concurrency, float(concurrency)
        return limiter


def make_chat(chat: ChatConfig, seed: int, endpoints: Endpoints | None = None) -> Chat:
    """The client for an endpoint, or the chat that a plugin brings.

    Args:
        chat: Settings of the endpoint, or of the plugin.
        seed: The run's seed; only a plugin's chat uses it.
        endpoints: State shared by the chats of a run.
    """
    if chat.plugin is not None:
        return load_plugin(chat.plugin).chat(seed, chat.options)
    assert chat.base_url is not None
    assert chat.model is not None
    shared = endpoints if endpoints is not None else Endpoints()
    client = OpenAIChat(
        chat.base_url,
        chat.model,
        api_key_env=chat.api_key_env,
        timeout_s=chat.timeout_s,
        deadline_s=chat.deadline_s,
        retries=chat.retries,
        concurrency=chat.concurrency,
        extra_body=chat.extra_body,
        max_tokens_field=chat.max_tokens_field,
        structured_output=chat.structured_output,
        dialects=shared.dialects,
        limiter=shared.limiter(chat.base_url, chat.concurrency),
    )
    return client if chat.window_tokens is None else WindowedChat(client, chat.window_tokens)


def reachable(chat: Chat, timeout_s: float = 5.0) -> None:
    """Check that an endpoint is up before models are loaded. Makes no call, so it costs nothing.

    Raises:
        ChatTransportError: No server listens at the endpoint.
    """
    check = getattr(chat, "check_reachable", None)  # chats without an endpoint have none
    if check is not None:
        check(timeout_s)


# ---------------------------------------------------------------------- wrappers


@dataclass(frozen=True)
class Chats:
    """The RM, the MRM and the optional second judge, with the budget that they share."""

    rm: Chat
    mrm: Chat
    audit: Chat | None
    """The second judge; None if there is none."""
    budget: Budget
    prices: dict[str, Price | None]
    """Price of each role's model; None if it is not known."""
    store: Store
    cached: dict[str, CachedChat]
    """Chats that share and keep answers, by role."""
    timings_before: dict[str, Any]
    """`timings` of the run before it was stopped."""

    def keep(self) -> None:
        """Write the timings into the store, and what was spent since its last commit."""
        self.store.flush()
        text = to_json(self.timings())
        if text != (self.store.meta(TIMINGS) or "{}"):
            self.store.set_meta(TIMINGS, text)

    def timings(self) -> dict[str, dict[str, Any]]:
        """Answer times since the run began, and the number of calls that were saved.

        Returns:
            By role: the fields of `Timing`, `cached` (answers that were known; None if the chat
            keeps no answers) and `shared` (equal calls at the same time; None if not shared).
        """
        return {
            role: {**asdict(timing), **self._saved_calls(role)}
            for role, timing in self.budget.timings.items()
        }

    def _saved_calls(self, role: str) -> dict[str, int | None]:
        """Calls that cost nothing, those before a resume included."""
        chat, before = self.cached.get(role), self.timings_before.get(role, {})
        counts = {
            "cached": chat.hits if chat is not None and chat.cache is not None else None,
            "shared": chat.shared if chat is not None else None,
        }
        return {
            name: None if count is None else count + (before.get(name) or 0)
            for name, count in counts.items()
        }

    def costs(self) -> dict[str, dict[str, Any]]:
        """Usage of each role since the run began, over all its processes; `usd` is None without a
        price."""
        return {
            role: {
                **usage.model_dump(),
                "usd": None if self.prices.get(role) is None else round(usd, 6),
            }
            for role, (usage, usd) in self.store.spending().items()
        }


def compose(
    chat: Chat,
    meta_chat: Chat,
    budget: BudgetConfig,
    store: Store,
    *,
    cache: bool,
    second_judge: Chat | None = None,
) -> Chats:
    """Chats that spend from one budget, share equal calls, and keep answers.

    A free chat is only counted: it answers faster than any cache.

    Args:
        chat: The RM.
        meta_chat: The MRM; it may be the same chat.
        budget: Caps and prices.
        store: Keeps answers and the ledger; the run's earlier spending is read from it.
        cache: True to keep answers.
        second_judge: The second judge, if there is one.

    Raises:
        ConfigError: There is a cap in dollars, and a model without a price.
    """
    roles = {"rm": chat, "mrm": meta_chat} | ({"audit": second_judge} if second_judge else {})
    check_prices(budget, *roles.values())
    prices = {role: _price(inner, budget) for role, inner in roles.items()}
    _complete_account(store, prices)
    account = Budget(
        usd=budget.usd, tokens=budget.tokens, calls=budget.calls, record=store.add_spending
    )
    account.restore(
        {
            role: {"usage": usage.model_dump(), "usd": usd}
            for role, (usage, usd) in store.spending().items()
        }
    )
    timings: dict[str, Any] = json.loads(store.meta(TIMINGS) or "{}")
    account.timings = {
        role: Timing(timings[role]["calls"], timings[role]["seconds"], timings[role]["slowest_s"])
        for role in roles
        if timings.get(role)
    }
    ready: dict[str, Chat] = {}
    cached: dict[str, CachedChat] = {}
    for role, inner in roles.items():
        window = inner.tokens if isinstance(inner, WindowedChat) else None
        inner = inner.inner if isinstance(inner, WindowedChat) else inner
        ready[role] = account.chat(inner, role, prices[role])
        if not is_free(inner):
            ready[role] = cached[role] = CachedChat(ready[role], store if cache else None)
        if window is not None:  # outermost: what is refused was not paid, so no ledger sees it
            ready[role] = WindowedChat(ready[role], window, clips=role == "mrm")
    rm, mrm, audit = ready["rm"], ready["mrm"], ready.get("audit")
    return Chats(rm, mrm, audit, account, prices, store, cached, timings)


def check_prices(budget: BudgetConfig, *chats: Chat) -> None:
    """Check that every model has a price if dollars are capped.

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


def _complete_account(store: Store, prices: Mapping[str, Price | None]) -> None:
    """Enter what the store's account lacks: the usage of judgements that were stored without one,
    and the cost of usage that had no price then."""
    account = store.spending()
    for role, stored in store.stored_usage().items():
        known, usd = account.get(role, (Usage(), 0.0))
        missing = stored if known == Usage() else Usage()
        price = prices.get(role)
        unpriced = missing if usd else missing + known
        cost = price.of(unpriced) if price is not None else 0.0
        if missing != Usage() or cost:
            store.add_spending(role, missing, cost)
    store.flush()
