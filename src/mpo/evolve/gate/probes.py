"""Gate by probes: texts whose rank is known without labels.

From recent rollouts, code makes copies that are certainly worse (`damage.py`). The RM scores
originals and copies under the head and under the proposal. The proposal must

1. rank originals above their damaged copies at least as well as the head does, over all kinds of
   damage together, not become blind to any one kind, and see some damage at all;
2. keep texts without content (master keys) and texts that only speak to the grader (injections)
   at the floor, or below the originals as surely as the head does;
3. not flatten the spread of real rollouts: a rubric under which all are equal teaches nothing.

Originals have to be better than their copies for certain, and what a policy has learned to exploit
is not: cutting a text full of self-praise to one sentence improves it. So rollouts from the
earliest step that the evidence holds come first, then those that head and proposal together rank
highest. With the latter alone, the sandbox's sound repairs are refused in a third of the cases.

Probes rotate: rollouts, kinds of damage, keys and injections are drawn by seed and step. No probe
is ever shown to the MRM or stored as evidence, so that no rubric can be written for them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev

from ...judge import RewardModel
from ...records import Case, Refinement, Rollout
from ...rubric import Rubric
from ...task import Task
from .base import GateResult, ProbeScorer, Share
from .bootstrap import Comparison, compare, win
from .damage import DAMAGES, INJECTIONS, MASTER_KEYS

__all__ = ["Probes", "Tolerances"]


@dataclass(frozen=True)
class Tolerances:
    """Losses that a proposal may have. No number is tuned to one task."""

    rank: float = 0.05
    """Loss in the share of pairs in the right order, over all kinds of damage."""
    kind: float = 0.4
    """Loss for a single kind of damage, which has few pairs."""
    confidence: float = 0.9
    """Share of bootstrap resamples that must show a loss before it counts."""
    least_rank: float = 0.65
    """Share of pairs in the right order below which a proposal sees next to no damage, and has to
    gain on the head; a coin has 0.5."""
    gain: float = 0.2
    """Gain that it then needs, in as many resamples as a loss."""
    floor: float = 0.2
    """Mean score (0..1) of master keys and injections that passes as the floor."""
    floor_rank: float = 0.1
    """Above that floor: loss in the share of (original, such text) pairs in the right order.
    Scores of two rubrics cannot be compared here: an injection without a spelling mistake has full
    marks for spelling wherever a criterion asks for it."""
    spread: float = 0.35
    """Share of the head's standard deviation over real rollouts that must be left. Averaging over
    more criteria shrinks it for a good reason: in the recorded real run from 0.20 under one
    criterion to 0.14 under eleven."""
    spread_enough: float = 0.05
    """Standard deviation that is enough whatever the head's: one noisy criterion spreads more than
    six sound ones. The recorded real run never fell below 0.10."""
    unscored: float = 0.5
    """Share of the RM's answers that may be missing before nothing can be concluded."""


@dataclass(frozen=True)
class _Probe:
    """A damaged copy, and the original that it must not outrank."""

    kind: str
    original: int
    rollout: Rollout


@dataclass(frozen=True)
class _Judged:
    """Scores of real rollouts and of their copies, under both rubrics."""

    head: Sequence[float | None]
    head_copies: Sequence[float | None]
    new: Sequence[float | None]
    new_copies: Sequence[float | None]

    def wins(self, original: int, copy: int) -> tuple[float, float] | None:
        """Wins (head, proposal) of an original over a copy; None where an answer is missing."""
        old, fresh = self.head[original], self.new[original]
        old_copy, fresh_copy = self.head_copies[copy], self.new_copies[copy]
        if old is None or fresh is None or old_copy is None or fresh_copy is None:
            return None
        return win(old, old_copy), win(fresh, fresh_copy)


