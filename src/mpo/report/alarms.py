"""Section 5: alarms and figures of the monitors, unscored rollouts, and the cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .elements import details, number, table
from .levels import known
from .run_data import AlarmSpan, RunData

__all__ = ["monitors_section"]

_WIDE, _HIGH, _POINTS = 180, 34, 90
_MEANING = {
    "length_mean": "words per completion",
    "length_p95": "words, 95th percentile",
    "distinct_2": "distinct word pairs of a text",
    "compressed": "compressed bytes per byte",
    "unique": "share of different texts",
    "unscored": "share without a score",
    "ruled": "share decided by a rule",
    "flagged": "share with control strings",
    "reward_mean": "normalized reward",
    "reward_std": "its spread",
    "saturated": "share with the top score",
    "length_reward": "correlation of length and reward",
    "flat_groups": "groups whose rewards are equal",
    "dead_criteria": "criteria that always score alike",
    "length_ratio": "length against the start",
    "ngram_share": "top texts with the commonest new phrase",
    "scale_jump": "jump of the mean with a new rubric",
}


def monitors_section(runs: Sequence[RunData]) -> str:
    """The section's HTML."""
    several = len(runs) > 1
    parts = ["<h3>Alarms</h3>", _alarms(runs), "<h3>Figures over the steps</h3>"]
    if any(run.readings.afterwards for run in runs):
        parts.append(
            '<p class="faint">The run kept no readings: these come from today\'s monitors, run on '
            "its rollouts for this report.</p>"
        )
    for run in runs:
        body = _figures(run)
        parts.append(details(escape(run.name), body, kind="run") if several else body)
    parts += ["<h3>Unscored rollouts</h3>", _unscored(runs), "<h3>Cost</h3>", _cost(runs)]
    return "\n".join(parts)


def _alarms(runs: Sequence[RunData]) -> str:
    rows = [_alarm(run, span) for run in runs for span in run.readings.alarms]
    if not rows:
        watched = any(run.readings.steps for run in runs)
        return (
            f"<p>{'No monitor raised an alarm.' if watched else 'No step was monitored yet.'}</p>"
        )
    body = table(
        "Alarms of the monitors",
        ["run", "steps", "monitor", "message", "examples"],
        rows,
        visible=False,
        kinds=("", "", "words", "words", "words"),
    )
    return details(f"{len(rows)} alarms", body, kind="quiet", opened=len(rows) <= 12)


def _alarm(run: RunData, span: AlarmSpan) -> list[str]:
    when = str(span.first) if span.first == span.last else f"{span.first} to {span.last}"
    buttons = " ".join(
        f'<button type="button" class="link" data-run="{escape(run.name)}" '
        f'data-rollout="{escape(id)}">rollout {n}</button>'
        for n, id in enumerate(span.rollouts, start=1)
    )
    name = escape(span.monitor.replace("_", " "))
    return [escape(run.name), when, name, escape(span.message), buttons]


def _figures(run: RunData) -> str:
    readings = run.readings
    rows = []
    for name, values in readings.figures.items():
        present = known(values)
        if not present:
            continue
        starts = [
            span.first for span in readings.alarms if span.monitor in (name, name.split("_")[0])
        ]
        meaning = escape(_MEANING.get(name, ""))
        rows.append(
            [
                f'{escape(name.replace("_", " "))}<span class="about">{meaning}</span>',
                _spark(readings.steps, values, starts),
                *(_short(value) for value in (present[0], min(present), max(present), present[-1])),
            ]
        )
    if not rows:
        return "<p>No step was monitored yet.</p>"
    heads = ["figure", "over the steps", "first", "least", "most", "last"]
    return table(f"What the monitors measured in {run.name}", heads, rows, visible=False)


def _short(value: float) -> str:
    """About three digits."""
    return number(value, 1 if abs(value) >= 10 else 3)


