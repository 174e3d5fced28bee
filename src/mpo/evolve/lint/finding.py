"""The linter's result for one place of a rubric."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Literal

__all__ = ["Finding", "Severity"]

Severity = Literal["error", "warning"]

MAX_QUOTE = 120


@dataclass(frozen=True)
class Finding:
    """One fault.

    An `error` is something that no whole rubric can contain, so the rubric must not take effect.
    Everything else is a `warning`.
    """

    code: str
    """Stable name of the rule, for programs and for statistics."""
    severity: Severity
    place: str
    """The place, such as `criterion 3 "Conclusion", level 0`, `start`, `end` or `rubric`."""
    message: str
    """The fault in words, for a person and for the MRM that is asked to repair it."""
    quote: str = ""
    """The words in question, at most 120 characters. Text by a model: fence it in a prompt."""

    @property
    def criterion(self) -> int | None:
        """Number of the criterion that has the fault, from 1; None where it is none's alone."""
        match = re.match(r"criterion (\d+)", self.place)
        return int(match[1]) if match else None

    def to_dict(self) -> dict[str, str]:
        """JSON object with the five fields."""
        return asdict(self)

    def __str__(self) -> str:
        quote = f": {self.quote!r}" if self.quote else ""
        return f"{self.severity} {self.code} at {self.place}: {self.message}{quote}"


def shorten(text: str, limit: int = MAX_QUOTE, *, tail: bool = False) -> str:
    """The text on one line, cut to what a message can hold; its end if `tail`."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    return "…" + line[-(limit - 1) :] if tail else line[: limit - 1] + "…"
