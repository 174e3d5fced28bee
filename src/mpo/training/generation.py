"""Sampling completions from a policy: one routine for PPO, for the arms without training and for
the completions of checkpoints.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from torch import Generator, Tensor

__all__ = ["Decodes", "Generates", "Sample", "Sampling", "end_tokens", "generate"]


@dataclass(frozen=True)
class Sample:
    """A prompt and the completion that the policy sampled for it, as token ids."""

    prompt: list[int]
    completion: list[int]
    """With its end token, if there is one; never empty."""
    ended: bool
    """True if the completion has an end token, i.e. was not cut."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


@dataclass(frozen=True)
class Sampling:
    """How completions are sampled."""

    max_tokens: int
    """Most tokens of a completion."""
    end_tokens: frozenset[int]
    """Tokens that end a completion."""
    pad_token: int
    """Token that fills up shorter prompts."""
    temperature: float = 1.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    """Probability mass that tokens are sampled from."""


class Decodes(Protocol):
    """Continues a batch of sequences token by token."""

    def next_logits(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Logits of the token after `ids` [B, T], which are added to the cache: [B, V]."""
        ...

    def keep(self, rows: Tensor) -> None:
        """Continue with these rows only."""
        ...


class Generates(Protocol):
    """A language model that `generate` can sample from."""

    def decoder(self, weights: Any, rows: int, length: int) -> Decodes:
        """A decoder for `rows` sequences of at most `length` tokens, padding included."""
        ...


def generate(
    lm: Generates,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    device: Any,
    generator: Generator | None = None,
    weights: Any = None,
    all_done: Callable[[bool], bool] | None = None,
) -> list[Sample]:
    """One completion per prompt.

    Args:
        lm: The policy.
        prompts: Token ids of each prompt.
        sampling: Limits and distribution.
        device: The model's device.
        generator: Source of all randomness, on the model's device. Rows that have ended leave the
            batch. None: torch's own random state, used as `generate` of transformers uses it, so
            that a seed gives the same texts; rows then stay in the batch.
        weights: Weights that replace the model's own.
        all_done: Says whether all ranks are done, from whether this one is; for models whose
            calls are collective.
    """
    import torch

    with torch.no_grad():
        return _Generation(lm, prompts, sampling, device, generator, weights, all_done).run()


def end_tokens(tokenizer: Any, model: Any) -> frozenset[int]:
    """Tokens that end a completion, by the tokenizer and the model's generation config.

    Chat models end a turn with another token than a text; their generation config knows it.
    """
    stated = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends = [tokenizer.eos_token_id, *(stated if isinstance(stated, list) else [stated])]
    return frozenset(int(end) for end in ends if end is not None)


class _Generation:
    """Sampling for one batch of prompts."""

    def __init__(
        self,
        lm: Generates,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        device: Any,
        generator: Generator | None,
        weights: Any,
        all_done: Callable[[bool], bool] | None,
    ) -> None:
        self.prompts, self.sampling = prompts, sampling
        self.generator, self.all_done = generator, all_done
        self.rows = list(range(len(prompts)))
        """Prompts that are in the batch, in the order of its rows."""
        self.completions: list[list[int]] = [[] for _ in prompts]
        self.ended = [False] * len(prompts)
        self.ids, self.mask = _left_padded(prompts, sampling.pad_token, device)
        length = self.ids.shape[1] + sampling.max_tokens
        self.decoder = lm.decoder(weights, len(prompts), length)

    def run(self) -> list[Sample]:
        import torch

        ids, positions = self.ids, (self.mask.cumsum(1) - 1).clamp(min=0)
        for _ in range(self.sampling.max_tokens):
            tokens = self._draw(self.decoder.next_logits(ids, self.mask, positions).float())
            running = self._append(tokens.tolist())
            if self._done(not running):
                break
            # Dropping rows would change what the others draw from torch's own random state.
            if self.generator is not None and running and len(running) < len(self.rows):
                tokens, positions = self._drop_ended(running, tokens, positions)
            ids, positions = tokens[:, None], positions[:, -1:] + 1
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        return [
            Sample(list(prompt), completion, ended)
            for prompt, completion, ended in zip(
                self.prompts, self.completions, self.ended, strict=True
            )
        ]

    def _draw(self, logits: Tensor) -> Tensor:
        """The next token of each row: logits [B, V] -> [B]."""
        import torch

        if self.sampling.temperature == 0:
            return logits.argmax(-1)
        probs = torch.softmax(logits / self.sampling.temperature, -1)
        if self.sampling.top_p < 1:
            ordered, places = probs.sort(-1, descending=True)
            likelier = ordered.cumsum(-1) - ordered  # mass of the tokens that come first
            ordered = ordered.masked_fill(likelier >= self.sampling.top_p, 0)
            probs = torch.zeros_like(probs).scatter(-1, places, ordered)
        if self.generator is None:
            return torch.multinomial(probs, 1)[:, 0]
        # By the inverse of the distribution function: one random number per row, not per entry.
        heights = probs.double().cumsum(-1)
        drawn = torch.rand(
            len(probs), 1, dtype=torch.double, device=probs.device, generator=self.generator
        )
        tokens = torch.searchsorted(heights, drawn * heights[:, -1:], right=True)
        return tokens.clamp(max=probs.shape[1] - 1)[:, 0]

    def _append(self, tokens: list[int]) -> list[int]:
        """Append the tokens; the batch rows that have not ended."""
        running = []
        for place, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if self.ended[row]:
                continue
            self.completions[row].append(token)
            self.ended[row] = token in self.sampling.end_tokens
            if not self.ended[row]:
                running.append(place)
        return running

    def _done(self, done: bool) -> bool:
        return self.all_done(done) if self.all_done is not None else done

    def _drop_ended(
        self, running: list[int], tokens: Tensor, positions: Tensor
    ) -> tuple[Tensor, Tensor]:
        import torch

        index = torch.tensor(running, device=tokens.device)
        self.decoder.keep(index)
        self.rows = [self.rows[place] for place in running]
        self.mask = self.mask[index]
        return tokens[index], positions[index]


def _left_padded(prompts: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    """Ids and mask of the prompts, [B, T] each; the mask is 0 for padding."""
    import torch

    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1
    return ids.to(device), mask.to(device)
