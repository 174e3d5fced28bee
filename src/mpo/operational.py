"""The mark of operational keys: those of a config that may change while a run goes on.

    timeout_s: Operational[float] = Field(default=120.0, gt=0)

They say how a run is carried out, not what it is: an endpoint's address, time limits, budgets. A
part of a config that has the mark passes it on to all its keys.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic.fields import FieldInfo

__all__ = ["Operational", "is_marked"]

T = TypeVar("T")

_MARK = "operational"

Operational = Annotated[T, _MARK]
"""Type of a field whose key may change while a run goes on."""


def is_marked(field: FieldInfo) -> bool:
    """True for a field that was declared `Operational`."""
    return _MARK in field.metadata