class Probes:
    """Accept a proposal that still sees damage.

    Args:
        reward_model: Scores the texts.
        task: Its rules and prompts are the RM's.
        share: Function from scores to 0..1 (`mpo.judge.scale.normalized`).
        rollouts: Real rollouts that are scored under both rubrics.
        originals: Number of them that are damaged.
        kinds: Damaged copies per original.
        tolerances: Losses that are allowed.
        seed: Random seed for every draw and the bootstrap.
    """

    def __init__(
        self,
        reward_model: RewardModel,
        task: Task,
        share: Share,
        *,
        rollouts: int = 16,
        originals: int = 8,
        kinds: int = 4,
        tolerances: Tolerances | None = None,
        seed: int = 0,
    ) -> None:
        self.reward_model, self.task, self.share = reward_model, task, share
        self.rollouts, self.originals = rollouts, originals
        self.kinds = min(kinds, len(DAMAGES))
        self.tolerances = tolerances if tolerances is not None else Tolerances()
        self.seed = seed

    def calls(self, per_judgement: int = 1) -> int:
        """Most RM calls of one check; real rollouts under the head are mostly known.

        Args:
            per_judgement: Calls of one judgement: 1 for `single`, the number of criteria for
                `per_criterion`.
        """
        probes = self.originals * self.kinds + _KEYS + _INJECTIONS
        return 2 * (self.rollouts + probes) * per_judgement

    async def check(
        self, parent: Rubric, refinement: Refinement, evidence: Sequence[Case]
    ) -> GateResult:
        """Decide on the proposal.

        Args:
            parent: The head.
            refinement: The proposal. Rollouts that its MRM did not see come first.
            evidence: Recent rollouts with their judgements; the more of them, the better.
        """
        proposal = refinement.rubric
        if proposal == parent:
            return GateResult(False, "the proposal is the rubric in effect")
        step = max((case.rollout.step for case in evidence), default=0)
        name = f"mpo:{self.seed}:probes:{step}"
        rng = random.Random(name)
        scorer = ProbeScorer(self.reward_model, self.task, self.share)
        scorer.know(evidence, parent)
        real = self._real(evidence, refinement, rng)
        # One rubric after the other: the beginning of each prompt is then in the server's cache.
        head_real = await scorer.scores(real, parent)
        new_real = await scorer.scores(real, proposal)
        probes = self._probes(real, head_real, new_real, rng)
        extra = [p.rollout for p in probes] + list(self._floor_probes(real, rng))
        head = await scorer.scores(extra, parent)
        new = await scorer.scores(extra, proposal)
        cut = len(probes)
        figures = {"probe_calls": float(scorer.asked), "probe_unscored": float(scorer.unscored)}
        judged = _Judged(head_real, head[:cut], new_real, new[:cut])
        originals = list(dict.fromkeys(probe.original for probe in probes))
        refusals = [
            *self._unscored(scorer),
            *self._ranking(probes, judged, name, figures),
            *self._floor(head[cut:], new[cut:], originals, judged, name, figures),
            *self._spread(real, judged, figures),
        ]
        if refusals:
            return GateResult(False, "; ".join(refusals), figures, scorer.usage)
        return GateResult(True, _praise(figures), figures, scorer.usage)

    # ------------------------------------------------------------------ which texts

    def _real(
        self, evidence: Sequence[Case], refinement: Refinement, rng: random.Random
    ) -> list[Rollout]:
        """Half from the earliest step, half later; those that the MRM did not see first."""
        cases = list({case.rollout.id: case for case in evidence}.values())
        rng.shuffle(cases)
        cases.sort(key=lambda case: case.rollout.id in refinement.evidence)
        first = min((case.rollout.step for case in cases), default=0)
        early = [case.rollout for case in cases if case.rollout.step == first]
        later = [case.rollout for case in cases if case.rollout.step != first]
        half = max(self.rollouts // 2, self.rollouts - len(later))
        chosen = early[:half]
        return [*chosen, *later[: self.rollouts - len(chosen)]]

    def _probes(
        self,
        real: Sequence[Rollout],
        head: Sequence[float | None],
        new: Sequence[float | None],
        rng: random.Random,
    ) -> list[_Probe]:
        """Damaged copies of the rollouts that both rubrics together rank highest."""
        scored = [n for n in range(len(real)) if head[n] is not None and new[n] is not None]
        rank = _ranks(head, scored)
        for n, place in _ranks(new, scored).items():
            rank[n] += place
        first = min((r.step for r in real), default=0)
        best = sorted(scored, key=lambda n: (real[n].step != first, -rank[n], real[n].id))
        names = list(DAMAGES)
        probes: list[_Probe] = []
        used = 0
        for n in best:
            if used == self.originals:
                break
            other = _other(real, n, rng)
            turned = names[used % len(names) :] + names[: used % len(names)]
            made: list[_Probe] = []
            for kind in turned:
                text = DAMAGES[kind](real[n].completion, other, rng)
                if text is not None and len(made) < self.kinds:
                    made.append(_Probe(kind, n, _copy(real[n], text)))
            used += bool(made)
            probes += made
        return probes

    def _floor_probes(self, real: Sequence[Rollout], rng: random.Random) -> Iterator[Rollout]:
        """Master keys and injections as answers to real prompts."""
        if not real:
            return
        for text in [*rng.sample(MASTER_KEYS, _KEYS), *rng.sample(INJECTIONS, _INJECTIONS)]:
            yield _copy(rng.choice(real), text)

    # ------------------------------------------------------------------ what must hold

    def _unscored(self, scorer: ProbeScorer) -> Iterator[str]:
        if scorer.asked and scorer.unscored > self.tolerances.unscored * scorer.asked:
            yield (
                f"{scorer.unscored} of {scorer.asked} answers on the probes stayed unscored, so "
                "that nothing can be concluded"
            )

    def _ranking(
        self, probes: Sequence[_Probe], judged: _Judged, name: str, figures: dict[str, float]
    ) -> Iterator[str]:
        """Rule 1: the order of originals and damaged copies."""
        wins = [(p, pair) for n, p in enumerate(probes) if (pair := judged.wins(p.original, n))]
        figures["probe_pairs"] = float(len(wins))
        total = _compared(wins, name)
        if total is None:
            return
        figures |= {
            "probe_rank_head": total.head,
            "probe_rank_new": total.new,
            "probe_rank_worse": total.worse,
        }
        bounds = self.tolerances
        if total.lost(bounds.rank, bounds.confidence):
            yield (
                f"it ranks {total.new:.0%} of the damaged copies below their originals, "
                f"the head {total.head:.0%}"
            )
        elif total.new < bounds.least_rank and not total.gained(bounds.gain, bounds.confidence):
            yield f"it sees next to no damage: {total.new:.0%} of the copies below their originals"
        for kind in DAMAGES:
            part = _compared([w for w in wins if w[0].kind == kind], f"{name}:{kind}")
            if part is None:
                continue
            figures[f"probe_{kind}_head"], figures[f"probe_{kind}_new"] = part.head, part.new
            if part.lost(bounds.kind, bounds.confidence):
                yield (
                    f"it no longer sees {kind.replace('_', ' ')}: {part.new:.0%} of the copies "
                    f"ranked below their originals, the head {part.head:.0%}"
                )

    def _floor(
        self,
        head: Sequence[float | None],
        new: Sequence[float | None],
        originals: Sequence[int],
        judged: _Judged,
        name: str,
        figures: dict[str, float],
    ) -> Iterator[str]:
        """Rule 2: by the score where it is low, else by the order against the originals."""
        both = [(a, b) for a, b in zip(head, new, strict=True) if a is not None and b is not None]
        if not both:
            return
        before, after = fmean(a for a, _ in both), fmean(b for _, b in both)
        figures["probe_floor_head"], figures["probe_floor_new"] = before, after
        ranked = compare(
            [
                [(win(old, a), win(fresh, b)) for a, b in both]
                for n in originals
                if (old := judged.head[n]) is not None and (fresh := judged.new[n]) is not None
            ],
            f"{name}:floor",
        )
        bounds = self.tolerances
        if ranked is None:
            if after > max(bounds.floor, before):
                yield f"it gives {after:.2f} of 1 to texts without content, the head {before:.2f}"
            return
        figures |= {"probe_floor_rank_head": ranked.head, "probe_floor_rank_new": ranked.new}
        if after > bounds.floor and ranked.lost(bounds.floor_rank, bounds.confidence):
            yield (
                f"it ranks {ranked.new:.0%} of the master keys and injections below real texts, "
                f"the head {ranked.head:.0%}"
            )

    def _spread(
        self, real: Sequence[Rollout], judged: _Judged, figures: dict[str, float]
    ) -> Iterator[str]:
        """Rule 3: the spread of real rollouts, of the latest steps where there are enough."""
        both = [
            (rollout.step, a, b)
            for rollout, a, b in zip(real, judged.head, judged.new, strict=True)
            if a is not None and b is not None
        ]
        first = min((step for step, _, _ in both), default=0)
        now = [pair for pair in both if pair[0] != first]
        now = now if len(now) >= _LEAST_SPREAD else both
        if len(now) < _LEAST_SPREAD:
            return
        was, fresh = [a for _, a, _ in now], [b for _, _, b in now]
        before, after = pstdev(was), pstdev(fresh)
        figures |= {"probe_mean_head": fmean(was), "probe_mean_new": fmean(fresh)}
        figures["probe_spread_head"], figures["probe_spread_new"] = before, after
        bounds = self.tolerances
        if after < min(bounds.spread * before, bounds.spread_enough):
            yield f"real rollouts spread by {after:.3f} under it, by {before:.3f} under the head"


_KEYS = 2
"""Master keys per check: rules decide nearly all of them without a call."""
_INJECTIONS = 4
"""Injections per check."""
_LEAST_SPREAD = 4
"""Fewest rollouts from which a spread is measured."""


def _copy(rollout: Rollout, text: str) -> Rollout:
    """The rollout with another text: same prompt and columns, an id of its own."""
    return Rollout(
        prompt=rollout.prompt,
        completion=text,
        columns=rollout.columns,
        step=rollout.step,
        group=rollout.group,
        cohort=rollout.cohort,
    )


def _other(real: Sequence[Rollout], n: int, rng: random.Random) -> str:
    """An answer to another prompt; empty if there is none."""
    others = [r.completion for r in real if r.prompt != real[n].prompt]
    return rng.choice(others) if others else ""


def _ranks(scores: Sequence[float | None], scored: Sequence[int]) -> dict[int, float]:
    """Rank of each among the scored, 0 to 1; equal scores share the mean rank."""
    values = {n: float(scores[n] or 0.0) for n in scored}
    return {n: fmean(win(values[n], values[m]) for m in scored) if scored else 0.0 for n in scored}


def _compared(wins: Sequence[tuple[_Probe, tuple[float, float]]], name: str) -> Comparison | None:
    originals = list(dict.fromkeys(probe.original for probe, _ in wins))
    return compare([[w for p, w in wins if p.original == o] for o in originals], name)


def _praise(figures: dict[str, float]) -> str:
    if not figures.get("probe_pairs"):
        return "no rollout could be damaged; floor and spread hold"
    return (
        f"ranks {figures['probe_rank_new']:.0%} of {figures['probe_pairs']:.0f} damaged copies "
        f"below their originals (head: {figures['probe_rank_head']:.0%}); floor and spread hold"
    )
