"""Paired comparison of two rubrics on the same pairs of texts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

__all__ = ["Comparison", "compare", "win"]

RESAMPLES = 400
"""Enough for a share of 0.9 to be known to ±0.03; 10 ms for 40 clusters."""


@dataclass(frozen=True)
class Comparison:
    """Result of two rubrics on the same pairs."""

    head: float
    """Share of pairs that the head puts in the right order; a tie counts half."""
    new: float
    """The same share for the proposal."""
    worse: float
    """Share of the resamples in which the proposal does worse than the head."""
    better: float
    """Share of the resamples in which it does better."""
    pairs: int

    @property
    def change(self) -> float:
        return self.new - self.head

    def lost(self, tolerance: float, confidence: float) -> bool:
        """True where the proposal does worse, by more than `tolerance` and not by chance."""
        return self.change < -tolerance and self.worse >= confidence

    def gained(self, tolerance: float, confidence: float) -> bool:
        """True where the proposal does better, by the same measure."""
        return self.change > tolerance and self.better >= confidence


def win(better: float, worse: float) -> float:
    """Score of a pair: 1 for the right order, 0 for the wrong one, 0.5 for a tie."""
    return 1.0 if better > worse else 0.0 if better < worse else 0.5


def compare(clusters: Sequence[Sequence[tuple[float, float]]], seed: str) -> Comparison | None:
    """Compare by a bootstrap over clusters; None without a pair.

    Args:
        clusters: Per original text, the wins (head, new) of its pairs: they are not independent,
            so whole clusters are drawn.
        seed: Random seed for the resampling.
    """
    clusters = [cluster for cluster in clusters if cluster]
    if not clusters:
        return None
    flat = [pair for cluster in clusters for pair in cluster]
    # Sums per cluster first: a resample then costs one addition per cluster.
    sums = [sum(new - head for head, new in cluster) for cluster in clusters]
    rng = random.Random(seed)
    changes = [sum(rng.choices(sums, k=len(sums))) for _ in range(RESAMPLES)]
    return Comparison(
        head=fmean(head for head, _ in flat),
        new=fmean(new for _, new in flat),
        worse=sum(change < 0 for change in changes) / RESAMPLES,
        better=sum(change > 0 for change in changes) / RESAMPLES,
        pairs=len(flat),
    )