def _spark(steps: Sequence[int], values: Sequence[float | None], starts: Sequence[int]) -> str:
    """A small curve; the numbers beside it are its text alternative."""
    stride = -(-len(values) // _POINTS)
    points = [(s, v) for s, v in list(zip(steps, values, strict=True))[::stride] if v is not None]
    low, high = min(v for _, v in points), max(v for _, v in points)
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def x(step: int) -> float:
        return 2 + (_WIDE - 4) * (step - first) / (last - first)

    def y(value: float) -> float:
        height = (value - low) / (high - low) if high > low else 0.5
        return _HIGH - 3 - (_HIGH - 6) * height

    line = " ".join(f"{x(step):.0f},{y(value):.1f}" for step, value in points)
    ticks = "".join(f'<path d="M{x(s):.0f} 0v{_HIGH}"/>' for s in starts)
    return (
        f'<svg class="spark" width="{_WIDE}" height="{_HIGH}" aria-hidden="true">{ticks}'
        f'<polyline points="{line}"/></svg>'
    )


def _unscored(runs: Sequence[RunData]) -> str:
    rows = [
        [escape(run.name), escape(reason), f"{count:,}", f"{100 * count / run.rollouts:.2f} %"]
        for run in runs
        for reason, count in run.unscored.items()
    ]
    if not rows:
        return "<p>None: every rollout got a score.</p>"
    heads = ["run", "reason", "rollouts", "of all"]
    note = '<p class="faint">They are in no mean: unscored is never counted as 0.</p>'
    return (
        table("Unscored rollouts by reason", heads, rows, visible=False, kinds=("", "words")) + note
    )


# ---------------------------------------------------------------------- cost


def _cost(runs: Sequence[RunData]) -> str:
    heads = (
        *("run", "role", "calls", "prompt tokens", "cached", "completion tokens"),
        *("US dollars", "latency", "slowest", "cache hits"),
    )
    rows = [
        [escape(run.name), _role(role), *_spending(run, role)] for run in runs for role in run.usage
    ]
    body = table(
        "Calls, tokens and dollars by role", heads, rows, visible=False, kinds=("", "words")
    )
    total = sum(usage.calls for run in runs for usage in run.usage.values())
    note = (
        '<p class="faint">Calls: requests that were answered and paid for. Cached: of the prompt '
        "tokens, as reported by the server. Latency: mean time of an answered call, with waiting "
        "and retries. Cache hits: calls that the run's own store answered, or that equalled one in "
        "flight. –: not recorded by the run, or no cache.</p>"
    )
    return (details(f"{total:,} calls", body, kind="quiet") if len(rows) > 12 else body) + note


def _role(role: str) -> str:
    names = {"rm": "reward model", "mrm": "meta-reward model", "audit": "second judge"}
    return escape(names.get(role, role))


def _spending(run: RunData, role: str) -> list[str]:
    usage = run.usage[role]
    cost = _entry(run.summary.get("cost"), role)
    percent = (
        f' <span class="half">{100 * usage.cached_tokens / usage.prompt_tokens:.0f} %</span>'
        if usage.cached_tokens
        else ""
    )
    timing = _entry(run.timings, role)
    calls, seconds, slowest = (_number(timing.get(k)) for k in ("calls", "seconds", "slowest_s"))
    hits = [n for n in (_number(timing.get(key)) for key in ("cached", "shared")) if n is not None]
    return [
        f"{usage.calls:,}",
        f"{usage.prompt_tokens:,}",
        f"{usage.cached_tokens:,}{percent}",
        f"{usage.completion_tokens:,}",
        number(_number(cost.get("usd")), 4),
        _seconds(seconds / calls if seconds is not None and calls else None),
        _seconds(slowest if calls else None),
        number(sum(hits), 0) if hits else number(None),
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return number(None)
    return f"{1000 * value:.1f} ms" if value < 0.1 else f"{value:.2f} s"


def _entry(value: Any, role: str) -> Mapping[str, Any]:
    entry = value.get(role) if isinstance(value, Mapping) else None
    return entry if isinstance(entry, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
