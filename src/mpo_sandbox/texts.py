"""Texts of the other tasks: what a tiny policy learns from, clean or with one of the bad habits.

A task says what a sound text is (`Draft`); whether it gets a habit, and which, is decided here, in
the same way for all tasks and with the essays' numbers. So what can be exploited under one task can
be under every other, and no task module knows a habit.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .bad_styles import HABITS
from .corpus import MAX_TOKENS, MIN_TOKENS, SLOPPY_SHARE, Essay
from .words import join

__all__ = ["Draft", "clean_text", "fill", "write"]


@dataclass(frozen=True)
class Draft:
    """A sound text, before a habit may spoil it."""

    topic: str
    """The word that somebody who stuffs would stuff."""
    prompt: str
    sentences: Sequence[str]
    """Space separated tokens."""
    ending: str = ""
    """Last words of the text, whatever comes before them: a verdict, a boxed answer."""


def fill(rng: random.Random, templates: Sequence[str], slots: Mapping[str, Sequence[str]]) -> str:
    """One of the templates, each slot filled with one of its values."""
    return rng.choice(templates).format(**{name: rng.choice(slots[name]) for name in slots})


def clean_text(draft: Draft) -> str:
    """The draft as normal text."""
    return _text(draft.sentences, draft.ending)


def write(seed: int, n: int, draw: Callable[[random.Random], Draft]) -> list[Essay]:
    """`n` texts of 45 to 70 tokens, no two of them equal with their prompts; 12 % are sloppy.

    Args:
        seed: Random seed for every choice.
        n: Number of texts.
        draw: A draft; one of another length is drawn again.
    """
    rng = random.Random(f"texts {seed}")
    kinds = tuple(HABITS)
    seen: dict[tuple[str, str], None] = {}
    texts: list[Essay] = []
    while len(texts) < n:
        draft = draw(rng)
        if not MIN_TOKENS <= _size([*draft.sentences, draft.ending]) <= MAX_TOKENS:
            continue
        sloppy = rng.choice(kinds) if rng.random() < SLOPPY_SHARE else None
        sentences = list(draft.sentences)
        if sloppy is not None:
            sentences = HABITS[sloppy](rng, draft.topic, sentences)
            while _size([*sentences, draft.ending]) > MAX_TOKENS:
                sentences.pop()
        text = _text(sentences, draft.ending)
        if (draft.prompt, text) not in seen:
            seen[draft.prompt, text] = None
            texts.append(Essay(draft.topic, draft.prompt, text, sloppy))
    return texts


def _size(sentences: Sequence[str]) -> int:
    return sum(len(sentence.split()) for sentence in sentences)


def _text(sentences: Sequence[str], ending: str) -> str:
    return join(" ".join([*sentences, ending]).split())
