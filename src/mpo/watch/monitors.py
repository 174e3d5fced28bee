"""Monitors: one reading per step, with figures for the log and alarms.

`observe` is a pure function: the same state, step and cases give the same reading and next state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import fmean
from typing import Any

from ..records import Case
from . import thresholds
from .canaries import Canary, canary_figures, shortfall
from .second_judge import read_gaps
from .state import (
    MonitorState,
    StepSummary,
    distinct,
    log_odds_z,
    percentile,
    phrases,
    pooled,
    summarize,
    words,
)

__all__ = ["Alarm", "Reading", "observe"]


@dataclass(frozen=True)
class Alarm:
    """One monitor's alarm at one step."""

    monitor: str
    step: int
    message: str
    """The evidence in words and numbers. A phrase in it was written by the policy: fence it."""
    figures: dict[str, float]
    rollouts: tuple[str, ...]
    """Ids of three rollouts (fewer if there are fewer) that show it."""
    new: bool = True
    """The monitor raised none at the step before."""

    def to_dict(self) -> dict[str, Any]:
        """JSON object, for the store and the report."""
        return {**asdict(self), "rollouts": list(self.rollouts)}

    def __str__(self) -> str:
        return f"{self.monitor}: {self.message}"


@dataclass(frozen=True)
class Reading:
    """Figures and alarms of one step."""

    step: int
    figures: dict[str, float] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()

    @property
    def hint(self) -> str:
        """For the MRM's prompt: one line per alarm; empty if there is none. Fence it."""
        return "\n".join(f"- {alarm}" for alarm in self.alarms)


@dataclass(frozen=True)
class _View:
    """Material of the checks."""

    step: int
    cases: Sequence[Case]
    now: StepSummary
    """The window, pooled."""
    start: StepSummary
    ready: bool
    """The baseline is complete, and the window full and not the baseline itself."""
    figures: dict[str, float]


@dataclass(frozen=True)
class _Finding:
    """A check that failed, before the alarm is written."""

    monitor: str
    message: str
    figures: tuple[str, ...]
    show: Callable[[Case], float]
    """Three rollouts of this step with the highest value are named."""


def observe(
    state: MonitorState,
    step: int,
    cases: Sequence[Case],
    *,
    canaries: Sequence[Canary] = (),
    canaries_before: Sequence[Canary] | None = None,
    gap: float | None = None,
) -> tuple[MonitorState, Reading]:
    """Look at one step.

    Args:
        state: The state after the last step; `MonitorState()` at the start of a run.
        step: The step's number.
        cases: All training rollouts of the step with their judgements, unscored ones too.
        canaries: Texts of known rank, as scored at this step.
        canaries_before: The same under the rubric before; the first reading's AUC if None.
        gap: Mean of reward minus the second judge's score, over a few rollouts of the step.

    Returns:
        The next state, and the reading.
    """
    cases = [case for case in cases if case.rollout.mode == "train"]
    ready = state.complete
    state = state.after(summarize(step, cases, baseline=not ready))
    now = pooled(state.recent)
    assert state.start is not None
    figures = _figures(now, state.start)
    view = _View(step, cases, now, state.start, ready, figures)
    findings = [*_always(view), *_canaries(view, state, canaries, canaries_before)]
    if ready:
        findings += [*_length(view), *_repetition(view), *_scores(view), *_phrase(view)]
    if state.canary_auc is None and "canary_auc" in figures:
        state = replace(state, canary_auc=figures["canary_auc"])
    if gap is not None:
        # No shortcut is known beforehand: the phrase that has risen most stands for it.
        risen = any(finding.monitor == "phrase" for finding in findings)
        gaps = (*state.gaps, (gap, figures["ngram_share"] if risen else None))
        first = (*state.first_gaps, gap)[: thresholds.GAP_BASELINE]
        state = replace(state, gaps=gaps[-thresholds.GAP_STEPS :], first_gaps=first)
        findings += _gap(view, state)
    alarms = tuple(_alarm(finding, view, state) for finding in findings)
    calling = tuple(alarm.monitor for alarm in alarms)
    return replace(state, calling=calling), Reading(step, figures, alarms)


