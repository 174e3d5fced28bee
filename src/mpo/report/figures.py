"""Curves over the steps, drawn with bokeh: a line for each arm and its runs, a mark for each switch
of the rubric, a triangle for each alarm.

A figure is bokeh's JSON; `report.js` puts it into the page. Text by the policy or a model stays in
data columns, which bokeh escapes in a tooltip.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from ..errors import MissingExtraError
from ..evaluation.run_metrics import SPAN
from .elements import anchor, arm_colour, number
from .levels import interval, known, moving_mean
from .run_data import RunData

__all__ = ["Curve", "draw", "library", "window"]

_ALARM = "#d64545"
_INK, _FAINT = "#5b6470", "#d5d9de"  # of the light page; report.js has those of the dark one
_GAP = float("nan")
_ROW = 0.06
"""Share of the axis' height for one arm's row of alarms."""


@dataclass(frozen=True)
class Curve:
    """Content of one figure."""

    key: str
    """Name of the figure in the page's ids."""
    title: str
    axis: str
    values: Mapping[int, Mapping[int, float | None]]
    """Values by step, by place of the run; None is a gap."""
    unit: bool = True
    """True if the values lie between 0 and 1."""
    smooth: bool = True
    """False for values that are drawn as they are, however long the run is."""
    digits: int = 1
    """Digits after the point of values that do not; 0 for three significant ones."""

    def means(self, place: int) -> list[float | None]:
        """Moving mean of a run's values."""
        values = list(self.values[place].values())
        return moving_mean(values, window(len(values)) if self.smooth else 1)

    def text(self, value: float | None) -> str:
        """A value for a table."""
        if self.unit or self.digits or value is None:
            return number(value, 3 if self.unit else self.digits)
        return f"{value:.3g}"


