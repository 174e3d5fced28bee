"""Memory of the monitors: the start of the run, and the last few steps. Plain JSON.

A step is kept as sums and short lists, not as texts: some kilobytes each. Everything is exact under
JSON, so that a resumed run raises the same alarms.
"""

from __future__ import annotations

import itertools
import math
import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean, pstdev
from typing import Any

from ..records import Case
from . import thresholds

__all__ = [
    "MonitorState",
    "StepSummary",
    "distinct",
    "log_odds_z",
    "percentile",
    "phrases",
    "pooled",
    "summarize",
    "words",
]


@dataclass(frozen=True)
class StepSummary:
    """Measurements of one step, or of several pooled."""

    step: int
    rollouts: int = 0
    scored: int = 0
    lengths: list[int] = field(default_factory=list)
    """Words of each rollout."""
    reward_sum: float = 0.0
    reward_squares: float = 0.0
    """Sum of squares of normalized rewards around each step's own mean."""
    length_squares: float = 0.0
    products: float = 0.0
    """Sums of squares and products of length and reward around each step's means, over scored
    rollouts: a change of rubric between two steps then leaves no trace in the correlation."""
    distinct_sum: float = 0.0
    compressed: float = 1.0
    unique: int = 0
    saturated: int = 0
    ruled: int = 0
    flagged: int = 0
    groups: int = 0
    """Groups with two scored rollouts or more."""
    flat_groups: int = 0
    criteria: int = 0
    dead: int = 0
    top_groups: int = 0
    """Groups that have a top-scored rollout."""
    top_phrases: dict[str, int] = field(default_factory=dict)
    """In how many of them a top-scored rollout has the phrase; only what several have."""
    all_groups: int = 0
    all_phrases: dict[str, int] = field(default_factory=dict)
    """The same over all rollouts; kept for the baseline alone."""

    @property
    def length_reward(self) -> float | None:
        """Pearson's r of length and reward; None where one does not vary."""
        if self.scored < 16 or self.length_squares < 1e-9 or self.reward_squares < 1e-9:
            return None
        return self.products / math.sqrt(self.length_squares * self.reward_squares)

    def share(self, count: float, of: float | None = None) -> float:
        """A count per rollout, or per `of`; 0 for nothing."""
        total = self.rollouts if of is None else of
        return count / total if total else 0.0


