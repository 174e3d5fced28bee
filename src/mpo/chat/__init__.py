"""Asking models: the `Chat` protocol, the OpenAI-compatible client, and public doubles.

    base.py        Chat, Completion: the one method that everything above knows
    openai.py      OpenAIChat; with limiter, retry, sessions, replies, and structured + probe
                   (how to ask for a shape, and how to find out what the endpoint enforces)
    cache.py       CachedChat, DedupedChat: what is known, or asked twice at once, costs nothing
    budget.py      Budget: caps on calls, tokens and money, with a ledger by role
    timing.py      TimedChat: how long answers take
    doubles.py     ScriptedChat, RecordedChat

They are put around each other in this order, each of them optional:

    CachedChat(DedupedChat(budget.chat(OpenAIChat(...), role="rm")), store)
"""

from .base import (
    Chat,
    ChatRequest,
    Completion,
    Message,
    Metered,
    Schema,
    SharedSchema,
    require_complete,
)
from .budget import Budget, BudgetedChat, Price, Spent
from .cache import Cache, CachedChat, DedupedChat, MemoryCache
from .fakes import RecordedChat, Reply, ScriptedChat
from .limiter import Limiter
from .openai import OpenAIChat
from .structured import Tier
from .timing import TIMINGS, TimedChat, Timing

__all__ = [
    "TIMINGS",
    "Budget",
    "BudgetedChat",
    "Cache",
    "CachedChat",
    "Chat",
    "ChatRequest",
    "Completion",
    "DedupedChat",
    "Limiter",
    "MemoryCache",
    "Message",
    "Metered",
    "OpenAIChat",
    "Price",
    "RecordedChat",
    "Reply",
    "Schema",
    "ScriptedChat",
    "SharedSchema",
    "Spent",
    "Tier",
    "TimedChat",
    "Timing",
    "require_complete",
]
