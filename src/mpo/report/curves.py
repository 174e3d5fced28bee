"""Section 2: reward and gold over the steps, and the mean before and after each switch."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from .elements import anchor, arm_colour, details, number, signed, table
from .figures import Curve, draw, window
from .levels import known, levels_of
from .run_data import RunData, Switch

__all__ = ["curves_section", "figures", "scale_sentence"]

TRAINER_TITLES = {
    "loss": "Loss of the policy",
    "kl": "KL divergence from the policy before training, per token",
    "entropy": "Entropy of the policy, per token",
    "learning_rate": "Learning rate",
}
"""Titles of the trainer's figures, in their order."""
ROWS = 150
"""The most rows of a figure's table; of a longer run it has every second, third, ... step."""


def figures(runs: Sequence[RunData]) -> list[tuple[Curve, Any]]:
    """The curves of the section, each with bokeh's JSON for it.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    return [(curve, draw(runs, curve)) for curve in _curves(runs)]


def _curves(runs: Sequence[RunData]) -> list[Curve]:
    gold = " or ".join(dict.fromkeys(run.gold_name for run in runs))
    gold_title = f"{gold.capitalize()}: what the reward should measure"
    reward_title = "Normalized reward: share of the rubric's points"
    raw_title = "Reward as the policy got it, in points"
    reward, gold_course, words = (_courses(runs, key) for key in ("reward", "gold", "words"))
    raw = {
        n: dict(zip(run.curves["step"], run.raw, strict=True))
        for n, run in enumerate(runs)
        if run.raw
    }
    every = [
        Curve("reward", reward_title, "reward", reward),
        Curve("gold", gold_title, gold, gold_course),
        Curve("raw", raw_title, "points", raw, unit=False),
        Curve("words", "Words per completion", "words", words, unit=False),
        *(_trainer_curve(runs, name, title) for name, title in TRAINER_TITLES.items()),
    ]
    return [curve for curve in every if curve.values]


def _courses(runs: Sequence[RunData], key: str) -> dict[int, dict[int, float | None]]:
    """Values by step of the runs that have any, by place of the run."""
    return {
        place: dict(zip(run.curves["step"], run.curves[key], strict=True))
        for place, run in enumerate(runs)
        if known(run.curves[key])
    }


def _trainer_curve(runs: Sequence[RunData], name: str, title: str) -> Curve:
    """A figure of the trainer. It may log every tenth update only: what it left out is no gap."""
    courses = {
        place: {
            step: value for step, value in sorted(run.trainer[name].items()) if value is not None
        }
        for place, run in enumerate(runs)
        if name in run.trainer
    }
    shown = {place: course for place, course in courses.items() if course}
    axis = "KL" if name == "kl" else name.replace("_", " ")
    smooth = name != "learning_rate"  # it has no noise, and a schedule should be seen as it is
    return Curve(name, title, axis, shown, unit=False, smooth=smooth, digits=0)


def curves_section(runs: Sequence[RunData], drawn: Sequence[tuple[Curve, Any]]) -> str:
    """The section's HTML; `report.js` fills in the figures."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    switches = any(run.switches for run in runs)
    several = len(arms) < len(runs)
    intro = (
        "Thick: mean of the arm's seeds, with its 95 % interval; thin: each run." if several else ""
    )
    if any(window(len(run.curves["step"])) > 1 for run in runs):
        intro += " Lines are means of the last 10 steps."
    if switches:
        intro += " Diamonds: the rubric changed; click one to see what changed and why."
    if any(run.readings.alarms for run in runs):
        intro += " Triangles below: an alarm of a monitor begins."
    parts = [f'<p class="faint">{intro.strip()} Point at a line for its values.</p>']
    if len(arms) > 1:
        parts.append(_legend(arms))
    figures_html = "".join(_figure(runs, curve) for curve, _ in drawn)
    parts.append(f'<div class="figures">{figures_html}</div>')
    if switches:
        parts.append(_switches(runs))
    return "\n".join(parts)


def _legend(arms: Sequence[str]) -> str:
    buttons = "".join(
        f'<button type="button" class="arm" aria-pressed="true" data-arm="{escape(arm)}">'
        f'<span class="swatch" style="background:{arm_colour(arm, arms)}"></span>'
        f"{escape(arm)}</button>"
        for arm in arms
    )
    return f'<div class="legend" role="group" aria-label="Arms shown">{buttons}</div>'


