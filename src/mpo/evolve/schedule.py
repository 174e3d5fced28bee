"""When a meta step is due (`Schedule`), and which rollouts it looks at (`Selection`)."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from ..records import Case

__all__ = [
    "SELECTIONS",
    "Every",
    "Never",
    "Prescreened",
    "Schedule",
    "Selection",
    "Stratified",
    "Uniform",
    "seeded",
]


def seeded(seed: int, *names: object) -> random.Random:
    """A random generator for one named choice; the same in every process and on every rank."""
    # A string seed goes through SHA-512, not through `hash()`, which differs between processes.
    return random.Random(":".join(["mpo", str(seed), *map(str, names)]))


class Schedule(Protocol):
    """Decides when the rubric may change."""

    def due(self, step: int) -> bool:
        """True if a meta step follows the `step`-th update (1-based)."""
        ...


class Every:
    """Every k updates (paper §2.3; k is 10 to 30 there).

    Args:
        k: Updates between meta steps, at least 1.
    """

    def __init__(self, k: int) -> None:
        if k < 1:
            raise ValueError(f"the interval must be at least 1, not {k}")
        self.k = k

    def due(self, step: int) -> bool:
        return step > 0 and step % self.k == 0


class Never:
    """No meta step: the seed rubric stays in effect."""

    def due(self, step: int) -> bool:
        return False


class Selection(Protocol):
    """Picks evidence. Subclass it for a selection of your own."""

    needs_labels: bool = False
    """The MRM prescreens all cases first: one call for each."""

    def pick(
        self, cases: Sequence[Case], n: int, rng: random.Random, labels: Mapping[str, str]
    ) -> list[Case]:
        """Pick at most `n` of the cases, each once; fewer if there are fewer.

        Args:
            cases: The rollouts since the last meta step, scored.
            n: Most cases to pick.
            rng: Source of every random choice, so that a resumed run picks the same.
            labels: `good`, `ok` or `bad` by rollout id, for cases that the MRM prescreened; empty
                unless `needs_labels`.
        """
        ...


class Uniform(Selection):
    """Uniformly without replacement (paper §2.3)."""

    def pick(
        self, cases: Sequence[Case], n: int, rng: random.Random, labels: Mapping[str, str]
    ) -> list[Case]:
        return rng.sample(list(cases), min(n, len(cases)))


class Stratified(Selection):
    """Equal shares from thirds by reward, as the published code does for math.

    A third that is too small is filled up from the rest: `n` cases are picked where `n` exist.

    Args:
        strata: Number of parts of equal size.
    """

    def __init__(self, strata: int = 3) -> None:
        self.strata = strata

    def pick(
        self, cases: Sequence[Case], n: int, rng: random.Random, labels: Mapping[str, str]
    ) -> list[Case]:
        def key(case: Case) -> tuple[float, str]:
            reward = case.judgement.normalized_reward
            return (-1.0 if reward is None else reward, case.rollout.id)

        ordered = sorted(cases, key=key)
        n = min(n, len(ordered))
        bounds = [len(ordered) * i // self.strata for i in range(self.strata + 1)]
        picked: list[Case] = []
        for number, (start, end) in enumerate(itertools.pairwise(bounds)):
            share = n * (number + 1) // self.strata - n * number // self.strata
            stratum = ordered[start:end]
            picked += rng.sample(stratum, min(share, len(stratum)))
        chosen = {case.rollout.id for case in picked}
        rest = [case for case in ordered if case.rollout.id not in chosen]
        picked += rng.sample(rest, n - len(picked))
        rng.shuffle(picked)
        return picked


class Prescreened(Selection):
    """Cases whose grading the MRM labels bad first, then those labelled ok.

    The published code has a prescreen too, switched off; it takes too few where little is bad.

    Args:
        fill: Take the rest uniformly from all others: `n` cases are picked where `n` exist.
    """

    needs_labels = True

    def __init__(self, fill: bool = False) -> None:
        self.fill = fill

    def pick(
        self, cases: Sequence[Case], n: int, rng: random.Random, labels: Mapping[str, str]
    ) -> list[Case]:
        picked: list[Case] = []
        for wanted in (("bad",), ("ok",), ("good", None)):
            if wanted[0] == "good" and not self.fill:
                break
            pool = [case for case in cases if labels.get(case.rollout.id) in wanted]
            picked += rng.sample(pool, min(n - len(picked), len(pool)))
        return picked


SELECTIONS: Mapping[str, Callable[[], Selection]] = {
    "uniform": Uniform,
    "stratified": Stratified,
    "prescreen": Prescreened,
    "prescreen+uniform": lambda: Prescreened(fill=True),
}
"""Selections by the name in a config."""
