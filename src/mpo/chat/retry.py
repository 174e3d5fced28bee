"""When to ask again, and after how long.

Full jitter: the n-th wait is drawn from 0 to `base_s * 2**n`, so that clients that failed
together do not come back together. A `Retry-After` of the server goes before it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

__all__ = ["OVERLOAD", "Failure", "Retry", "retry_after", "worth_retrying"]

OVERLOAD = frozenset({429, 529})
"""Statuses that say "too many requests" in so many words; 5xx and timeouts count beside them."""


@dataclass(frozen=True)
class Failure:
    """An attempt that came to nothing. A value, not an exception: an exception of the HTTP
    library carries the request's headers, and with them the key."""

    what: str
    """First word for statistics, then what happened."""
    again: bool
    """Whether a repetition may help."""
    overload: bool = False
    """Whether the endpoint had too much to do."""
    wait_s: float | None = None
    """What the server asked for in `Retry-After`, in seconds."""
    status: int = 0
    """HTTP status; 0 where there was none."""


@dataclass
class Retry:
    """How often and how patiently one call is tried.

    The jitter comes from the system's randomness: forked ranks that shared a seeded generator
    would all wait the same time, which is what jitter is to prevent.
    """

    retries: int = 5
    """Attempts after the first."""
    base_s: float = 0.5
    cap_s: float = 20.0
    """Longest wait of our own choice, in seconds."""
    retry_after_cap_s: float = 120.0
    """Longest wait of the server's choice that is obeyed, in seconds."""
    _random: random.Random = field(default_factory=random.SystemRandom, repr=False, compare=False)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_random"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state, _random=random.SystemRandom())

    def wait(self, attempt: int, asked_s: float | None) -> float:
        """Seconds before the next attempt.

        Args:
            attempt: Attempts so far, at least 1.
            asked_s: The server's `Retry-After`, if it sent one.
        """
        jitter = self._random.uniform(0, min(self.cap_s, self.base_s * 2 ** (attempt - 1)))
        if asked_s is None:
            return jitter
        # Never earlier than asked, and not all at the same moment.
        return min(asked_s, self.retry_after_cap_s) + min(jitter, self.base_s)


def worth_retrying(status: int) -> bool:
    """Whether the same request may succeed later."""
    return status in (408, 409, 429) or status >= 500


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a reply asks to wait, from `Retry-After-Ms` or `Retry-After` (seconds or date).

    Returns:
        None where it asks for nothing that can be read.
    """
    try:
        if "Retry-After-Ms" in headers:
            return max(0.0, float(headers["Retry-After-Ms"]) / 1000)
        asked = headers.get("Retry-After", "").strip()
        if not asked:
            return None
        if asked.replace(".", "", 1).isdigit():
            return float(asked)
        return max(0.0, parsedate_to_datetime(asked).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
