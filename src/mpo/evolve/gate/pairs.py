"""Gate by labelled preference pairs: the proposal must agree with them as often as the head."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data import SourceRow, read_table
from ...judge import RewardModel
from ...records import Case, Refinement, Rollout
from ...rubric import Rubric
from ...task import Task
from .base import GateResult, ProbeScorer, Share
from .bootstrap import compare, win

__all__ = ["Pair", "Pairs", "load_pairs"]


@dataclass(frozen=True)
class Pair:
    """Two answers to one prompt, the better one named."""

    prompt: str
    better: str
    worse: str


def load_pairs(path: str | Path) -> tuple[Pair, ...]:
    """Read pairs from any file that `mpo.data` reads: `prompt`, `chosen` and `rejected`; or as in
    LLMBar, `input`, `output_1`, `output_2` and `label`, 1 or 2, the better output.

    Raises:
        DataError: The file cannot be read, or a row lacks a field; the message names it.
    """
    return tuple(read_table(path, _pair).rows)


def _pair(row: SourceRow) -> Pair:
    if not row.has("output_1") and row.has("chosen"):
        return Pair(row.prompt("prompt"), row.completion("chosen"), row.completion("rejected"))
    first, second = row.text("output_1"), row.text("output_2")
    label = row.value("label")
    if label not in (1, 2, "1", "2"):
        raise row.fault("label", f"must be 1 or 2, not {label!r:.40}")
    better, worse = (first, second) if str(label) == "1" else (second, first)
    return Pair(row.prompt("input", "prompt"), better, worse)


class Pairs:
    """Accept a proposal that agrees with labelled pairs at least as often as the head does.

    Refused if the share of pairs in the right order falls by more than `tolerance`, and does so
    in at least `confidence` of the bootstrap's resamples.

    Args:
        reward_model: Scores the texts.
        task: Its rules and prompts are the RM's.
        share: Function from scores to 0..1 (`mpo.judge.scale.normalized`).
        pairs: All labelled pairs.
        sample: Most pairs per check; they are drawn by seed and step.
        tolerance: Loss that is allowed, as a share of the pairs.
        confidence: Share of resamples that must show a loss.
        seed: Random seed for the sampling and the bootstrap.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        task: Task,
        share: Share,
        pairs: Sequence[Pair],
        *,
        sample: int = 32,
        tolerance: float = 0.05,
        confidence: float = 0.9,
        seed: int = 0,
    ) -> None:
        if not pairs:
            raise ValueError("pairs needs at least one labelled pair")
        self.reward_model, self.task, self.share = reward_model, task, share
        self.pairs = tuple(pairs)
        self.sample, self.seed = sample, seed
        self.tolerance, self.confidence = tolerance, confidence

    def calls(self, per_judgement: int = 1) -> int:
        """Most RM calls of one check.

        Args:
            per_judgement: Calls of one judgement.
        """
        return 4 * min(self.sample, len(self.pairs)) * per_judgement

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        proposal = refinement.rubric
        if proposal == parent:
            return GateResult(False, "the proposal is the rubric in effect")
        step = max((case.rollout.step for case in evidence), default=0)
        name = f"mpo:{self.seed}:pairs:{step}"
        chosen = random.Random(name).sample(self.pairs, min(self.sample, len(self.pairs)))
        texts = [t for p in chosen for t in (_as(p.prompt, p.better), _as(p.prompt, p.worse))]
        scorer = ProbeScorer(self.reward_model, self.task, self.share)
        head = await scorer.scores(texts, parent)
        new = await scorer.scores(texts, proposal)
        clusters = [
            [(win(head_good, head_bad), win(new_good, new_bad))]
            for head_good, head_bad, new_good, new_bad in zip(
                head[::2], head[1::2], new[::2], new[1::2], strict=True
            )
            # A pair counts only where all four answers are there.
            if head_good is not None
            and head_bad is not None
            and new_good is not None
            and new_bad is not None
        ]
        comparison = compare(clusters, name)
        figures = {"pairs_calls": float(scorer.asked), "pairs_unscored": float(scorer.unscored)}
        if comparison is None or 2 * comparison.pairs < len(chosen):
            why = f"{scorer.unscored} of {scorer.asked} answers on labelled pairs stayed unscored"
            return GateResult(False, why, figures, scorer.usage)
        figures |= {
            "pairs_count": float(comparison.pairs),
            "pairs_head": comparison.head,
            "pairs_new": comparison.new,
            "pairs_worse": comparison.worse,
        }
        if comparison.lost(self.tolerance, self.confidence):
            why = (
                f"it orders {comparison.new:.0%} of the labelled pairs correctly, "
                f"the head {comparison.head:.0%}"
            )
            return GateResult(False, why, figures, scorer.usage)
        why = (
            f"{comparison.new:.0%} of the labelled pairs in the right order "
            f"(head: {comparison.head:.0%})"
        )
        return GateResult(True, why, figures, scorer.usage)


def _as(prompt: str, completion: str) -> Rollout:
    return Rollout(prompt=prompt, completion=completion)
