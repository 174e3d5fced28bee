"""The account of a run: every call that was paid for, by role.

Amounts wait in memory for the next commit of the store, which takes them along.
"""

from __future__ import annotations

import os
import sqlite3
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from ..records import Usage

__all__ = ["Account", "Amount"]

_ADD = """
INSERT INTO spending VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (role) DO UPDATE SET
    calls = calls + excluded.calls,
    prompt_tokens = prompt_tokens + excluded.prompt_tokens,
    cached_tokens = cached_tokens + excluded.cached_tokens,
    completion_tokens = completion_tokens + excluded.completion_tokens,
    usd = usd + excluded.usd
"""


@dataclass(frozen=True)
class Amount:
    """The cost of a call."""

    role: str
    usage: Usage
    usd: float
    process: int
    """Process that has spent it: a forked child must not enter it again."""


class Account:
    """Amounts that are not in the file yet."""

    def __init__(self) -> None:
        # Single operations only: no lock that a fork could leave taken.
        self.waiting: deque[Amount] = deque()
        """Amounts in the order in which they came; append to add one."""

    def write(self, connection: sqlite3.Connection) -> list[Amount]:
        """Enter all amounts that wait, in the transaction of the caller.

        Returns:
            The amounts; for `give_back` if the transaction fails.
        """
        taken: list[Amount] = []
        rows: list[tuple[object, ...]] = []
        while self.waiting:
            taken.append(one := self.waiting.popleft())
            used = one.usage
            if one.process == os.getpid():
                tokens = (used.prompt_tokens, used.cached_tokens, used.completion_tokens)
                rows.append((one.role, used.calls, *tokens, one.usd))
        connection.executemany(_ADD, rows)
        return taken

    def give_back(self, taken: Iterable[Amount]) -> None:
        """Let amounts wait again: their transaction failed."""
        self.waiting.extendleft(reversed(list(taken)))

    def read(self, connection: sqlite3.Connection) -> dict[str, tuple[Usage, float]]:
        """Usage and US dollars by role, those that wait included."""
        stored: list[Amount] = []
        for role, calls, prompt, cached, completion, usd in connection.execute(
            "SELECT * FROM spending ORDER BY rowid"
        ):
            usage = Usage(
                calls=calls,
                prompt_tokens=prompt,
                cached_tokens=cached,
                completion_tokens=completion,
            )
            stored.append(Amount(role, usage, usd, os.getpid()))
        return _sums([*stored, *self.waiting])


def _sums(amounts: Iterable[Amount]) -> dict[str, tuple[Usage, float]]:
    """Sums by role of what this process has spent."""
    sums: dict[str, tuple[Usage, float]] = {}
    for amount in amounts:
        if amount.process == os.getpid():
            usage, usd = sums.get(amount.role, (Usage(), 0.0))
            sums[amount.role] = (usage + amount.usage, usd + amount.usd)
    return sums
