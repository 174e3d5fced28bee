"""What is measured on texts: length, repetition, likeness, phrases."""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections.abc import Sequence

__all__ = ["compressed", "distinct", "log_odds_z", "percentile", "phrases", "words"]

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words(text: str) -> list[str]:
    """Lower-case words, without marks."""
    return _WORD.findall(text.lower())


def distinct(tokens: Sequence[str]) -> float:
    """Share of different word pairs; 1 for a text of fewer than two words."""
    pairs = list(itertools.pairwise(tokens))
    return len(dict.fromkeys(pairs)) / len(pairs) if pairs else 1.0


def compressed(texts: Sequence[str]) -> float:
    """Compressed size per byte of all texts together; 1 for nothing."""
    raw = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 6)) / len(raw) if raw else 1.0


def phrases(tokens: Sequence[str]) -> set[str]:
    """Runs of 1 to 4 words, each once. A single word counts only from four letters on: "the"
    rises with length alone. For counting only: a set has no order."""
    found = {word for word in tokens if len(word) >= 4}
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(tokens)]
    found.update(pairs)
    found.update(f"{a} {b}" for a, b in zip(pairs, tokens[2:], strict=False))
    found.update(f"{a} {b}" for a, b in zip(pairs, pairs[2:], strict=False))
    return found


def log_odds_z(now: float, of_now: float, then: float, of_then: float) -> float:
    """z of the log-odds ratio, with half a count added to each cell (Haldane)."""
    a, b = now + 0.5, max(0.0, of_now - now) + 0.5
    c, d = then + 0.5, max(0.0, of_then - then) + 0.5
    return (math.log(a / b) - math.log(c / d)) / math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
