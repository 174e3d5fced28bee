"""Section 5: what monitors saw, what stayed unscored, what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from .elements import details, number, table
from .levels import known
from .load import RunData
from .readings import Spell

__all__ = ["monitors_section"]

_WIDE, _HIGH, _POINTS = 180, 34, 90
_ABOUT = {
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
    "kl": "KL from the reference policy",
}


def monitors_section(runs: Sequence[RunData]) -> str:
    """The section's HTML."""
    several = len(runs) > 1
    parts = ["<h3>Alarms</h3>", _alarms(runs), "<h3>Figures over the steps</h3>"]
    if any(run.readings.afterwards for run in runs):
        parts.append(
            '<p class="faint">The run kept no readings: these are of today\'s monitors, made from '
            "its rollouts for this report.</p>"
        )
    for run in runs:
        body = _figures(run)
        parts.append(details(escape(run.name), body, kind="run") if several else body)
    parts += ["<h3>Unscored rollouts</h3>", _unscored(runs), "<h3>Cost</h3>", _cost(runs)]
    return "\n".join(parts)


def _alarms(runs: Sequence[RunData]) -> str:
    rows = [_alarm(run, spell) for run in runs for spell in run.readings.spells]
    if not rows:
        watched = any(run.readings.steps for run in runs)
        return f"<p>{'No monitor called.' if watched else 'No step was watched yet.'}</p>"
    body = table(
        "Alarms of the monitors",
        ["run", "steps", "monitor", "what it saw", "for example"],
        rows,
        visible=False,
        kinds=("", "", "words", "words", "words"),
    )
    return details(f"{len(rows)} alarms", body, kind="quiet", opened=len(rows) <= 12)


def _alarm(run: RunData, spell: Spell) -> list[str]:
    when = str(spell.first) if spell.first == spell.last else f"{spell.first} to {spell.last}"
    buttons = " ".join(
        f'<button type="button" class="link" data-run="{escape(run.name)}" '
        f'data-rollout="{escape(id)}">rollout {n}</button>'
        for n, id in enumerate(spell.rollouts, start=1)
    )
    name = escape(spell.monitor.replace("_", " "))
    return [escape(run.name), when, name, escape(spell.message), buttons]


def _figures(run: RunData) -> str:
    readings = run.readings
    rows = []
    for name, values in readings.figures.items():
        there = known(values)
        if not there:
            continue
        called = [
            spell.first for spell in readings.spells if spell.monitor in (name, name.split("_")[0])
        ]
        about = escape(_ABOUT.get(name, ""))
        rows.append(
            [
                f'{escape(name.replace("_", " "))}<span class="about">{about}</span>',
                _spark(readings.steps, values, called),
                *(_short(value) for value in (there[0], min(there), max(there), there[-1])),
            ]
        )
    if not rows:
        return "<p>No step was watched yet.</p>"
    heads = ["figure", "over the steps", "first", "least", "most", "last"]
    return table(f"What the monitors measured in {run.name}", heads, rows, visible=False)


def _short(value: float) -> str:
    """Three digits or so."""
    return number(value, 1 if abs(value) >= 10 else 3)


def _spark(steps: Sequence[int], values: Sequence[float | None], called: Sequence[int]) -> str:
    """A small curve; the numbers beside it are its text."""
    stride = -(-len(values) // _POINTS)
    points = [(s, v) for s, v in list(zip(steps, values, strict=True))[::stride] if v is not None]
    low, high = min(v for _, v in points), max(v for _, v in points)
    first, last = steps[0], max(steps[-1], steps[0] + 1)

    def x(step: int) -> float:
        return 2 + (_WIDE - 4) * (step - first) / (last - first)

    def y(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return _HIGH - 3 - (_HIGH - 6) * share

    line = " ".join(f"{x(step):.0f},{y(value):.1f}" for step, value in points)
    ticks = "".join(f'<path d="M{x(s):.0f} 0v{_HIGH}"/>' for s in called)
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
        [escape(run.name), _role(role), *_spent(run, role)] for run in runs for role in run.usage
    ]
    body = table(
        "Calls, tokens and dollars by role", heads, rows, visible=False, kinds=("", "words")
    )
    total = sum(usage.calls for run in runs for usage in run.usage.values())
    note = (
        '<p class="faint">Calls: requests that were answered and paid for. Cached: of the prompt '
        "tokens, as the server says. Latency: mean time of an answered call, its waiting and its "
        "retries included. Cache hits: calls that the run's own store could answer, or that were "
        "asked twice at once. –: not recorded by the run, or no cache.</p>"
    )
    return (details(f"{total:,} calls", body, kind="quiet") if len(rows) > 12 else body) + note


def _role(role: str) -> str:
    names = {"rm": "reward model", "mrm": "meta-reward model", "audit": "second reward model"}
    return escape(names.get(role, role))


def _spent(run: RunData, role: str) -> list[str]:
    usage = run.usage[role]
    cost = _of(run.summary.get("cost"), role)
    share = (
        f' <span class="half">{100 * usage.cached_tokens / usage.prompt_tokens:.0f} %</span>'
        if usage.cached_tokens
        else ""
    )
    timing = _of(run.timings, role)
    calls, seconds, slowest = (_number(timing.get(k)) for k in ("calls", "seconds", "slowest_s"))
    spared = [
        n for n in (_number(timing.get(key)) for key in ("cached", "shared")) if n is not None
    ]
    return [
        f"{usage.calls:,}",
        f"{usage.prompt_tokens:,}",
        f"{usage.cached_tokens:,}{share}",
        f"{usage.completion_tokens:,}",
        number(_number(cost.get("usd")), 4),
        _seconds(seconds / calls if seconds is not None and calls else None),
        _seconds(slowest if calls else None),
        number(sum(spared), 0) if spared else number(None),
    ]


def _seconds(value: float | None) -> str:
    if value is None:
        return number(None)
    return f"{1000 * value:.1f} ms" if value < 0.1 else f"{value:.2f} s"


def _of(value: Any, role: str) -> Mapping[str, Any]:
    found = value.get(role) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
