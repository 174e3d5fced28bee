"""Verdict tags of the ethics task: `<verdict>RIGHT</verdict>` or `<verdict>WRONG</verdict>`."""

from __future__ import annotations

import re
from typing import Literal

__all__ = ["Verdict", "read_verdict"]

Verdict = Literal["RIGHT", "WRONG"]

_TAG = re.compile(r"<verdict>\s*(RIGHT|WRONG)\s*</verdict>", re.IGNORECASE)
_WORD = re.compile(r"\b(RIGHT|WRONG)\b")


def read_verdict(text: str, *, loose: bool = False) -> Verdict | None:
    """The verdict of an analysis: the last tag counts.

    Args:
        text: Text by the policy.
        loose: Without a tag, take the last RIGHT or WRONG in capitals, for policies that were
            never trained on the tag.

    Returns:
        None where there is none. That is no wrong answer to be guessed at, but a missing one.
    """
    found = _TAG.findall(text) or (_WORD.findall(text) if loose else [])
    if not found:
        return None
    return "RIGHT" if found[-1].upper() == "RIGHT" else "WRONG"
