"""Start, peak and end of a curve, and 95 % intervals.

An interval over seeds tells how much another seed may differ. An interval over the steps of one run
tells only how much its own steps scatter; the page says which one it shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from ..evaluation.run_metrics import SPAN, Levels, levels, mean_of_known

__all__ = [
    "MeanInterval",
    "interval",
    "known",
    "levels_of",
    "moving_mean",
    "span_of",
    "welch",
]

# Two-sided 95 % points of Student's t by degrees of freedom; scipy is no part of the extra.
_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)


@dataclass(frozen=True)
class MeanInterval:
    """A mean with the half width of its 95 % interval; None where there is only one value."""

    mean: float
    half: float | None
    n: int


def known(values: Sequence[float | None]) -> list[float]:
    """The values without the gaps."""
    return [value for value in values if value is not None]


def span_of(steps: int) -> int:
    """Steps over which start and end are means: 10 as in `summary.json`, fewer in a short run."""
    return SPAN if steps >= 2 * SPAN else max(1, steps // 4)


def levels_of(values: Sequence[float | None]) -> Levels:
    """Start, peak and end of a curve, over spans that suit its length."""
    return levels(values, span_of(len(values)))


def interval(values: Sequence[float | None]) -> MeanInterval | None:
    """Mean and 95 % interval (Student's t) of the known values; None where there are none."""
    present = known(values)
    if not present:
        return None
    if len(present) < 2:
        return MeanInterval(present[0], None, 1)
    half = _t(len(present) - 1) * stdev(present) / math.sqrt(len(present))
    return MeanInterval(fmean(present), half, len(present))


def welch(before: Sequence[float | None], after: Sequence[float | None]) -> MeanInterval | None:
    """Mean of `after` minus mean of `before`, for independent values; None where one is missing."""
    one, two = known(before), known(after)
    if not one or not two:
        return None
    change = fmean(two) - fmean(one)
    if len(one) < 2 or len(two) < 2:
        return MeanInterval(change, None, min(len(one), len(two)))
    parts = [stdev(side) ** 2 / len(side) for side in (one, two)]
    if not sum(parts):
        return MeanInterval(change, 0.0, min(len(one), len(two)))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(side) - 1) for part, side in zip(parts, (one, two), strict=True)
    )
    return MeanInterval(change, _t(int(freedom)) * math.sqrt(sum(parts)), min(len(one), len(two)))


def moving_mean(values: Sequence[float | None], window: int) -> list[float | None]:
    """Mean of the known values among the last `window` steps, at each step."""
    return [mean_of_known(values[max(0, end - window) : end]) for end in range(1, len(values) + 1)]


def _t(freedom: int) -> float:
    if freedom <= len(_T):
        return _T[max(freedom, 1) - 1]
    return 1.96 + 2.5 / freedom  # within 0.002 of the exact value