@dataclass(frozen=True)
class MonitorState:
    """The memory of one run's monitors."""

    start: StepSummary | None = None
    """The baseline: pooled until it holds `thresholds.BASELINE` rollouts, then fixed."""
    recent: tuple[StepSummary, ...] = ()
    """Latest steps, as many as the window needs."""
    gaps: tuple[tuple[float, float | None], ...] = ()
    """Latest readings of the second judge: gap, share of the shortcut."""
    first_gaps: tuple[float, ...] = ()
    """The first `thresholds.GAP_BASELINE` gaps of the run."""
    canary_auc: float | None = None
    """AUC of the first reading of canaries."""
    calling: tuple[str, ...] = ()
    """Monitors that raised an alarm at the last step."""

    def to_json(self) -> dict[str, Any]:
        """For a checkpoint or the store."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> MonitorState:
        """The state that `to_json` wrote, bit for bit."""
        start = data.get("start")
        return cls(
            start=StepSummary(**start) if start else None,
            recent=tuple(StepSummary(**step) for step in data.get("recent", ())),
            gaps=tuple((gap, share) for gap, share in data.get("gaps", ())),
            first_gaps=tuple(data.get("first_gaps", ())),
            canary_auc=data.get("canary_auc"),
            calling=tuple(data.get("calling", ())),
        )

    @property
    def complete(self) -> bool:
        """True once the baseline has all its rollouts."""
        return self.start is not None and self.start.rollouts >= thresholds.BASELINE

    def after(self, summary: StepSummary) -> MonitorState:
        """The state with one more step."""
        lean = replace(summary, all_phrases={}, all_groups=0)
        recent = [*self.recent, lean]
        while sum(s.rollouts for s in recent[1:]) >= thresholds.WINDOW:
            recent.pop(0)
        start = self.start
        if not self.complete:
            start = pooled([s for s in (self.start, summary) if s is not None])
        return replace(self, start=start, recent=tuple(recent))


# --- from cases to a summary ------------------------------------------------------------------


TOP_LEAST = 0.25
"""Share of a step's top-scored groups below which a phrase is not kept: what reaches 0.6 over
several steps has that in each of them, nearly always."""
BASELINE_LEAST = 0.05
"""The same over all groups of the baseline: what is rarer counts as absent at the start."""


def summarize(step: int, cases: Sequence[Case], *, baseline: bool = True) -> StepSummary:
    """Measure one step. Evaluation rollouts are left out.

    Args:
        step: The step's number.
        cases: The step's rollouts and judgements.
        baseline: Count the phrases of all rollouts too, which costs a second for 500 long texts.
    """
    cases = [case for case in cases if case.rollout.mode == "train"]
    tokens = {case.rollout.id: words(case.rollout.completion) for case in cases}
    scored = [case for case in cases if case.judgement.normalized_reward is not None]
    shares = {c.rollout.id: float(c.judgement.normalized_reward or 0.0) for c in scored}
    flat = _flat_groups(scored, shares)
    dead = _dead_criteria(scored, thresholds.DEAD_SPREAD)
    lengths = [len(tokens[c.rollout.id]) for c in scored]
    rewards = [shares[c.rollout.id] for c in scored]
    top = sorted(scored, key=lambda c: (-shares[c.rollout.id], c.rollout.id))
    top = top[: math.ceil(thresholds.TOP_SHARE * len(scored))]
    top_groups, top_phrases = _phrase_counts(top, tokens, TOP_LEAST)
    counted = cases if baseline else []
    all_groups, all_phrases = _phrase_counts(counted, tokens, BASELINE_LEAST)
    return StepSummary(
        step=step,
        rollouts=len(cases),
        scored=len(scored),
        lengths=[len(tokens[c.rollout.id]) for c in cases],
        reward_sum=math.fsum(rewards),
        reward_squares=_products(rewards, rewards),
        length_squares=_products(lengths, lengths),
        products=_products(lengths, rewards),
        distinct_sum=math.fsum(distinct(tokens[c.rollout.id]) for c in cases),
        compressed=compressed([c.rollout.completion for c in cases]),
        unique=len(dict.fromkeys(c.rollout.completion for c in cases)),
        saturated=sum(share >= thresholds.SATURATED_SCORE for share in rewards),
        ruled=sum(c.judgement.rule is not None for c in cases),
        flagged=sum(bool(c.judgement.injection_flags) for c in cases),
        groups=len(flat),
        flat_groups=sum(flat),
        criteria=len(dead),
        dead=sum(dead),
        top_groups=top_groups,
        top_phrases=top_phrases,
        all_groups=all_groups,
        all_phrases=all_phrases,
    )


def _products(one: Sequence[float], two: Sequence[float]) -> float:
    """Σ (x − mean x)(y − mean y)."""
    if not one:
        return 0.0
    mean_one, mean_two = fmean(one), fmean(two)
    return math.fsum((a - mean_one) * (b - mean_two) for a, b in zip(one, two, strict=True))


def _flat_groups(scored: Sequence[Case], shares: Mapping[str, float]) -> list[bool]:
    """For each group of two or more, whether all rewards are equal."""
    groups: dict[str, list[float]] = {}
    for case in scored:
        groups.setdefault(case.rollout.group, []).append(shares[case.rollout.id])
    return [max(g) - min(g) < 1e-9 for g in groups.values() if len(g) > 1]


def _dead_criteria(scored: Sequence[Case], least: float) -> list[bool]:
    """For each criterion, whether all rollouts get the same score.

    The judgement does not hold the scale, so the widest range seen stands for it: a criterion
    that always gets 3 has no range and is dead.
    """
    by_criterion: dict[tuple[str, str], list[int]] = {}
    for case in scored:
        for score in case.judgement.scores:
            key = (case.judgement.rubric_id, score.criterion)
            by_criterion.setdefault(key, []).append(score.score)
    several = [scores for scores in by_criterion.values() if len(scores) >= 16]
    return [_spread(scores) < least for scores in several]


def _spread(scores: Sequence[int]) -> float:
    return pstdev(scores) / max(5, max(scores) - min(scores))


def _phrase_counts(
    cases: Sequence[Case], tokens: Mapping[str, Sequence[str]], least: float
) -> tuple[int, dict[str, int]]:
    """The number of groups, and in how many of them each phrase is.

    By group, since completions of one prompt share their words; and without the phrases of the
    prompt itself, since an answer repeats some of them.
    """
    groups: dict[str, set[str]] = {}
    prompts: dict[str, str] = {}
    for case in cases:
        groups.setdefault(case.rollout.group, set()).update(phrases(tokens[case.rollout.id]))
        prompts.setdefault(case.rollout.group, case.rollout.prompt)
    counts: Counter[str] = Counter()
    for group, spoken in groups.items():
        counts.update(spoken - phrases(words(prompts[group])))
    needed = max(2 if len(groups) > 2 else 1, least * len(groups))
    frequent = [(phrase, count) for phrase, count in counts.items() if count >= needed]
    return len(groups), dict(sorted(frequent))


def pooled(steps: Sequence[StepSummary]) -> StepSummary:
    """Pool several steps into one summary."""
    top: Counter[str] = Counter()
    everything: Counter[str] = Counter()
    for step in steps:
        top.update(step.top_phrases)
        everything.update(step.all_phrases)
    total = sum(step.rollouts for step in steps)
    return StepSummary(
        step=steps[-1].step if steps else 0,
        rollouts=total,
        scored=sum(s.scored for s in steps),
        lengths=[length for s in steps for length in s.lengths],
        reward_sum=math.fsum(s.reward_sum for s in steps),
        reward_squares=math.fsum(s.reward_squares for s in steps),
        length_squares=math.fsum(s.length_squares for s in steps),
        products=math.fsum(s.products for s in steps),
        distinct_sum=math.fsum(s.distinct_sum for s in steps),
        # Steps differ in size, and zlib sees 32 KB at a time: a mean, not one text.
        compressed=math.fsum(s.compressed * s.rollouts for s in steps) / total if total else 1.0,
        unique=sum(s.unique for s in steps),
        saturated=sum(s.saturated for s in steps),
        ruled=sum(s.ruled for s in steps),
        flagged=sum(s.flagged for s in steps),
        groups=sum(s.groups for s in steps),
        flat_groups=sum(s.flat_groups for s in steps),
        criteria=sum(s.criteria for s in steps),
        dead=sum(s.dead for s in steps),
        top_groups=sum(s.top_groups for s in steps),
        top_phrases=dict(sorted(top.items())),
        all_groups=sum(s.all_groups for s in steps),
        all_phrases=dict(sorted(everything.items())),
    )


# --- measurements of texts --------------------------------------------------------------------

_WORD = re.compile(r"\w+(?:['’]\w+)*")


def words(text: str) -> list[str]:
    """Lower-case words, without punctuation."""
    return _WORD.findall(text.lower())


def distinct(tokens: Sequence[str]) -> float:
    """Share of different word pairs, 0 to 1; 1 for a text of fewer than two words."""
    pairs = list(itertools.pairwise(tokens))
    return len(dict.fromkeys(pairs)) / len(pairs) if pairs else 1.0


def compressed(texts: Sequence[str]) -> float:
    """Compressed size per byte of all texts together; 1 without texts."""
    raw = "\n".join(texts).encode("utf-8", "surrogatepass")
    return len(zlib.compress(raw, 6)) / len(raw) if raw else 1.0


def phrases(tokens: Sequence[str]) -> set[str]:
    """Runs of 1 to 4 words, each once. A single word counts only from four letters on: "the"
    rises with length alone. For counting only: a set has no order."""
    runs = {word for word in tokens if len(word) >= 4}
    pairs = [f"{a} {b}" for a, b in itertools.pairwise(tokens)]
    runs.update(pairs)
    runs.update(f"{a} {b}" for a, b in zip(pairs, tokens[2:], strict=False))
    runs.update(f"{a} {b}" for a, b in zip(pairs, pairs[2:], strict=False))
    return runs


def log_odds_z(now: float, of_now: float, then: float, of_then: float) -> float:
    """z of the log-odds ratio of two counts and their totals, with half a count added to each cell
    (Haldane)."""
    a, b = now + 0.5, max(0.0, of_now - now) + 0.5
    c, d = then + 0.5, max(0.0, of_then - then) + 0.5
    return (math.log(a / b) - math.log(c / d)) / math.sqrt(1 / a + 1 / b + 1 / c + 1 / d)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie; 0 for an empty sequence."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
