"""Schedule: when a meta step is due, and which rollouts it looks at."""

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
    """Says when the rubric may change."""

    def due(self, step: int) -> bool:
        """Whether a meta step follows the `step`-th update (1-based)."""
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
    """The fixed arm: the seed rubric stays in force."""

    def due(self, step: int) -> bool:
        return False


class Selection(Protocol):
    """Picks evidence."""

    def pick(self, cases: Sequence[Case], n: int, rng: random.Random) -> list[Case]:
        """At most `n` of the cases, each once; fewer if there are fewer."""
        ...


class Uniform:
    """Uniformly without replacement (paper §2.3)."""

    def pick(self, cases: Sequence[Case], n: int, rng: random.Random) -> list[Case]:
        return rng.sample(list(cases), min(n, len(cases)))


class Stratified:
    """Equal shares from thirds by reward, as the paper's math task does (notes/paper.md §1.7).

    A third that is too small is filled up from the rest, so that `n` come out where `n` exist.
    """

    def __init__(self, strata: int = 3) -> None:
        self.strata = strata

    def pick(self, cases: Sequence[Case], n: int, rng: random.Random) -> list[Case]:
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


class Prescreened:
    """What the prescreen finds worth a look: cases labelled bad first, then ok.

    The MRM labels all cases before (`MetaRewardModel.prescreen_all`); without labels it picks
    nothing, or with `fill` uniformly.

    The published code has it, switched off, and takes too few where little is bad
    (notes/reference.md D14).

    Args:
        fill: Take the rest uniformly from all others, so that `n` come out where `n` exist.
    """

    def __init__(self, fill: bool = False) -> None:
        self.fill = fill

    def pick(
        self,
        cases: Sequence[Case],
        n: int,
        rng: random.Random,
        labels: Mapping[str, str] | None = None,
    ) -> list[Case]:
        labels = labels or {}
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
"""By the name in a config."""
