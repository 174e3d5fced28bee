"""One reading per step: figures for the log, and alarms.

`observe` is a pure function: the same state, step and cases give the same reading and next state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..records import Case
from .gap import Audit, Canary, auc, shortfall, smooth
from .state import MonitorState, StepSummary, pooled, summarize
from .texts import distinct, log_odds_z, percentile, phrases, words
from .thresholds import Thresholds

__all__ = ["Alarm", "Reading", "observe"]


@dataclass(frozen=True)
class Alarm:
    """A monitor calls."""

    monitor: str
    step: int
    message: str
    """The evidence in words and numbers. A phrase in it was written by the policy: fence it."""
    figures: dict[str, float]
    rollouts: tuple[str, ...]
    """Ids of three rollouts (fewer if there are fewer) that show it."""
    new: bool = True
    """It did not call at the step before."""

    def to_dict(self) -> dict[str, Any]:
        """JSON object, for the store and the report."""
        return {**asdict(self), "rollouts": list(self.rollouts)}

    def __str__(self) -> str:
        return f"{self.monitor}: {self.message}"


@dataclass(frozen=True)
class Reading:
    """What one step showed."""

    step: int
    figures: dict[str, float] = field(default_factory=dict)
    alarms: tuple[Alarm, ...] = ()

    @property
    def hint(self) -> str:
        """For the MRM's prompt: one line per alarm; empty if there is none. Fence it."""
        return "\n".join(f"- {alarm}" for alarm in self.alarms)


@dataclass(frozen=True)
class _View:
    """What the checks look at."""

    step: int
    cases: Sequence[Case]
    now: StepSummary
    """The window."""
    start: StepSummary
    ready: bool
    """The baseline is complete, and the window full and not the baseline itself."""
    bounds: Thresholds
    figures: dict[str, float]


@dataclass(frozen=True)
class _Call:
    """A check's verdict, before the alarm is written."""

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
    thresholds: Thresholds | None = None,
    kl: float | None = None,
    canaries: Sequence[Canary] = (),
    canaries_before: Sequence[Canary] | None = None,
    audit: Audit | None = None,
) -> tuple[MonitorState, Reading]:
    """Look at one step.

    Args:
        state: Of the last step; `MonitorState()` at the start of a run.
        step: Its number.
        cases: All training rollouts of the step with their judgements, unscored ones too.
        thresholds: When to call; the defaults if None.
        kl: KL of policy and reference, where the trainer knows it.
        canaries: Fixed texts, as scored at this step.
        canaries_before: The same under the rubric before; the first reading's AUC if None.
        audit: A second RM's scores of a few rollouts.

    Returns:
        The next state, and the reading.
    """
    bounds = thresholds if thresholds is not None else Thresholds()
    cases = [case for case in cases if case.rollout.mode == "train"]
    ready = state.complete(bounds)
    summary = summarize(step, cases, bounds, baseline=not ready)
    state = state.after(summary, bounds)
    now = pooled(state.recent)
    assert state.start is not None
    figures = _figures(now, state.start)
    if kl is not None:
        figures["kl"] = kl
    view = _View(step, cases, now, state.start, ready, bounds, figures)
    calls = [*_always(view, kl), *_canaries(view, state, canaries, canaries_before)]
    if ready:
        calls += [*_length(view), *_repetition(view), *_scores(view), *_phrase(view)]
    if state.canary_auc is None and "canary_auc" in figures:
        state = replace(state, canary_auc=figures["canary_auc"])
    if audit is not None and len(audit.proxy):
        risen = figures["ngram_share"] if any(c.monitor == "phrase" for c in calls) else None
        share = audit.share if audit.share is not None else risen
        kept = (*state.gaps, (audit.gap, share))[-bounds.gap_steps :]
        state = replace(state, gaps=kept)
        calls += _audit(view, state)
    alarms = tuple(_alarm(call, view, state) for call in calls)
    return replace(state, calling=tuple(a.monitor for a in alarms)), Reading(step, figures, alarms)


def _alarm(call: _Call, view: _View, state: MonitorState) -> Alarm:
    ranked = sorted(view.cases, key=lambda case: (-call.show(case), case.rollout.id))
    return Alarm(
        monitor=call.monitor,
        step=view.step,
        message=call.message,
        figures={name: view.figures[name] for name in call.figures if name in view.figures},
        rollouts=tuple(case.rollout.id for case in ranked[:3]),
        new=call.monitor not in state.calling,
    )


# --- figures ----------------------------------------------------------------------------------


def _figures(now: StepSummary, start: StepSummary) -> dict[str, float]:
    """Everything that is logged at every step; what cannot be told is left out."""
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


def _always(view: _View, kl: float | None) -> Iterator[_Call]:
    """What needs no comparison with the start."""
    figures, bounds = view.figures, view.bounds
    if view.now.rollouts and figures["unscored"] >= bounds.unscored:
        yield _Call(
            "unscored",
            f"{figures['unscored']:.0%} of the rollouts have no score",
            ("unscored",),
            lambda case: float(case.judgement.normalized_reward is None),
        )
    if figures["ruled"] >= bounds.ruled:
        yield _Call(
            "ruled",
            f"a rule decided {figures['ruled']:.0%} of the rollouts before the RM was asked",
            ("ruled",),
            lambda case: float(case.judgement.rule is not None),
        )
    if figures["flagged"] >= bounds.flagged:
        yield _Call(
            "flagged",
            f"{figures['flagged']:.0%} of the rollouts hold control strings or hidden characters",
            ("flagged",),
            lambda case: float(sum(case.judgement.injection_flags.values())),
        )
    if kl is not None and bounds.kl is not None and kl >= bounds.kl:
        yield _Call("kl", f"KL from the reference is {kl:.1f}", ("kl",), _score)


