"""Notes on what to look at first, the weightiest on top."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from .decisions import lint_sentence
from .elements import count, number, table
from .levels import known, levels_of
from .run_data import AlarmSpan, RunData

__all__ = ["notes"]

MOST_RUNS = 3
"""Number of runs up to which alarms are listed one by one; of more, they are counted by monitor."""
MOST = 8
"""Number of notes that are listed."""

_APART, _LINT, _FAILED = 100, 90, 45
_SCALE, _SCALE_FELT = 20, 55
"""Weights of a jump of the points, and of one that the policy got as its reward."""
_WEIGHTS = {
    "canaries": 85,
    "audit": 80,
    "length": 75,
    "repetition": 70,
    "alike": 70,
    "phrase": 65,
    "unscored": 60,
    "saturated": 55,
    "flat_groups": 50,
    "dead_criteria": 45,
    "length_reward": 40,
    "flagged": 35,
    "ruled": 30,
}
"""Weight of each monitor's alarm. First comes direct evidence that the reward does not measure what
it should, then what the policy's texts have turned into, then a reward that teaches nothing."""
_LASTING, _SHARE = 8.0, 8.0
"""Added to an alarm that holds at the end, and to one that holds all the time."""
_MOVED = 0.05
"""Change of reward and gold, 0 to 1, from which they count as moved."""


@dataclass(frozen=True)
class _Note:
    weight: float
    html: str


def notes(runs: Sequence[RunData], scale: str) -> str:
    """List of what a reader should look at first, sorted by weight; empty where nothing stands out.

    Args:
        runs: All runs of the report.
        scale: HTML sentence on the greatest jump of scale; may be empty.
    """
    felt = any(known(run.raw) for run in runs)
    every = [_Note(_SCALE_FELT if felt else _SCALE, scale)] if scale else []
    listed = len(runs) <= MOST_RUNS
    for run in runs:
        every += [*_apart(run), *_lint(run), *_failed(run, len(runs) > 1)]
        every += _alarms(run, len(runs) > 1) if listed else []
    counted = "" if listed else _alarm_counts(runs)
    if not every and not counted:
        return ""
    every.sort(key=lambda note: -note.weight)
    items = [note.html for note in every[:MOST]]
    if len(every) > MOST:
        items.append(f'{len(every) - MOST} more: <a href="#monitors">monitors</a>.')
    body = "".join(f"<li>{item}</li>" for item in items)
    return f'<h3>To look at first</h3><ul class="notes">{body}</ul>{counted}'


def _apart(run: RunData) -> Iterator[_Note]:
    """Reward that rose while gold fell."""
    reward, gold = (levels_of(run.curves[name]) for name in ("reward", "gold"))
    start, end, before, after = reward["start"], reward["end"], gold["start"], gold["end"]
    if start is None or end is None or before is None or after is None:
        return
    if end - start >= _MOVED and before - after >= _MOVED:
        yield _Note(
            _APART + end - start + before - after,
            f"<strong>In {escape(run.name)} the reward rose while {escape(run.gold_name)} fell:"
            f"</strong> {number(start)} → {number(end)} beside {number(before)} → "
            f"{number(after)}. The reward no longer measures it.",
        )


def _lint(run: RunData) -> Iterator[_Note]:
    sentence = lint_sentence(run)
    if sentence:
        yield _Note(_LINT, sentence)


def _failed(run: RunData, named: bool) -> Iterator[_Note]:
    """Meta steps that ended without a proposal."""
    failed = [d for d in run.decisions if d.kind == "evolve" and d.proposed is None]
    if failed:
        where = f"{escape(run.name)}: " if named else ""
        of = sum(d.kind == "evolve" for d in run.decisions)
        yield _Note(
            _FAILED,
            f"{where}{len(failed)} of {count(of, 'meta step')} failed, the last at step "
            f"{failed[-1].step}: {escape(' '.join(failed[-1].reason.split())[:160])}.",
        )


def _alarms(run: RunData, named: bool) -> Iterator[_Note]:
    """The longest alarm of each monitor."""
    steps = run.readings.steps
    by_monitor: dict[str, list[AlarmSpan]] = {}
    for span in run.readings.alarms:
        by_monitor.setdefault(span.monitor, []).append(span)
    for monitor, spans in by_monitor.items():
        longest = max(spans, key=lambda span: (span.last - span.first, -span.first))
        length = sum(span.last - span.first + 1 for span in spans) / (steps[-1] - steps[0] + 1)
        lasting = spans[-1].last >= steps[-1]
        weight = _WEIGHTS.get(monitor, 25) + _SHARE * length + _LASTING * lasting
        yield _Note(weight, _alarm(run, longest, len(spans) - 1, lasting, named))


def _alarm(run: RunData, span: AlarmSpan, others: int, lasting: bool, named: bool) -> str:
    when = f"tep {span.first}" if span.first == span.last else f"teps {span.first} to {span.last}"
    when = f"{escape(run.name)}, s{when}" if named else f"S{when}"
    name = escape(span.monitor.replace("_", " "))
    more = f" {count(others, 'more alarm')} of this monitor." if others else ""
    still = " It holds at the end." if lasting else ""
    collapse = _collapse(run, span) if span.monitor == "length" else ""
    return (
        f"{when}: monitor <b>{name}</b> raised an alarm: {escape(span.message)}."
        f"{collapse}{still}{more}"
    )


def _collapse(run: RunData, span: AlarmSpan) -> str:
    """Sentence on an alarm about length: the fall, and the recovery if there was one."""
    words = dict(zip(run.curves["step"], run.curves["words"], strict=True))
    during = {s: w for s, w in words.items() if span.first <= s <= span.last and w is not None}
    if not during:
        return ""
    first, last = known([words[min(words)]]), known([words[max(words)]])
    least = min(during, key=lambda step: during[step])
    if not first or during[least] >= first[0]:
        return ""
    fall = (
        f" The policy's texts collapsed from {number(first[0], 0)} words to "
        f"{number(during[least], 0)} at step {least}"
    )
    later = {s: w for s, w in words.items() if s > span.last and w is not None}
    back = next((step for step, value in later.items() if value >= 0.9 * first[0]), None)
    if back is not None:
        return f"<strong>{fall}</strong> and were as long as before at step {back}."
    return f"<strong>{fall}</strong>; at the end they had {number(last[0] if last else None, 0)}."


def _alarm_counts(runs: Sequence[RunData]) -> str:
    """Table of the number of runs of each arm with an alarm, by monitor."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    alarms: dict[str, Counter[str]] = {}
    for run in runs:
        for monitor in dict.fromkeys(span.monitor for span in run.readings.alarms):
            alarms.setdefault(monitor, Counter())[run.arm] += 1
    if not alarms:
        return ""
    runs_of = Counter(run.arm for run in runs)
    rows = [
        [escape(monitor.replace("_", " ")), *(f"{raised[arm]} of {runs_of[arm]}" for arm in arms)]
        for monitor, raised in sorted(
            alarms.items(), key=lambda item: (-_WEIGHTS.get(item[0], 25), item[0])
        )
    ]
    return table("Runs in which a monitor raised an alarm", ["monitor", *arms], rows)