def _figure(runs: Sequence[RunData], curve: Curve) -> str:
    ends = []
    for place, course in curve.values.items():
        level = levels_of([*course.values()])
        start, end = curve.text(level["start"]), curve.text(level["end"])
        ends.append(f"{runs[place].name} from {start} to {end}")
    label = escape(f"{curve.title}. {'; '.join(ends)}. The values are in the table below.")
    values = details("Values as a table", _values(runs, curve), kind="quiet")
    return (
        f'<figure id="figure-{curve.key}"><figcaption>{escape(curve.title)}</figcaption>'
        f'<div class="plot" id="plot-{curve.key}" role="img" aria-label="{label}"></div>'
        f"{values}</figure>"
    )


def _values(runs: Sequence[RunData], curve: Curve) -> str:
    columns = curve.values
    steps = sorted(dict.fromkeys(step for column in columns.values() for step in column))
    stride = -(-len(steps) // ROWS)
    shown = [step for n, step in enumerate(steps) if n % stride == 0 or n == len(steps) - 1]
    rows = [
        [str(step), *(curve.text(column.get(step)) for column in columns.values())]
        for step in shown
    ]
    thinned = f", every {stride} steps" if stride > 1 else ""
    names = [runs[place].name for place in columns]
    return table(f"{curve.axis.capitalize()} by step{thinned}", ["step", *names], rows)


# ---------------------------------------------------------------------- switches


def _switches(runs: Sequence[RunData]) -> str:
    many = sum(len(run.switches) for run in runs) > 16
    rows = [_row(run, switch, len(runs) > 1) for run in runs for switch in run.switches]
    heads = ("switch", "points possible", "mean points", "normalized mean", "moved", "reading")
    body = table(
        "The mean on the last steps under the old rubric, and on the first under the new one",
        heads,
        rows,
        kinds=("", "", "", "", "", "words"),
    )
    sentence = scale_sentence(runs)
    intro = (
        '<h3 id="switches">What each switch did to the mean</h3>\n'
        '<p class="faint">Points are the plain sum over the criteria, as in the paper. When a '
        "rubric gets more criteria the sum jumps with the same policy; the normalized mean, the "
        "share of the attainable points, does not.</p>"
    )
    callout = f'<p class="callout">{sentence}</p>' if sentence else ""
    return (
        intro + callout + (details(f"{len(rows)} switches", body, kind="quiet") if many else body)
    )


def _row(run: RunData, switch: Switch, named: bool) -> list[str]:
    old = "?" if switch.old is None else switch.old
    name = f"{escape(run.name)}, " if named else ""
    where = f"{escape(switch.cohort)} " if switch.cohort else ""
    link = (
        f'<a href="#{escape(anchor(run, switch.index))}">{name}step {switch.step}: '
        f"{where}#{old} → #{switch.new}</a>"
    )
    before, after = switch.normalized_before, switch.normalized_after
    moved = None if before is None or after is None else after - before
    return [
        link,
        f"{_range(switch.old_range)} → {_range(switch.new_range)}",
        f"{number(switch.points_before)} → {number(switch.points_after)}",
        f"{number(before)} → {number(after)}",
        signed(moved),
        escape(_reading(switch, moved)),
    ]


def _range(limits: tuple[float, float]) -> str:
    low, high = limits
    return f"{high:g}" if low == 0 else f"{low:g} to {high:g}"


def _reading(switch: Switch, moved: float | None) -> str:
    if moved is None:
        return "not known: no step before or after"
    size = "hardly moved" if abs(moved) < 0.05 else "rose" if moved > 0 else "fell"
    if switch.rescaled:
        return f"another scale: sums cannot be compared; the normalized mean {size}"
    return f"same scale; the mean {size}"


def scale_sentence(runs: Sequence[RunData]) -> str:
    """HTML sentence on the greatest jump of the plain sum that comes from a change of scale."""
    jumps = [
        (switch.points_after / switch.points_before, run, switch)
        for run in runs
        for switch in run.switches
        if switch.rescaled and switch.points_before and switch.points_after
        if switch.points_before > 0 and switch.points_after > 0
    ]
    if not jumps:
        return ""
    factor, run, switch = max(jumps, key=lambda jump: max(jump[0], 1 / jump[0]))
    before, after = switch.normalized_before, switch.normalized_after
    if before is None or after is None:
        return ""
    change = after - before
    trend = "stayed about where it was" if abs(change) < 0.05 else "rose" if change > 0 else "fell"
    kind = "A change of scale, not of quality" if change < 0.05 else "Mostly a change of scale"
    return (
        f"<strong>{kind}:</strong> in "
        f"{escape(run.name)} at step {switch.step} the mean went from "
        f"{number(switch.points_before)} of {switch.old_range[1]:g} points to "
        f"{number(switch.points_after)} of {switch.new_range[1]:g} (× {factor:.1f}), since rubric "
        f"#{switch.new} has that many points to give. As a share of the points the mean "
        f"{trend}: {number(before)} → {number(after)}."
    )
