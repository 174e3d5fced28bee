"""Calling models: the `Chat` protocol, the OpenAI-compatible client, and public fakes.

    base.py         Chat, ChatRequest, Completion: the interface that all other code uses
    identity.py     who answered: part of every key under which an answer is used again
    openai.py       OpenAIChat; with limiter, sessions, proxy, replies (retries), refusals, thinking
    dialect.py      how one endpoint wants its requests, as found out
    structured.py   ways to request an answer of a given shape; probe.py finds the endpoint's best
    ledger.py       Budget: usage, money and time by role, with caps
    cache.py        CachedChat: a known answer, or one in flight, costs nothing
    fakes.py        ScriptedChat, RecordedChat
    event_loop.py   one event loop in a thread, for callers that have none

The two wrappers are optional, and nest in this order:

    CachedChat(budget.chat(OpenAIChat(...), role="rm"), store)
"""

from .base import (
    Chat,
    ChatRequest,
    ChatWrapper,
    Completion,
    Message,
    Metered,
    Schema,
    SharedSchema,
    identity_of,
    require_complete,
    same_model,
)
from .cache import Cache, CachedChat, MemoryCache
from .dialect import Dialect
from .fakes import RecordedChat, Reply, ScriptedChat
from .ledger import TIMINGS, Budget, LedgerChat, Price, Spent, Timing
from .limiter import Limiter
from .openai import OpenAIChat
from .structured import StructuredOutput
from .window import WindowedChat, estimate_tokens

__all__ = [
    "TIMINGS",
    "Budget",
    "Cache",
    "CachedChat",
    "Chat",
    "ChatRequest",
    "ChatWrapper",
    "Completion",
    "Dialect",
    "LedgerChat",
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
    "StructuredOutput",
    "Timing",
    "WindowedChat",
    "estimate_tokens",
    "identity_of",
    "require_complete",
    "same_model",
]