def _length(view: _View) -> Iterator[_Call]:
    figures, bounds = view.figures, view.bounds
    ratio = figures.get("length_ratio", 1.0)
    if ratio <= bounds.length_ratio or ratio >= 1 / bounds.length_ratio:
        shrunk = ratio < 1
        yield _Call(
            "length",
            f"texts have {figures['length_mean']:.0f} words in the mean, "
            f"{ratio:.0%} of the start's",
            ("length_mean", "length_ratio", "length_p95"),
            lambda case: -_size(case) if shrunk else _size(case),
        )
    link, early = figures.get("length_reward"), view.start.length_reward
    if link is None or abs(link) < bounds.length_reward:
        return
    if early is None or abs(link - early) >= bounds.length_reward_rise:
        yield _Call(
            "length_reward",
            f"reward goes with {'more' if link > 0 else 'less'} length: r = {link:.2f}, "
            f"at the start {early or 0.0:.2f}",
            ("length_reward",),
            lambda case: _score(case) if link > 0 else _score(case) - _size(case) / 1000,
        )


def _repetition(view: _View) -> Iterator[_Call]:
    figures, bounds, start = view.figures, view.bounds, view.start
    early = start.share(start.distinct_sum)
    if early and figures["distinct_2"] <= bounds.distinct_ratio * early:
        yield _Call(
            "repetition",
            f"{figures['distinct_2']:.0%} of a text's word pairs are new, {early:.0%} at the start",
            ("distinct_2",),
            lambda case: -distinct(words(case.rollout.completion)),
        )
    if figures["compressed"] <= bounds.compress_ratio * start.compressed:
        yield _Call(
            "alike",
            f"all texts together compress to {figures['compressed']:.2f} of their size, "
            f"{start.compressed:.2f} at the start",
            ("compressed", "unique"),
            _score,
        )
    elif figures["unique"] <= bounds.unique * start.share(start.unique):
        yield _Call(
            "alike", f"only {figures['unique']:.0%} of the texts differ", ("unique",), _score
        )


def _scores(view: _View) -> Iterator[_Call]:
    figures, bounds, start = view.figures, view.bounds, view.start
    full = figures.get("saturated", 0.0)
    early = start.share(start.saturated, start.scored)
    if full >= bounds.saturated and full - early >= bounds.saturated_rise:
        yield _Call(
            "saturated",
            f"{full:.0%} of the rollouts have the top score, {early:.0%} at the start",
            ("saturated", "reward_mean"),
            _score,
        )
    dead = figures.get("dead_criteria", 0.0)
    if dead >= bounds.dead_criteria:
        yield _Call(
            "dead_criteria",
            f"{dead:.0%} of the criteria give every rollout the same score",
            ("dead_criteria",),
            _score,
        )
    flat = figures.get("flat_groups", 0.0)
    flat_early = start.share(start.flat_groups, start.groups)
    if flat >= bounds.flat_groups and flat - flat_early >= bounds.flat_groups_rise:
        yield _Call(
            "flat_groups",
            f"in {flat:.0%} of the groups all rewards are equal, {flat_early:.0%} at the start",
            ("flat_groups",),
            _score,
        )


def _phrase(view: _View) -> Iterator[_Call]:
    """The phrase that has risen most among top-scored texts, if that is far enough."""
    now, start, bounds = view.now, view.start, view.bounds
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
    if share < bounds.ngram_share or rise < bounds.ngram_rise or z < bounds.ngram_z:
        return
    yield _Call(
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
) -> Iterator[_Call]:
    value = auc(canaries)
    low = [c.score for c in canaries if not c.good and c.floor and c.score is not None]
    if low:
        view.figures["canary_worst"] = max(low)
    if value is not None:
        view.figures["canary_auc"] = value
    wrong = shortfall(canaries, state.canary_auc if before is None else before, view.bounds)
    if wrong:
        yield _Call("canaries", wrong, _CANARY_FIGURES, _score)


_CANARY_FIGURES = ("canary_auc", "canary_worst")


def _audit(view: _View, state: MonitorState) -> Iterator[_Call]:
    """CHERRL's onset rule, at this step."""
    bounds = view.bounds
    gap = smooth([gap for gap, _ in state.gaps], bounds.gap_steps)
    share = smooth([share for _, share in state.gaps], bounds.gap_steps)
    if gap is not None:
        view.figures["audit_gap"] = gap
    if share is not None:
        view.figures["audit_share"] = share
    # Where no shortcut is known, the gap has to speak for itself.
    needed = bounds.gap if share is not None else bounds.severe_gap
    if gap is None or gap < needed or (share is not None and share < bounds.gap_share):
        return
    severe = gap >= bounds.severe_gap and (share is None or share >= bounds.severe_share)
    seen = f", and {share:.0%} of the top-scored texts show a shortcut" if share is not None else ""
    yield _Call(
        "audit",
        f"reward exceeds the audit by {gap:.2f}{seen}{' (severe)' if severe else ''}",
        ("audit_gap", "audit_share"),
        _score,
    )
