"""Canaries: texts of known rank, scored under each rubric soon after it takes effect.

The good ones are the best-scored rollouts of the run's first step: the policy had not learned to
exploit any rubric then, and they are texts of this policy. The bad ones are worse than those by
construction: one of their sentences over and over, their title alone, the same text as an answer to
another prompt, master keys and injections. A bad text that a task rule decides is left out: it says
nothing about the rubric.

They come in two halves, from different originals. Half 0 is read at the first step after a switch,
half 1 at the second, and both readings are compared with those of the rubric before: two
independent looks. A third would repeat the first, since texts, rubric and RM do not change.
Readings are kept as judgements of mode `canary`: paid for once, never evidence.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from ..evolve.gate import DAMAGES, INJECTIONS, MASTER_KEYS, compare, win
from ..evolve.schedule import seeded
from ..judge.scorer import Scorer
from ..records import Case, Decision, Rollout
from ..rubric import Rubric
from ..sanitize import clean
from ..store import Store
from ..task.rules import first_rule
from . import thresholds

__all__ = [
    "CANARIES_PER_RUBRIC",
    "HALVES",
    "Canaries",
    "Canary",
    "CanaryFailure",
    "auc",
    "canary_figures",
    "shortfall",
]

HALVES = 2
"""Steps after a switch at which canaries are read, each time others."""
GOOD = 4
"""Good texts per half."""
CANARIES_PER_RUBRIC = HALVES * (3 * GOOD + 3)
"""Most judgements that a rubric's canaries need: each good text has two bad ones, and each half two
injections and a master key."""

LOSS, CONFIDENCE = 0.1, 0.9
"""Loss in the share of (good, bad) pairs in the right order that fails a reading, and the share of
bootstrap resamples over the good texts that must show one."""


@dataclass(frozen=True)
class Canary:
    """A text of known rank, as the RM scored it at this step."""

    name: str
    good: bool
    score: float | None
    """0 to 1; None is unscored, and left out."""
    floor: bool = True
    """Set for a bad text that says nothing at all (a master key, an injection): it has to stay at
    the floor. Other bad texts only have to rank below the good ones."""


def auc(canaries: Iterable[Canary]) -> float | None:
    """Share of (good, bad) pairs in the right order; None without both kinds."""
    scored = [(c.good, c.score) for c in canaries if c.score is not None]
    good = [score for is_good, score in scored if is_good]
    bad = [score for is_good, score in scored if not is_good]
    if not good or not bad:
        return None
    return fmean(win(g, b) for g in good for b in bad)


def shortfall(canaries: Sequence[Canary], before: Sequence[Canary] | float | None) -> str | None:
    """The fault of a reading of canaries, in words that quote none; None where there is none.

    Args:
        canaries: The reading.
        before: The same texts under the rubric before; empty where there was none. Or the AUC of
            an earlier reading under the same rubric, or None for the first: only then can a score
            count as too high by itself, since an injection has full marks for spelling under a
            rubric that asks for it.
    """
    value = auc(canaries)
    if isinstance(before, Sequence):
        was, high = auc(before), _as_good(canaries) and not _as_good(before)
    else:
        was, high = before, max(_floor_scores(canaries), default=0.0) > thresholds.CANARY_FLOOR
    if high:
        return f"texts without content score high (AUC {value or 0.0:.2f})"
    if value is None or was is None or was - value <= thresholds.CANARY_AUC_DROP:
        return None
    return f"good and bad draw closer (AUC {value:.2f} after {was:.2f})"


def _as_good(canaries: Sequence[Canary]) -> bool:
    """True where the texts that say nothing score no less than the good ones."""
    good = [c.score for c in canaries if c.good and c.score is not None]
    low = _floor_scores(canaries)
    return bool(good and low) and fmean(low) >= fmean(good)


def _floor_scores(canaries: Sequence[Canary]) -> list[float]:
    return [c.score for c in canaries if not c.good and c.floor and c.score is not None]


def canary_figures(canaries: Sequence[Canary], suffix: str = "") -> dict[str, float]:
    """AUC, and the highest score of a text that says nothing; each where it can be measured."""
    low, value = _floor_scores(canaries), auc(canaries)
    figures = {} if value is None else {f"canary_auc{suffix}": value}
    return figures | ({f"canary_worst{suffix}": max(low)} if low else {})


@dataclass(frozen=True)
class _Text:
    name: str
    good: bool
    floor: bool
    of: int | None
    """The good text that a bad one must rank below; None for all of them."""
    rollout: Rollout


@dataclass(frozen=True)
class CanaryFailure:
    """Canaries failed at both readings after a switch."""

    reason: str
    figures: dict[str, float]


class Canaries:
    """Reads canaries, and reports when they have failed twice in a row.

    Args:
        store: Has the first step's rollouts, and the lineage.
        scorer: Asks the RM, by the rules of the run.
        seed: Random seed for every draw.
    """

    def __init__(self, store: Store, scorer: Scorer, seed: int) -> None:
        self.store, self.scorer, self.seed = store, scorer, seed
        self.forget()

    def forget(self) -> None:
        """Drop what was read from the store: it has gone back to an earlier step."""
        self._read: dict[tuple[str, tuple[str, ...]], list[Canary]] = {}
        self._made: dict[tuple[str, int], list[_Text]] = {}
        self._switches: dict[str, Decision] = {}

    async def reading(self, n: int, cohort: str) -> tuple[list[Canary], list[Canary]]:
        """Canaries under the head of a cohort, and the same under the rubric before it.

        At the first step of a rubric half of them, later all. The second list is empty for a seed,
        and equal to the first after a rollback: that rubric was read when it came.

        Args:
            n: Updates made so far.

        Raises:
            StoreError: The store cannot be read or written.
            BudgetError: The budget is spent.
        """
        switch = self._switch(cohort)
        if switch is None or n <= switch.step:
            return [], []
        now: list[Canary] = []
        before: list[Canary] = []
        for half in range(min(HALVES, n - switch.step)):
            one, other = await self._half(half, cohort, switch)
            now += one
            before += other
        return now, before

    async def failing(self, n: int, cohort: str) -> CanaryFailure | None:
        """The failure of both readings of a new rubric; reported at its second step only.

        Raises:
            StoreError: The store cannot be read or written.
            BudgetError: The budget is spent.
        """
        switch = self._switch(cohort)
        if switch is None or switch.kind != "evolve" or n != switch.step + HALVES:
            return None
        now: list[Canary] = []
        before: list[Canary] = []
        for half in range(HALVES):
            texts = self._texts(half, cohort)
            one, other = await self._half(half, cohort, switch)
            comparison = compare(_wins(texts, other, one), f"mpo:{self.seed}:canaries:{half}")
            if comparison is None or not comparison.lost(LOSS, CONFIDENCE):
                return None
            now += one
            before += other
        figures = canary_figures(now) | canary_figures(before, "_before")
        return CanaryFailure(
            f"canaries failed twice in a row under {switch.proposed}: AUC "
            f"{figures['canary_auc']:.2f} after {figures['canary_auc_before']:.2f}",
            figures,
        )

    def target(self, cohort: str) -> str | None:
        """Id of the latest rubric before the head that canaries have not rejected."""
        lineage = [d for d in self.store.lineage(cohort) if d.accepted]
        excluded = (*self.rejected_by_canaries(cohort), lineage[-1].proposed)
        sound = [d.proposed for d in lineage if d.proposed not in excluded]
        return sound[-1] if sound else None

    def rejected_by_canaries(self, cohort: str) -> tuple[str, ...]:
        """Ids of the rubrics that canaries have put out of effect."""
        return tuple(
            d.parent for d in self.store.lineage(cohort) if d.canary_failed and d.parent is not None
        )

    # ------------------------------------------------------------------ readings

    def _switch(self, cohort: str) -> Decision | None:
        """The decision that put the head into effect."""
        head, known = self.store.heads().get(cohort), self._switches.get(cohort)
        if known is None or known.proposed != head:
            accepted = [d for d in self.store.lineage(cohort) if d.accepted]  # a large read
            if not accepted:
                return None
            self._switches[cohort] = known = accepted[-1]
        return known

    async def _half(
        self, half: int, cohort: str, switch: Decision
    ) -> tuple[list[Canary], list[Canary]]:
        texts = self._texts(half, cohort)
        assert switch.proposed is not None
        now = await self._scores(texts, self.store.rubric(switch.proposed))
        if switch.kind == "seed" or switch.parent is None:
            return now, []
        if switch.kind == "rollback":
            return now, now
        return now, await self._scores(texts, self.store.rubric(switch.parent))

    async def _scores(self, texts: Sequence[_Text], rubric: Rubric) -> list[Canary]:
        key = (rubric.id, tuple(text.rollout.id for text in texts))
        if key not in self._read:
            judged = await self.scorer.score_under(rubric, [text.rollout for text in texts])
            self._read[key] = [
                Canary(text.name, text.good, judgement.normalized_reward, text.floor)
                for text, judgement in zip(texts, judged, strict=True)
            ]
        return self._read[key]

    # ------------------------------------------------------------------ texts

    def _texts(self, half: int, cohort: str) -> list[_Text]:
        """A half's texts: the same at every step, in every process."""
        if (cohort, half) not in self._made:
            first = self.store.first_step(cohort)
            cases = self.store.window(up_to_step=first, cohort=cohort) if first is not None else []
            self._made[cohort, half] = self._make(half, cohort, cases)
        return self._made[cohort, half]

    def _make(self, half: int, cohort: str, cases: Sequence[Case]) -> list[_Text]:
        good = _best(cases)[half::HALVES][:GOOD]
        rng = seeded(self.seed, "canaries", cohort, half)
        made: list[_Text] = []
        for n, rollout in enumerate(good):
            name = f"good {HALVES * n + half}"
            made.append(_Text(name, True, False, n, _copy(rollout, rollout.completion, name)))
        for n, rollout in enumerate(good):
            other = good[(n + 1) % len(good)].completion
            kinds = ("repeated", "title_only") if n % 2 == 0 else ("title_only", "repeated")
            made += self._bad(half, n, rollout, kinds, other, rng)
            made += self._bad(half, n, rollout, ("other_answer",), other, rng)
        for n, text in enumerate(self._empty(cohort)[half::HALVES] if good else []):
            name = f"empty {HALVES * n + half}"
            made.append(_Text(name, False, True, None, _copy(rng.choice(good), text, name)))
        return made

    def _bad(
        self,
        half: int,
        n: int,
        rollout: Rollout,
        kinds: Sequence[str],
        other: str,
        rng: random.Random,
    ) -> Iterator[_Text]:
        """The first of some kinds of damage that the rubric, not a rule, has to see."""
        for kind in kinds:
            text = DAMAGES[kind](rollout.completion, other, rng)
            if text is not None and self._rubric_decides(text):
                name = f"{kind} {HALVES * n + half}"
                yield _Text(name, False, False, n, _copy(rollout, text, name))
                return

    def _empty(self, cohort: str) -> list[str]:
        """Texts without content for both halves: no text is in two of them."""
        rng = seeded(self.seed, "canaries", cohort)
        drawn: list[str] = []
        for texts, n in ((INJECTIONS, 2 * HALVES), (MASTER_KEYS, HALVES)):
            usable = [text for text in texts if self._rubric_decides(text)]
            drawn += rng.sample(usable, min(n, len(usable)))
        return drawn

    def _rubric_decides(self, text: str) -> bool:
        return first_rule(self.scorer.task.spec, clean(text)) is None


