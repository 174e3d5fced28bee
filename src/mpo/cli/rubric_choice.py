"""The rubric of a run that a person means: a number, `head`, `seed`, or the start of an id."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import typer

from ..errors import ConfigError
from ..evolve.lineage import number_rubrics
from ..rubric import Rubric
from ..store import Store

__all__ = ["COHORT", "WHICH", "choose_cohort", "choose_rubric"]

WHICH = "head, seed, a number (0 is the seed), or the first digits of an id"
"""Help of an option that names a rubric."""
COHORT: Any = typer.Option("", help="The cohort, of a run with several rubrics at once.")

_SHORT = 4
"""Digits from which a number may be the start of an id."""


def choose_rubric(store: Store, which: str, cohort: str = "") -> Rubric:
    """The rubric that a person means.

    Args:
        store: The run's store.
        which: `head`, `seed`, a number as the screens show it (`2`, `#2`, `algebra #2`), or the
            first digits of an id, also of one that never took effect.
        cohort: Only this cohort's rubrics; those of all if empty.

    Raises:
        ConfigError: There is no such rubric, or there are several: the message names them.
    """
    text = which.strip()
    before, mark, digits = (part.strip() for part in text.rpartition("#"))
    cohort = before or cohort
    numbers = number_rubrics(store.lineage())
    by_number = bool(mark) or (digits.isdecimal() and len(digits) < _SHORT)
    if not by_number and text not in ("head", "seed") and not cohort:
        return _by_id(store, text, store.rubrics(), numbers)
    cohorts = _cohorts(store, numbers, cohort)
    numbers = {key: n for key, n in numbers.items() if key[0] in cohorts}
    if text == "head":
        heads = store.heads()
        fitting = [key for key in numbers if heads.get(key[0]) == key[1]]
    elif text == "seed":
        fitting = [key for key, n in numbers.items() if n == 0]
    elif not by_number:
        return _by_id(store, text, dict.fromkeys(id for _, id in numbers), numbers)
    else:
        fitting = [key for key, n in numbers.items() if digits.isdecimal() and n == int(digits[:9])]
    if not fitting:
        raise ConfigError(
            f"there is no rubric {which!r}: the run has rubrics 0 (the seed) to "
            f"{max(numbers.values())}"
        )
    ids = dict.fromkeys(id for _, id in fitting)
    if len(ids) > 1:
        listed = ", ".join(f"{name} ({id})" for name, id in fitting)
        raise ConfigError(f"rubric {which!r} is another one in each cohort: add --cohort; {listed}")
    return store.rubric(next(iter(ids)))


def choose_cohort(store: Store, cohort: str) -> str:
    """The cohort that a person means: the only one, or the one that is named.

    Raises:
        ConfigError: There is no such cohort, there are several and none is named, or the run has no
            rubric yet.
    """
    cohorts = _cohorts(store, number_rubrics(store.lineage()), cohort)
    if len(cohorts) > 1:
        raise ConfigError(f"{store.path} has several cohorts: add --cohort; {', '.join(cohorts)}")
    return cohorts[0]


def _cohorts(store: Store, numbers: Mapping[tuple[str, str], int], cohort: str) -> list[str]:
    cohorts = list(dict.fromkeys(name for name, _ in numbers))
    if not cohorts:
        raise ConfigError(f"{store.path} has no rubric yet")
    if cohort and cohort not in cohorts:
        names = ", ".join(name for name in cohorts if name) or "none"
        raise ConfigError(f"{store.path} has no cohort {cohort!r}; its cohorts: {names}")
    return [cohort] if cohort else cohorts


def _by_id(
    store: Store, start: str, known: Iterable[str], numbers: Mapping[tuple[str, str], int]
) -> Rubric:
    ids = list(known)
    fitting = [id for id in ids if start and id.startswith(start.lower())]
    if len(fitting) == 1:
        return store.rubric(fitting[0])
    if fitting:
        listed = ", ".join(_named(id, numbers) for id in sorted(fitting)[:8])
        raise ConfigError(f"rubric {start!r} fits {listed}: give more digits")
    if not ids:
        raise ConfigError(f"{store.path} has no rubric yet")
    last = [id for _, id in numbers] or ids
    listed = ", ".join(_named(id, numbers) for id in last[-4:])
    raise ConfigError(f"there is no rubric {start!r}: name {WHICH}; the last are {listed}")


def _named(id: str, numbers: Mapping[tuple[str, str], int]) -> str:
    """An id with its number, if it has one."""
    known = [
        f"{f'{cohort} ' if cohort else ''}#{n}" for (cohort, i), n in numbers.items() if i == id
    ]
    return f"{id} ({', '.join(known)})" if known else f"{id} (never in effect)"
