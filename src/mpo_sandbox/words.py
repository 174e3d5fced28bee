"""Splitting text into tokens, words and sentences: one definition for everything in the sandbox.

A token is a word (letters, digits, inner apostrophes), a verdict tag, the command of a boxed
answer, or one punctuation mark. All results are lower case.
"""

import re

WHOLE = r"</?verdict>|\\boxed"
"""Marks that tasks read answers from: one token each, so that they stay whole."""

_TOKEN = re.compile(rf"{WHOLE}|[a-z0-9]+(?:'[a-z0-9]+)*|[^\sa-z0-9]")
_WORD = re.compile(r"[a-z0-9]+(?:'[a-z0-9]+)*")
_SENTENCE = re.compile(r"[^.!?]*[.!?]+|[^.!?]+")

ENDS = (".", "!", "?")
"""The marks that end a sentence."""


def tokens(text: str) -> list[str]:
    """Words and punctuation marks in order: `"Tea, hot."` -> `["tea", ",", "hot", "."]`."""
    return _TOKEN.findall(text.lower())


def words(text: str) -> list[str]:
    """The words of `text` in order, without punctuation: `"Tea, hot."` -> `["tea", "hot"]`."""
    return _WORD.findall(text.lower())


def sentences(text: str) -> list[str]:
    """Pieces of `text` that hold a word and end with `.`, `!`, `?` or the text."""
    pieces = (piece.strip() for piece in _SENTENCE.findall(text.lower()))
    return [piece for piece in pieces if _WORD.search(piece)]


def join(parts: list[str]) -> str:
    """Tokens as normal text, no space before `.,!?;:`; undoes `tokens` for the corpus's text."""
    return re.sub(r" ([.,!?;:])", r"\1", " ".join(parts))