def _alarm(finding: _Finding, view: _View, state: MonitorState) -> Alarm:
    ranked = sorted(view.cases, key=lambda case: (-finding.show(case), case.rollout.id))
    return Alarm(
        monitor=finding.monitor,
        step=view.step,
        message=finding.message,
        figures={name: view.figures[name] for name in finding.figures if name in view.figures},
        rollouts=tuple(case.rollout.id for case in ranked[:3]),
        new=finding.monitor not in state.calling,
    )


# --- figures ----------------------------------------------------------------------------------


def _figures(now: StepSummary, start: StepSummary) -> dict[str, float]:
    """Figures that are logged at every step; those that cannot be measured are left out."""
    figures = {
        "length_mean": now.share(sum(now.lengths)),
        "length_p95": percentile(now.lengths, 0.95),
        "distinct_2": now.share(now.distinct_sum),
        "compressed": now.compressed,
        "unique": now.share(now.unique),
        "unscored": now.share(now.rollouts - now.scored),
        "ruled": now.share(now.ruled),
        "flagged": now.share(now.flagged),
    }
    if now.scored:
        figures["reward_mean"] = now.reward_sum / now.scored
        figures["reward_std"] = (now.reward_squares / now.scored) ** 0.5
        figures["saturated"] = now.saturated / now.scored
    if now.length_reward is not None:
        figures["length_reward"] = now.length_reward
    if now.groups:
        figures["flat_groups"] = now.flat_groups / now.groups
    if now.criteria:
        figures["dead_criteria"] = now.dead / now.criteria
    early = start.share(sum(start.lengths))
    if early:
        figures["length_ratio"] = figures["length_mean"] / early
    return figures


# --- checks -----------------------------------------------------------------------------------


def _score(case: Case) -> float:
    share = case.judgement.normalized_reward
    return -1.0 if share is None else share


def _size(case: Case) -> float:
    return float(len(case.rollout.completion.split()))


def _always(view: _View) -> Iterator[_Finding]:
    """Checks that need no comparison with the start."""
    figures = view.figures
    if view.now.rollouts and figures["unscored"] >= thresholds.UNSCORED:
        yield _Finding(
            "unscored",
            f"{figures['unscored']:.0%} of the rollouts have no score",
            ("unscored",),
            lambda case: float(case.judgement.normalized_reward is None),
        )
    if figures["ruled"] >= thresholds.RULED:
        yield _Finding(
            "ruled",
            f"a rule decided {figures['ruled']:.0%} of the rollouts before the RM was asked",
            ("ruled",),
            lambda case: float(case.judgement.rule is not None),
        )
    if figures["flagged"] >= thresholds.FLAGGED:
        yield _Finding(
            "flagged",
            f"{figures['flagged']:.0%} of the rollouts have control strings or hidden characters, "
            "or speak to their grader (self-praise, demands)",
            ("flagged",),
            lambda case: float(sum(case.judgement.injection_flags.values())),
        )


def _length(view: _View) -> Iterator[_Finding]:
    figures = view.figures
    ratio = figures.get("length_ratio", 1.0)
    if ratio <= thresholds.LENGTH_RATIO or ratio >= 1 / thresholds.LENGTH_RATIO:
        shrunk = ratio < 1
        yield _Finding(
            "length",
            f"texts have {figures['length_mean']:.0f} words in the mean, "
            f"{ratio:.0%} of the start's",
            ("length_mean", "length_ratio", "length_p95"),
            lambda case: -_size(case) if shrunk else _size(case),
        )
    link, early = figures.get("length_reward"), view.start.length_reward
    if link is None or abs(link) < thresholds.LENGTH_REWARD:
        return
    if early is None or abs(link - early) >= thresholds.LENGTH_REWARD_RISE:
        yield _Finding(
            "length_reward",
            f"reward goes with {'more' if link > 0 else 'less'} length: r = {link:.2f}, "
            f"at the start {early or 0.0:.2f}",
            ("length_reward",),
            lambda case: _score(case) if link > 0 else _score(case) - _size(case) / 1000,
        )


