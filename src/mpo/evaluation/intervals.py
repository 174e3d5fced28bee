"""Confidence intervals over whole clusters (prompts), not single observations.

Two judgements of one prompt carry less information than judgements of two prompts: intervals that
count observations one by one are too narrow. Means have a closed form; everything else is from a
bootstrap, in which a resample is one multinomial vector that says how often each cluster counts.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import MissingExtraError

try:
    import numpy as np
    from numpy.typing import NDArray
except ImportError as error:  # numpy belongs to the extra `eval`; the wing imports it from here
    raise MissingExtraError("numpy", "eval") from error

__all__ = [
    "RESAMPLES",
    "Floats",
    "Interval",
    "Ints",
    "cluster_numbers",
    "intervals",
    "mean_interval",
    "np",
    "require",
    "resample_weights",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.intp]

RESAMPLES = 1000
LEVEL = 0.95

_CELLS = 4_000_000  # cells of one block of weights: 32 MB, however many clusters there are


def require(package: str) -> None:
    """Check that a package of the extra `eval` is installed.

    Raises:
        MissingExtraError: It is not.
    """
    if find_spec(package) is None:
        raise MissingExtraError(package, "eval")


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; no bounds where there is only one cluster."""

    value: float
    low: float | None
    high: float | None


def cluster_numbers(names: Sequence[Hashable]) -> tuple[Ints, int]:
    """The number of each observation's cluster, from 0 by first appearance, and their count."""
    known: dict[Hashable, int] = {}
    numbers = np.array([known.setdefault(name, len(known)) for name in names], dtype=np.intp)
    return numbers, len(known)


def resample_weights(clusters: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Blocks of [resamples, clusters]: how often each cluster counts. Equal for equal seeds."""
    rng = np.random.default_rng(seed)
    chances = np.full(clusters, 1 / clusters)
    left = resamples
    while left:
        block = min(left, max(1, _CELLS // clusters))
        yield rng.multinomial(clusters, chances, size=block).astype(np.float64)
        left -= block


def intervals(values: Floats) -> list[Interval]:
    """The interval of each figure.

    Args:
        values: Figures of shape [1 + resamples, figures]. The first row holds the figures
            themselves; where it is the only one, the intervals have no bounds.
    """
    if len(values) < 2:
        return [Interval(float(value), None, None) for value in values[0]]
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(values[1:], [tail, 100 - tail], axis=0)
    bounds = zip(values[0].tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(*row) for row in bounds]


def mean_interval(values: Sequence[float], clusters: Sequence[Hashable]) -> Interval:
    """Mean of at least one value from 0 to 1, with its 95 % interval over prompts.

    Wilson's score interval at the sample size that independent answers would need for the same
    standard error (the design effect of survey statistics). Unlike a bootstrap it does not
    collapse where all values are 0 or all are 1, and it stays between them.

    Args:
        values: Observations, 0 to 1: right or wrong, a tie as a half, or any score.
        clusters: The cluster (prompt) of each observation.
    """
    numbers, count = cluster_numbers(clusters)
    observed = np.asarray(values, dtype=np.float64)
    mean = min(1.0, max(0.0, float(observed.mean())))  # a score of 1 may be off by a rounding
    if count < 2:
        return Interval(mean, None, None)
    residuals = np.bincount(numbers, observed - mean, count)
    variance = float(residuals @ residuals) / len(observed) ** 2 * count / (count - 1)
    size = mean * (1 - mean) / variance if variance > 1e-12 else float(count)
    if np.isin(observed, (0.0, 0.5, 1.0)).all():
        size = min(size, float(len(observed)))  # luck in the draw makes no answer count twice
    require("scipy")
    from scipy.stats import t  # type: ignore[import-untyped]

    squared = float(t.ppf((1 + LEVEL) / 2, count - 1)) ** 2 / size
    middle = (mean + squared / 2) / (1 + squared)
    half = (squared * (mean * (1 - mean) + squared / 4)) ** 0.5 / (1 + squared)
    return Interval(mean, max(0.0, middle - half), min(1.0, middle + half))
