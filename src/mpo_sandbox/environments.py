"""The sandbox's side of each task: rows, texts for the policy, and a measure of the outcome.

The simulated RM and MRM are the same for all tasks and do not know this file: they see prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from . import corpus, ethics, math, summarization
from .texts import write

__all__ = ["ENVIRONMENTS", "ESSAY", "Environment", "environment_of"]


@dataclass(frozen=True)
class Environment:
    """The sandbox's side of one task."""

    measure: str
    """Name of what is printed beside the reward, as the head of its columns."""
    rows: Callable[[int, int], list[dict[str, Any]]]
    """Seed and number to dataset rows, in the task's columns; with `cohort` where it has them."""
    texts: Callable[[int, int], list[corpus.Essay]]
    """Seed and number to what the policy learns from."""
    sources: tuple[str, ...]
    """Files that decide what the policy is."""
    length: int
    """Longest prompt and text together, in tokens of the policy."""


def _essay_rows(seed: int, n: int) -> list[dict[str, Any]]:
    return [{"prompt": prompt} for prompt in corpus.prompts(seed, n)]


_BASE = ("words.py", "topics.py", "bad_styles.py", "corpus.py")

ESSAY = "essay"

ENVIRONMENTS: Mapping[str, Environment] = {
    ESSAY: Environment(
        "gold", _essay_rows, lambda seed, n: corpus.generate(seed, n, "a"), _BASE, 96
    ),
    "summarization": Environment(
        "faithfulness and coverage",
        summarization.rows,
        lambda seed, n: write(seed, n, summarization.draw),
        (*_BASE, "texts.py", "summarization.py"),
        128,
    ),
    "ethics": Environment(
        "verdict accuracy",
        ethics.rows,
        lambda seed, n: write(seed, n, ethics.draw),
        (*_BASE, "texts.py", "ethics.py"),
        112,
    ),
    "math": Environment(
        "exact answers",
        math.rows,
        lambda seed, n: write(seed, n, math.draw),
        (*_BASE, "texts.py", "math.py"),
        112,
    ),
}
"""By name of the task."""


def environment_of(task: str) -> Environment:
    """The environment of a task; a task of one's own gets the essays'."""
    return ENVIRONMENTS.get(task, ENVIRONMENTS[ESSAY])
