"""Intervals from a bootstrap that draws whole clusters (prompts), not single observations.

Two judgements of one prompt say less than judgements of two prompts: intervals that draw them one
by one are a fifth to a third too narrow (notes/judge.md §6). What is drawn is how often each
cluster counts, as one multinomial vector per resample; whatever is linear in the observations then
is a matrix product, and no observation is touched again.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

from .numeric import Floats, Ints, np

__all__ = ["RESAMPLES", "Interval", "cluster_numbers", "draws", "mean_interval", "percentiles"]

RESAMPLES = 1000
LEVEL = 0.95

_CELLS = 4_000_000  # of one block of weights: 32 MB, however many clusters there are


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % percentile interval; no bounds where one cluster is all there is."""

    value: float
    low: float | None
    high: float | None


def cluster_numbers(names: Sequence[Hashable]) -> tuple[Ints, int]:
    """The number of each observation's cluster, from 0, by first appearance; and how many."""
    known: dict[Hashable, int] = {}
    numbers = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.intp)
    return numbers, len(known)


def draws(clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of [resamples, clusters]: how often each cluster counts. The same for one seed."""
    rng = np.random.default_rng(seed)
    share = np.full(clusters, 1 / clusters)
    left = resamples
    while left:
        block = min(left, max(1, _CELLS // clusters))
        yield rng.multinomial(clusters, share, size=block).astype(np.float64)
        left -= block


def percentiles(values: Floats) -> tuple[Floats, Floats]:
    """Lower and upper bound over the first axis (resamples)."""
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values, [tail, 100 - tail], axis=0)
    return low, high


def mean_interval(
    values: Sequence[float],
    clusters: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The mean of at least one value, and how far it would move with other prompts.

    Args:
        values: Observations.
        clusters: The cluster (prompt) of each.
        resamples: Bootstrap draws.
        seed: Of the draws.
    """
    numbers, count = cluster_numbers(clusters)
    observed = np.asarray(values, dtype=np.float64)
    value = float(observed.mean())
    if count < 2:
        return Interval(value, None, None)
    sums = np.bincount(numbers, observed, count)
    sizes = np.bincount(numbers, minlength=count).astype(np.float64)
    means = [weights @ sums / (weights @ sizes) for weights in draws(count, resamples, seed)]
    low, high = percentiles(np.concatenate(means))
    return Interval(value, float(low), float(high))