def library() -> str:
    """Bokeh's own script.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    _require_bokeh()
    from bokeh.resources import Resources

    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def draw(runs: Sequence[RunData], curve: Curve) -> Any:
    """A figure as JSON values, for `Bokeh.embed.embed_item`.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    _require_bokeh()
    from bokeh.core.json_encoder import serialize_json
    from bokeh.embed import json_item
    from bokeh.plotting import figure

    plot = figure(
        height=300,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        x_axis_label="step",
        y_axis_label=curve.axis,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    arms = list(dict.fromkeys(run.arm for run in runs))
    several = {arm: sum(run.arm == arm for run in runs) > 1 for arm in arms}
    lines, marks, alarms = [], [], []
    for place, run in enumerate(runs):
        if place in curve.values:
            ink = arm_colour(run.arm, arms)
            course = _Course(run, curve, place, ink, several[run.arm])
            lines.append(course.line(plot))
            marks += course.switches(plot)
            alarms += course.alarms(plot, *_rail(curve, arms, run.arm))
    for arm in arms:
        if several[arm]:
            _band(plot, runs, curve, arm, arm_colour(arm, arms))
    _style(plot, curve, len(arms) if alarms else 0)
    _tools(plot, curve, lines, marks, alarms)
    # Bokeh's own encoder: plain json does not know its number arrays.
    return json.loads(serialize_json(json_item(plot)))


def _require_bokeh() -> None:
    if find_spec("bokeh") is None:
        raise MissingExtraError("bokeh", "report")


def window(steps: int) -> int:
    """Steps of the moving mean; 1 for a short run, which is shown as it is."""
    return SPAN if steps >= 4 * SPAN else 1


class _Course:
    """One run's line with the marks on it.

    Args:
        run: The run.
        curve: The figure's curve.
        place: Place of the run.
        ink: Colour of the arm.
        several: True if the arm has other runs, too.
    """

    def __init__(self, run: RunData, curve: Curve, place: int, ink: str, several: bool) -> None:
        self.run, self.ink, self.several = run, ink, several
        values = curve.values[place]
        self.steps, self.values = list(values), list(values.values())
        self.means, self.smooth = curve.means(place), curve.smooth
        self.at = {
            step: mean
            for step, mean in zip(self.steps, self.means, strict=True)
            if mean is not None
        }

    def line(self, plot: Any) -> Any:
        from bokeh.models import ColumnDataSource

        ids = dict(zip(self.run.curves["step"], self.run.curves["rubric"], strict=True))
        rubrics = [_rubric_name(self.run, ids.get(step, "")) for step in self.steps]
        data = ColumnDataSource(
            {
                "step": list(self.steps),
                "raw": [_GAP if value is None else _short_number(value) for value in self.values],
                "mean": [_GAP if value is None else _short_number(value) for value in self.means],
                "rubric": rubrics,
                "name": [self.run.name] * len(self.steps),
            }
        )
        if not self.several and self.smooth and window(len(self.values)) > 1:
            thin = plot.line("step", "raw", source=data, color=self.ink, alpha=0.3, line_width=1)
            thin.name = self.run.arm
        alpha, width = (0.3, 1.2) if self.several else (0.95, 2.4)
        line = plot.line("step", "mean", source=data, color=self.ink, line_width=width, alpha=alpha)
        line.name = self.run.arm
        return line

    def switches(self, plot: Any) -> list[Any]:
        switches = [s for s in self.run.switches if self.at]
        data: dict[str, list[Any]] = {
            "step": [s.step for s in switches],
            "mean": [self._height(s.step) for s in switches],
            "rubric": [_switch_name(s.cohort, s.old, s.new) for s in switches],
            "reason": [_short(self.run.decisions[s.index].reason) for s in switches],
            "anchor": [anchor(self.run, s.index) for s in switches],
            "hint": ["click to see what changed"] * len(switches),
        }
        size = 10 if self.several else 15
        return self._marks(plot, "mean", data, "diamond", size, self.ink)

    def alarms(self, plot: Any, floor: float, ink: str) -> list[Any]:
        spans = self.run.readings.alarms
        data: dict[str, list[Any]] = {
            "step": [s.first for s in spans],
            "floor": [floor] * len(spans),
            "monitor": [s.monitor for s in spans],
            "until": [s.last for s in spans],
            "message": [_short(s.message) for s in spans],
        }
        return self._marks(plot, "floor", data, "triangle", 9, ink)

    def _marks(
        self, plot: Any, y: str, data: Mapping[str, list[Any]], marker: str, size: int, ink: str
    ) -> list[Any]:
        """One renderer for all marks of a kind; none where there are no marks."""
        if not data["step"]:
            return []
        mark = plot.scatter(
            "step",
            y,
            source={**data, "name": [self.run.name] * len(data["step"])},
            marker=marker,
            size=size,
            fill_color=ink,
            line_color="white",
            line_width=1.2 if marker == "diamond" else 1,
        )
        mark.name = self.run.arm
        return [mark]

    def _height(self, step: int) -> float:
        """Height of the line at a step, or at the nearest one that has a value."""
        nearest = min(self.at, key=lambda known_step: (abs(known_step - step), known_step))
        return self.at[nearest]


def _band(plot: Any, runs: Sequence[RunData], curve: Curve, arm: str, ink: str) -> None:
    """Mean of an arm's runs with its 95 % interval."""
    from bokeh.models import ColumnDataSource

    by_step: dict[int, list[float]] = {}
    for place, run in enumerate(runs):
        if run.arm == arm and place in curve.values:
            for step, mean in zip(curve.values[place], curve.means(place), strict=True):
                if mean is not None:
                    by_step.setdefault(step, []).append(mean)
    steps = sorted(by_step)
    intervals = [interval(by_step[step]) for step in steps]
    source = ColumnDataSource(
        {
            "step": steps,
            "mean": [i.mean if i else _GAP for i in intervals],
            "low": [i.mean - (i.half or 0.0) if i else _GAP for i in intervals],
            "high": [i.mean + (i.half or 0.0) if i else _GAP for i in intervals],
        }
    )
    area = plot.varea("step", "low", "high", source=source, fill_color=ink, fill_alpha=0.13)
    line = plot.line("step", "mean", source=source, color=ink, line_width=2.8)
    area.name = line.name = arm


def _tools(plot: Any, curve: Curve, lines: list[Any], marks: list[Any], alarms: list[Any]) -> None:
    from bokeh.models import CustomJS, HoverTool, TapTool

    form = "%.3f" if curve.unit else f"%.{curve.digits}f" if curve.digits else "%.3g"
    tips = [
        ("run", "@name"),
        ("step", "@step"),
        (curve.axis, f"@raw{{{form}}}"),
        ("mean", f"@mean{{{form}}}"),
        ("rubric", "@rubric"),
    ]
    formatters: Any = {"@raw": "printf", "@mean": "printf"}
    # A mark lies on its line: below and above, the two tooltips do not cover each other.
    plot.add_tools(
        HoverTool(
            renderers=lines,
            tooltips=tips,
            formatters=formatters,
            line_policy="nearest",
            attachment="below",
        )
    )
    if alarms:
        tips_alarm = [("run", "@name"), ("alarm", "@monitor"), ("steps", "@step to @until")]
        plot.add_tools(
            HoverTool(
                renderers=alarms, tooltips=[*tips_alarm, ("", "@message")], attachment="above"
            )
        )
    if marks:
        tips_switch = [("run", "@name"), ("step", "@step"), ("rubric", "@rubric")]
        tips_switch += [("why", "@reason"), ("", "@hint")]
        plot.add_tools(HoverTool(renderers=marks, tooltips=tips_switch, attachment="above"))
        go = CustomJS(
            code="const source = cb_data.source, i = source.selected.indices[0];"
            "if (i !== undefined) {source.selected.indices = [];"
            "window.mpoReport.show(source.data.anchor[i])}"
        )
        plot.add_tools(TapTool(renderers=marks, callback=go))


def _style(plot: Any, curve: Curve, rails: int) -> None:
    from bokeh.models import Range1d

    low, top = _limits(curve)
    plot.y_range = Range1d(
        start=low - _ROW * (rails + 0.5) * (top - low), end=top + 0.04 * (top - low)
    )
    if curve.unit:
        plot.yaxis.ticker = [0, 0.2, 0.4, 0.6, 0.8, 1]  # none beside the alarms below
    plot.axis.axis_line_color = _FAINT
    plot.axis.major_tick_line_color = _FAINT
    plot.axis.minor_tick_line_color = None
    plot.axis.axis_label_text_color = _INK
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.major_label_text_color = _INK
    plot.axis.major_label_text_font_size = "12px"
    plot.grid.grid_line_color = _FAINT
    plot.grid.grid_line_alpha = 0.6
    plot.xgrid.visible = False
    plot.min_border_right = 12


def _limits(curve: Curve) -> tuple[float, float]:
    """Least and greatest value of the axis, before its margins."""
    if curve.unit:
        return 0.0, 1.0
    present = [value for course in curve.values.values() for value in known([*course.values()])]
    low, top = min(0.0, *present), max(0.0, *present)
    return low, top if top > low else low + 1.0


def _rail(curve: Curve, arms: Sequence[str], arm: str) -> tuple[float, str]:
    """Height and colour of an arm's alarms: each arm has a row below the axis' least value."""
    low, top = _limits(curve)
    ink = arm_colour(arm, arms) if len(arms) > 1 else _ALARM
    return low - _ROW * (arms.index(arm) + 0.8) * (top - low), ink


def _rubric_name(run: RunData, id: str) -> str:
    numbers = {rubric: number for (_, rubric), number in run.numbers.items()}
    return f"#{numbers[id]}" if id in numbers else "–"


def _switch_name(cohort: str, old: int | None, new: int) -> str:
    return f"{cohort} #{'?' if old is None else old} → #{new}".strip()


def _short_number(value: float) -> float:
    """Six significant digits: more would only make the file larger."""
    return float(f"{value:.6g}")


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 120 else f"{line[:119]}…"