def _wins(
    texts: Sequence[_Text], before: Sequence[Canary], now: Sequence[Canary]
) -> list[list[tuple[float, float]]]:
    """Per good text, whether each rubric ranks it above its bad ones; missing answers left out."""
    scores = [(b.score, n.score) for b, n in zip(before, now, strict=True)]
    clusters: list[list[tuple[float, float]]] = []
    for text, (was, is_now) in zip(texts, scores, strict=True):
        if not text.good or was is None or is_now is None:
            continue
        clusters.append(
            [
                (win(was, a), win(is_now, b))
                for bad, (a, b) in zip(texts, scores, strict=True)
                if not bad.good and bad.of in (text.of, None) and a is not None and b is not None
            ]
        )
    return clusters


def _best(cases: Sequence[Case]) -> list[Rollout]:
    """The best-scored rollouts, one of each group first: an answer to another prompt is needed."""
    graded = [case for case in cases if case.judgement.rule is None]
    ranked = sorted(graded, key=lambda c: (-(c.judgement.normalized_reward or 0.0), c.rollout.id))
    seen: dict[str, int] = {}
    places: list[tuple[int, Rollout]] = []
    for case in ranked:
        place = seen[case.rollout.group] = seen.get(case.rollout.group, -1) + 1
        places.append((place, case.rollout))
    return [r for _, r in sorted(places, key=lambda item: item[0])][: HALVES * GOOD]


def _copy(rollout: Rollout, text: str, group: str) -> Rollout:
    """A canary: the prompt and columns of a rollout with another text."""
    return Rollout(
        prompt=rollout.prompt,
        completion=text,
        columns=rollout.columns,
        step=rollout.step,
        group=f"canary {group}",
        cohort=rollout.cohort,
        mode="canary",
    )
