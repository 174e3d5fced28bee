"""One value of a row: as JSON, as a text, as a number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any

from ..errors import DataError
from .conversation import flatten, is_conversation

__all__ = ["Unreadable", "as_number", "as_text", "plain", "whole_text"]

MAX_DEPTH = 64
"""Nesting of containers that is kept; what lies deeper becomes a text."""
_MISSING = {"", "nan", "na", "n/a", "null", "none"}
"""Texts that stand for no number, as CSV files have them."""


class Unreadable:
    """A value that its file could not give: harmless until somebody uses the column."""

    def __init__(self, reason: str) -> None:
        self.reason = reason

    def __repr__(self) -> str:
        return f"<unreadable: {self.reason}>"


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """The value as strict JSON has it: NaN and infinity are null, dates and others their text.

    Args:
        value: Any value of a row, numpy's included.
        depth: Containers inside each other that are kept.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, bytes | bytearray | memoryview):
        # Two pictures stay two: a rollout's id and group follow from its columns.
        return f"<{len(value)} bytes, {hashlib.sha256(value).hexdigest()[:12]}>"
    if hasattr(value, "tolist"):  # numpy's arrays and scalars
        return plain(value.tolist(), depth)
    if isinstance(value, Mapping | list | tuple) and depth == 0:
        return "<nested too deeply>"
    if isinstance(value, Mapping):
        return {whole_text(str(key)): plain(inner, depth - 1) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner, depth - 1) for inner in value]
    return whole_text(str(value))


def whole_text(text: str) -> str:
    """The text with lone surrogates, which no file can hold, as replacement characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def as_text(value: Any) -> str:
    """Text of a value: a text, a number, a message or a list of messages.

    Raises:
        DataError: It is something else; the message goes on after a column's name.
    """
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return json.dumps(value)
    if is_conversation(value):
        return whole_text(flatten(value))
    if isinstance(value, Mapping) and is_conversation([value]):
        return whole_text(flatten([value]))
    raise DataError(f"must be text or a list of messages, not {value!r:.60}")


def as_number(value: Any) -> float | None:
    """A number, also one written as text; None where there is none.

    Raises:
        DataError: It is something else, or infinite; the message goes on after a column's name.
    """
    number: Any = value
    if isinstance(value, str):
        if value.strip().lower() in _MISSING:
            return None
        try:
            number = float(value)
        except ValueError:
            number = None
    elif value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    elif hasattr(value, "as_tuple"):  # Decimal, as Parquet has them
        number = float(value)
    # Not float(number) at once: an integer of 400 digits overflows.
    is_number = isinstance(number, int | float) and not isinstance(number, bool)
    if is_number and abs(number) <= 1e300:
        return float(number)
    raise DataError(f"must be a number or null, not {value!r:.40}")
