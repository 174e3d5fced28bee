"""From a trainer's rows and texts to scored rollouts: the same for every engine in Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from ..data import plain
from ..records import Judgement, Mode, Rollout, content_hash
from ..reward import EvolvingReward

__all__ = ["GoldScorer", "make_rollout", "score_rollouts"]

GOLD = "gold"
"""Name of the gold scores in the store."""


class GoldScorer(Protocol):
    """Scores rollouts from outside. Its scores are stored, and never shown to a model."""

    def score(
        self, rollouts: Sequence[Rollout]
    ) -> Sequence[tuple[str, float | None, Mapping[str, float]]]:
        """Rollout id, score and the score's parts; None for "no score", never 0 for it."""
        ...


def make_rollout(
    prompt: str,
    completion: str,
    columns: Mapping[str, Any],
    *,
    step: int,
    index: int,
    mode: Mode = "train",
) -> Rollout:
    """The rollout of one completion.

    Args:
        prompt: The policy's prompt.
        completion: The policy's answer.
        columns: The other columns of the dataset's row; `cohort` names the rollout's cohort.
        step: Updates that the policy had when it sampled the completion.
        index: Position within the step, over all ranks.
        mode: `eval` keeps the rollout out of every meta step.
    """
    others = {name: plain(value) for name, value in columns.items()}
    cohort = str(others.pop("cohort", None) or "")
    return Rollout(
        prompt=prompt,
        completion=completion,
        columns=others,
        step=step,
        # Two rows may have the same prompt and want different answers.
        group=content_hash([prompt, others]) if others else "",
        index=index,
        cohort=cohort,
        mode=mode,
    )


async def score_rollouts(
    reward: EvolvingReward, rollouts: Sequence[Rollout], gold_scorer: GoldScorer | None = None
) -> list[Judgement]:
    """Judgements in order, under the rubric in effect; gold scores go to the store.

    Raises:
        UnscoredError: More rollouts stayed unscored than the reward allows.
        StoreError: The store cannot be written.
    """
    judgements = await reward.score(rollouts)
    if gold_scorer is not None:
        distinct = list({rollout.id: rollout for rollout in rollouts}.values())
        reward.store.add_external_scores(gold_scorer.score(distinct), name=GOLD)
    return judgements
