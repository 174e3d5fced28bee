"""Sampling completions, and cutting a batch into micro-batches without padding work."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .language_model import LanguageModel, Weights

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Chunk", "Sample", "Sampling", "chunk_of", "chunks", "sample"]

CHUNK_TOKENS = 1024
"""Tokens of a micro-batch on a CPU, where more would leave its caches."""


@dataclass(frozen=True)
class Sample:
    """A prompt and the completion that the policy sampled for it, as token ids."""

    prompt: list[int]
    completion: list[int]
    """With its end token, if it came to one; never empty."""
    ended: bool

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled."""

    limit: int
    """Most tokens of a completion."""
    ends: frozenset[int]
    """Tokens that end a completion."""
    pad: int
    temperature: float = 1.0
    top_p: float = 1.0


def sample(
    lm: LanguageModel,
    weights: Weights,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    generator: Generator,
    all_done: Callable[[bool], bool] | None = None,
) -> list[Sample]:
    """One completion per prompt. Rows that have ended leave the batch.

    Args:
        lm: The policy.
        weights: Used instead of its own.
        prompts: Token ids.
        sampling: Limits.
        generator: Source of all randomness, on the model's device.
        all_done: Tells whether all ranks are done; for models whose calls are collective.
    """
    import torch

    with torch.no_grad():
        return _Decoding(lm, weights, prompts, sampling, generator, all_done).run()


class _Decoding:
    def __init__(
        self,
        lm: LanguageModel,
        weights: Weights,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        generator: Generator,
        all_done: Callable[[bool], bool] | None,
    ) -> None:
        self.lm, self.weights, self.prompts = lm, weights, prompts
        self.sampling, self.generator, self.all_done = sampling, generator, all_done
        self.rows = list(range(len(prompts)))
        """Which prompts are still in the batch."""
        self.completions: list[list[int]] = [[] for _ in prompts]
        self.ended = [False] * len(prompts)

    def run(self) -> list[Sample]:
        import torch

        device = self.generator.device
        ids, self.mask = _left_padded(self.prompts, self.sampling.pad, device)
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)
        length = ids.shape[1] + self.sampling.limit
        self.decoder = self.lm.decoder(self.weights, len(ids), length)
        for _ in range(self.sampling.limit):
            tokens = self._draw(self.decoder.next_logits(ids, self.mask, positions).float())
            left = self._take(tokens.tolist())
            if self._done(not left):
                break
            if left and len(left) < len(self.rows):
                tokens, positions = self._compact(left, tokens, positions)
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        return [
            Sample(list(p), c, e)
            for p, c, e in zip(self.prompts, self.completions, self.ended, strict=True)
        ]

    def _draw(self, logits: Tensor) -> Tensor:
        import torch

        probs = torch.softmax(logits / self.sampling.temperature, -1)
        if self.sampling.top_p < 1:
            ordered, places = probs.sort(-1, descending=True)
            before = ordered.cumsum(-1) - ordered
            ordered = ordered.masked_fill(before >= self.sampling.top_p, 0)
            probs = torch.zeros_like(probs).scatter(-1, places, ordered)
        # By the inverse of the distribution function: one random number per row, not per entry.
        heights = probs.double().cumsum(-1)
        drawn = torch.rand(
            len(probs), 1, dtype=torch.double, device=probs.device, generator=self.generator
        )
        found = torch.searchsorted(heights, drawn * heights[:, -1:], right=True)
        return found.clamp(max=probs.shape[1] - 1)[:, 0]

    def _take(self, tokens: list[int]) -> list[int]:
        """Append the tokens; which places of the batch go on."""
        left = []
        for place, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if self.ended[row]:
                continue
            self.completions[row].append(token)
            self.ended[row] = token in self.sampling.ends
            if not self.ended[row]:
                left.append(place)
        return left

    def _done(self, done: bool) -> bool:
        return self.all_done(done) if self.all_done is not None else done

    def _compact(self, left: list[int], tokens: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        import torch

        index = torch.tensor(left, device=tokens.device)
        self.decoder.keep(index)
        self.rows = [self.rows[place] for place in left]
        self.mask = self.mask[index]
        return tokens[index], positions[index]


def _left_padded(prompts: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)


@dataclass(frozen=True)
class Chunk:
    """A micro-batch: sequences padded on the right, and where their completions are."""

    rows: tuple[int, ...]
    ids: Tensor
    """[B, T]."""
    where: Tensor
    """[M]: positions in the flattened `ids` that predict the completions' tokens, row by row."""
    tokens: Tensor
    """[M]."""


def chunks(
    samples: Sequence[Sample], rows: Sequence[int], *, most: int | None, tokens: int | None
) -> list[tuple[int, ...]]:
    """Divide `rows` into micro-batches of sequences of similar length.

    Args:
        samples: All of the batch.
        rows: Those to divide.
        most: Rows of a micro-batch, at most.
        tokens: Tokens of a micro-batch, padding included, where that is more than one row.
    """
    ordered = sorted(rows, key=lambda row: (-len(samples[row]), row))
    found: list[list[int]] = []
    for row in ordered:
        last = found[-1] if found else None
        if (
            last is None
            or (most is not None and len(last) >= most)
            or (tokens is not None and (len(last) + 1) * len(samples[last[0]]) > tokens)
        ):
            found.append([row])
        else:
            last.append(row)
    return [tuple(chunk) for chunk in found]


def chunk_of(samples: Sequence[Sample], rows: Sequence[int], pad: int, device: Any) -> Chunk:
    """The tensors of a micro-batch."""
    import torch

    longest = max(len(samples[row]) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    where: list[int] = []
    tokens: list[int] = []
    for place, row in enumerate(rows):
        one = samples[row]
        ids[place, : len(one)] = torch.tensor(one.prompt + one.completion)
        first = place * longest + len(one.prompt) - 1
        where += range(first, first + len(one.completion))
        tokens += one.completion
    places = torch.tensor(where), torch.tensor(tokens)
    return Chunk(tuple(rows), ids.to(device), places[0].to(device), places[1].to(device))