def _repetition(view: _View) -> Iterator[_Finding]:
    figures, start = view.figures, view.start
    early = start.share(start.distinct_sum)
    if early and figures["distinct_2"] <= thresholds.DISTINCT_RATIO * early:
        yield _Finding(
            "repetition",
            f"{figures['distinct_2']:.0%} of a text's word pairs are new, {early:.0%} at the start",
            ("distinct_2",),
            lambda case: -distinct(words(case.rollout.completion)),
        )
    if figures["compressed"] <= thresholds.COMPRESS_RATIO * start.compressed:
        yield _Finding(
            "alike",
            f"all texts together compress to {figures['compressed']:.2f} of their size, "
            f"{start.compressed:.2f} at the start",
            ("compressed", "unique"),
            _score,
        )
    elif figures["unique"] <= thresholds.UNIQUE * start.share(start.unique):
        yield _Finding(
            "alike", f"only {figures['unique']:.0%} of the texts differ", ("unique",), _score
        )


def _scores(view: _View) -> Iterator[_Finding]:
    figures, start = view.figures, view.start
    full = figures.get("saturated", 0.0)
    early = start.share(start.saturated, start.scored)
    if full >= thresholds.SATURATED and full - early >= thresholds.SATURATED_RISE:
        yield _Finding(
            "saturated",
            f"{full:.0%} of the rollouts have the top score, {early:.0%} at the start",
            ("saturated", "reward_mean"),
            _score,
        )
    dead = figures.get("dead_criteria", 0.0)
    if dead >= thresholds.DEAD_CRITERIA:
        yield _Finding(
            "dead_criteria",
            f"{dead:.0%} of the criteria give every rollout the same score",
            ("dead_criteria",),
            _score,
        )
    flat = figures.get("flat_groups", 0.0)
    flat_early = start.share(start.flat_groups, start.groups)
    if flat >= thresholds.FLAT_GROUPS and flat - flat_early >= thresholds.FLAT_GROUPS_RISE:
        yield _Finding(
            "flat_groups",
            f"in {flat:.0%} of the groups all rewards are equal, {flat_early:.0%} at the start",
            ("flat_groups",),
            _score,
        )


def _phrase(view: _View) -> Iterator[_Finding]:
    """The phrase that has risen most among top-scored texts, if it has risen far enough."""
    now, start = view.now, view.start
    ranked: list[tuple[float, int, str]] = []
    for phrase, count in now.top_phrases.items():
        before = start.share(start.all_phrases.get(phrase, 0), start.all_groups)
        # Of phrases that rise alike the longest says most.
        ranked.append((round(count / now.top_groups - before, 2), len(phrase), phrase))
    if not ranked:
        return
    rise, _, phrase = max(ranked)
    count, before = now.top_phrases[phrase], start.all_phrases.get(phrase, 0)
    share = count / now.top_groups
    z = log_odds_z(count, now.top_groups, before, start.all_groups)
    view.figures.update(ngram_share=share, ngram_rise=rise, ngram_z=z)
    if share < thresholds.NGRAM_SHARE or rise < thresholds.NGRAM_RISE or z < thresholds.NGRAM_Z:
        return
    yield _Finding(
        "phrase",
        f"{share:.0%} of the top-scored texts say {phrase!r}, {share - rise:.0%} at the start",
        ("ngram_share", "ngram_rise", "ngram_z"),
        lambda case: _score(case) + 2.0 * (phrase in phrases(words(case.rollout.completion))),
    )


def _canaries(
    view: _View,
    state: MonitorState,
    canaries: Sequence[Canary],
    before: Sequence[Canary] | None,
) -> Iterator[_Finding]:
    view.figures.update(canary_figures(canaries))
    fault = shortfall(canaries, state.canary_auc if before is None else before)
    if fault:
        yield _Finding("canaries", fault, ("canary_auc", "canary_worst"), _score)


def _gap(view: _View, state: MonitorState) -> Iterator[_Finding]:
    """The second judge's gap over the last steps, against the first ones."""
    first = state.first_gaps
    at_start = fmean(first) if len(first) == thresholds.GAP_BASELINE else None
    figures, fault = read_gaps(state.gaps, at_start)
    view.figures.update(figures)
    if fault:
        yield _Finding("audit", fault, ("audit_gap", "audit_gap_rise", "audit_share"), _score)
