"""Scales of scores: whether two columns can be compared as they are, and one scale for both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import ConfigError, DataError

__all__ = ["ScoreScale", "read_scales", "same_scale"]


@dataclass(frozen=True)
class ScoreScale:
    """A scale from its lowest score to its highest."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}"

    def shares(self, scores: Sequence[float | None], name: str) -> list[float | None]:
        """The scores as shares of the scale, 0 to 1; None stays None.

        Raises:
            DataError: A score is not on the scale.
        """
        wrong = next((s for s in scores if s is not None and not self.low <= s <= self.high), None)
        if wrong is not None:
            raise DataError(f"{name}: {wrong:g} is not on the scale {self}: correct --scales")
        span = self.high - self.low
        return [None if s is None else round((s - self.low) / span, 9) for s in scores]

    @classmethod
    def of(cls, scores: Sequence[float | None]) -> ScoreScale:
        """The range of at least one score."""
        known = [score for score in scores if score is not None]
        return cls(min(known), max(known))


def read_scales(text: str) -> tuple[ScoreScale, ScoreScale]:
    """Read `1:5,0:10`, the scales of two columns, or `1:5`, the scale of both.

    Raises:
        ConfigError: The text is something else.
    """
    try:
        pairs = [tuple(float(part) for part in scale.split(":")) for scale in text.split(",")]
        scales = [ScoreScale(low, high) for low, high in pairs]
    except ValueError:
        scales = []
    finite = all(math.isfinite(s.high - s.low) and s.low < s.high for s in scales)
    if len(scales) not in (1, 2) or not finite:
        raise ConfigError(f"--scales {text!r}: write LOW:HIGH,LOW:HIGH, or LOW:HIGH for both")
    return scales[0], scales[-1]


def same_scale(one: Sequence[float | None], other: Sequence[float | None]) -> bool:
    """True if two columns, each with a score, can be taken for one scale: they have the same lowest
    and highest score, or both are shares between 0 and 1.

    Scores of 1 to 5 beside scores of 1 to 10 could be one scale that a judge uses by half. Nobody
    can tell from the scores, so they are not taken for one.
    """
    ranges = ScoreScale.of(one), ScoreScale.of(other)
    if ranges[0] == ranges[1]:
        return True
    shares = all(r.low >= 0 and r.high <= 1 for r in ranges)
    return shares and all(any(s is not None and s % 1 for s in column) for column in (one, other))
