"""Quality of a rubric with a reward model: how often it prefers what people preferred.

    pairs = read_table("llmbar.json", lambda row: read_pair(row, "Natural")).rows
    outcomes = await score_pairs(reward, pairs)
    accuracy(outcomes)

Beside it stand two baselines: always preferring the longer response, and always calling it a tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..data import SourceRow
from ..errors import ChatTransportError, DataError
from ..records import Judgement, Rollout
from ..reward import EvolvingReward
from ..sanitize import count_words
from .intervals import mean_interval

__all__ = ["JudgedPair", "PairAccuracy", "PreferencePair", "accuracy", "read_pair", "score_pairs"]

CHUNK = 32
"""Pairs that are scored at once, and per progress update."""


@dataclass(frozen=True)
class PreferencePair:
    """Two responses to a prompt, of which people preferred the first."""

    prompt: str
    chosen: str
    rejected: str
    subset: str = ""


@dataclass(frozen=True)
class JudgedPair:
    """A pair with the judgements of both responses."""

    pair: PreferencePair
    chosen: Judgement
    rejected: Judgement

    @property
    def credit(self) -> float | None:
        """1 where the chosen response got the higher reward, 0.5 for a tie, 0 otherwise.

        None where one of the two is unscored, which is neither right nor wrong.
        """
        if self.chosen.normalized_reward is None or self.rejected.normalized_reward is None:
            return None
        return _credit(self.chosen.normalized_reward, self.rejected.normalized_reward)


@dataclass(frozen=True)
class PairAccuracy:
    """Accuracy on some pairs, whose fields are the keys of its JSON. A tie counts half."""

    accuracy: float | None
    """Share of pairs, 0 to 1; None where nothing was scored."""
    low: float | None
    high: float | None
    strict_accuracy: float | None
    """The same with a tie counted as wrong."""
    pairs: int
    n: int
    """Number of pairs with both rewards."""
    ties: int
    unscored: int
    baselines: dict[str, float]
    """Accuracy of always preferring the longer response (`length`) and of always calling it a tie
    (`tie`), over all pairs."""


def read_pair(row: SourceRow, subset: str = "") -> PreferencePair:
    """A preference pair in either of two forms.

    Args:
        row: It has `prompt`, `chosen`, `rejected`; or, as in LLMBar, `input`, `output_1`,
            `output_2` and `label` (1 or 2, the better one). `subset` is optional. Conversations
            under `chosen` and `rejected` may begin with the prompt.
        subset: Subset of rows that name none.

    Raises:
        DataError: A column is missing or holds no text, or a label is neither 1 nor 2.
    """
    named = str(row.value("subset")) if row.value("subset") is not None else subset
    if not row.has("output_1"):
        chosen, rejected = row.completion("chosen"), row.completion("rejected")
        asked = row.prompt("prompt") if row.has("prompt") else row.opening("chosen")
        return PreferencePair(asked, chosen, rejected, named)
    outputs = [row.completion(name) for name in ("output_1", "output_2")]
    label = row.value("label")
    if label not in (1, 2, "1", "2"):
        raise DataError(f"{row.where}: label {label!r:.40} is neither 1 nor 2")
    better = int(label) - 1
    return PreferencePair(
        row.prompt("input", "prompt"), outputs[better], outputs[1 - better], named
    )


async def score_pairs(
    reward: EvolvingReward,
    pairs: Sequence[PreferencePair],
    progress: Callable[[int, int], None] | None = None,
) -> list[JudgedPair]:
    """Score both responses of every pair under the rubric in effect, each by itself.

    Judgements that the reward's store holds are reused.

    Args:
        reward: The reward. Set its `max_unscored` to 1, else a few failures end the scoring.
        pairs: Pairs to score.
        progress: Called with the number of pairs that are done, and of all pairs.

    Raises:
        ChatTransportError: None of the first pairs could be scored.
        MPOError: Any error of `EvolvingReward.score`.
    """
    outcomes: list[JudgedPair] = []
    for start in range(0, len(pairs), CHUNK):
        chunk = pairs[start : start + CHUNK]
        rollouts = [
            Rollout(prompt=pair.prompt, completion=text, mode="eval")
            for pair in chunk
            for text in (pair.chosen, pair.rejected)
        ]
        judgements = await reward.score(rollouts)
        outcomes += [
            JudgedPair(pair, *judgements[2 * n : 2 * n + 2]) for n, pair in enumerate(chunk)
        ]
        if progress is not None:
            progress(len(outcomes), len(pairs))
        if all(o.chosen.reward is None and o.rejected.reward is None for o in outcomes):
            # To continue would send every pair to a dead endpoint, with all retries.
            raise ChatTransportError(
                f"none of the first {len(outcomes)} pairs could be scored; the first because of: "
                f"{outcomes[0].chosen.unscored}"
            )
    return outcomes


def accuracy(outcomes: Sequence[JudgedPair]) -> PairAccuracy:
    """Share of pairs on which the rewards prefer what people preferred.

    Args:
        outcomes: At least one outcome.
    """
    known = [(credit, o.pair.prompt) for o in outcomes if (credit := o.credit) is not None]
    credits = [credit for credit, _ in known]
    lengths = [_credit(count_words(o.pair.chosen), count_words(o.pair.rejected)) for o in outcomes]
    interval = mean_interval(credits, [p for _, p in known]) if credits else None
    ties = credits.count(0.5)
    return PairAccuracy(
        accuracy=interval.value if interval else None,
        low=interval.low if interval else None,
        high=interval.high if interval else None,
        strict_accuracy=interval.value - 0.5 * ties / len(credits) if interval else None,
        pairs=len(outcomes),
        n=len(credits),
        ties=ties,
        unscored=len(outcomes) - len(credits),
        baselines={"length": sum(lengths) / len(lengths), "tie": 0.5},
    )


def _credit(chosen: float, rejected: float) -> float:
    return 0.5 if chosen == rejected else float(chosen > rejected)
