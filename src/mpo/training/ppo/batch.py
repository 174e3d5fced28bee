"""Cutting a batch into micro-batches with little padding.

Tensor shapes: B sequences of T tokens in a micro-batch; M completion tokens in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..generation import Sample

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CPU_TOKENS", "MicroBatch", "make_micro_batch", "split_rows"]

CPU_TOKENS = 1024
"""Tokens of a micro-batch on a CPU; more would not fit its caches."""


@dataclass(frozen=True)
class MicroBatch:
    """Sequences padded on the right, and the positions of their completions."""

    rows: tuple[int, ...]
    """Rows of the batch."""
    ids: Tensor
    """Token ids, [B, T]."""
    logit_positions: Tensor
    """Positions in the flattened `ids` that predict the completions' tokens, row by row: [M]."""
    tokens: Tensor
    """The completions' tokens, [M]."""


def split_rows(
    samples: Sequence[Sample], rows: Sequence[int], *, most: int | None, tokens: int | None
) -> list[tuple[int, ...]]:
    """Divide `rows` into micro-batches of sequences of similar length.

    Args:
        samples: All samples of the batch.
        rows: Rows to divide.
        most: Most rows of a micro-batch; None for no limit.
        tokens: Most tokens of a micro-batch of several rows, padding included; None for no limit.
    """
    ordered = sorted(rows, key=lambda row: (-len(samples[row]), row))
    parts: list[list[int]] = []
    for row in ordered:
        last = parts[-1] if parts else None
        if (
            last is None
            or (most is not None and len(last) >= most)
            # The first row of a part is its longest: the others are padded to it.
            or (tokens is not None and (len(last) + 1) * len(samples[last[0]]) > tokens)
        ):
            parts.append([row])
        else:
            last.append(row)
    return [tuple(part) for part in parts]


def make_micro_batch(
    samples: Sequence[Sample], rows: Sequence[int], pad: int, device: Any
) -> MicroBatch:
    """The tensors of a micro-batch; `pad` is the padding token."""
    import torch

    longest = max(len(samples[row]) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    positions: list[int] = []
    tokens: list[int] = []
    for place, row in enumerate(rows):
        sample = samples[row]
        ids[place, : len(sample)] = torch.tensor(sample.prompt + sample.completion)
        # The last token of the prompt predicts the first token of the completion.
        first = place * longest + len(sample.prompt) - 1
        positions += range(first, first + len(sample.completion))
        tokens += sample.completion
    return MicroBatch(
        tuple(rows),
        ids.to(device),
        torch.tensor(positions).to(device),
        torch.tensor(tokens).to(device),
    )
