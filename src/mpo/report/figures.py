"""Curves of reward and gold over the steps, with the switches of the rubric marked."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from statistics import fmean
from typing import Any

from ..errors import MissingExtraError
from .load import RunData

__all__ = ["COLOURS", "Figures", "anchor", "colour", "draw"]

COLOURS = {
    "fixed": "#d9622b",
    "mpo": "#2f8fd8",
    "blind": "#8f73d6",
    "expert": "#2aa37a",
    "oracle": "#b58900",
    "autoprompt": "#cc6aa5",
}
"""By arm; each readable on white and on near-black."""
_OTHERS = ("#7f8c99", "#4fa3a5", "#a8763e", "#c05a5a")

SMOOTH = 10
"""Steps of the moving mean, as in the table."""

_INK, _FAINT = "#5b6470", "#d5d9de"  # of the light page; theme.js has those of the dark one

Figures = tuple[str, str, str]
"""HTML of reward, HTML of gold (empty where there is none), and the script with its library."""


def colour(arm: str, arms: Sequence[str]) -> str:
    """The arm's colour: its own, or one of the spare ones by its place."""
    spare = [name for name in arms if name not in COLOURS]
    return COLOURS.get(arm) or _OTHERS[spare.index(arm) % len(_OTHERS)]


def anchor(run: RunData, rubric: str) -> str:
    """Where the page shows a run's rubric."""
    return f"rubric-{run.arm}-{run.seed}-{rubric}"


def draw(runs: Sequence[RunData]) -> Figures:
    """Draw all runs.

    Raises:
        MissingExtraError: bokeh is not installed.
    """
    if find_spec("bokeh") is None:
        raise MissingExtraError("bokeh", "report")
    from bokeh.embed import components
    from bokeh.resources import Resources

    figures = [_figure(runs, "reward")]
    if any(value is not None for run in runs for value in run.curves["gold"]):
        figures.append(_figure(runs, "gold"))
        figures[1].x_range = figures[0].x_range
    script, divs = components(figures)
    library = Resources(mode="inline", components=["bokeh"]).render_js()
    return divs[0], divs[1] if len(divs) > 1 else "", f"{library}\n{script}"


def _figure(runs: Sequence[RunData], what: str) -> Any:
    from bokeh.models import CustomJS, HoverTool, TapTool
    from bokeh.plotting import figure

    plot = figure(
        height=300,
        sizing_mode="stretch_width",
        tools="",
        toolbar_location=None,
        x_axis_label="step",
        y_axis_label=what,
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
    )
    arms = list(dict.fromkeys(run.arm for run in runs))
    lines, marks = [], []
    for run in runs:
        line, mark = _draw_run(plot, run, what, colour(run.arm, arms))
        lines.append(line)
        marks += [mark] if mark is not None else []
    _style(plot)
    tips = [
        ("run", "@name"),
        ("step", "@step"),
        (what, "@raw{0.00}"),
        (f"mean of {SMOOTH}", "@mean{0.00}"),
        ("rubric", "@rubric"),
    ]
    # A mark lies on its line: below and above, the two tooltips do not cover each other.
    plot.add_tools(
        HoverTool(renderers=lines, tooltips=tips, line_policy="nearest", attachment="below")
    )
    if marks:
        changed = [("run", "@name"), ("step", "@step"), ("new rubric", "@rubric"), ("", "@hint")]
        plot.add_tools(HoverTool(renderers=marks, tooltips=changed, attachment="above"))
        go = CustomJS(
            code="const i = cb_data.source.selected.indices[0];"
            "if (i !== undefined) { location.hash = cb_data.source.data.anchor[i];"
            "cb_data.source.selected.indices = [] }"
        )
        plot.add_tools(TapTool(renderers=marks, callback=go))
    return plot


def _draw_run(plot: Any, run: RunData, what: str, ink: str) -> tuple[Any, Any]:
    from bokeh.models import ColumnDataSource

    steps, values = run.curves["step"], run.curves[what]
    numbers = run.numbers
    means = _smooth(values)
    rubric = [f"#{numbers[id]}" if id in numbers else "–" for id in run.curves["rubric"]]
    gap = float("nan")
    data = ColumnDataSource(
        {
            "step": steps,
            "raw": [gap if value is None else value for value in values],
            "mean": [gap if value is None else value for value in means],
            "rubric": rubric,
            "name": [run.name] * len(steps),
        }
    )
    plot.line("step", "raw", source=data, color=ink, alpha=0.35, line_width=1)
    line = plot.line(
        "step", "mean", source=data, color=ink, line_width=2.4, legend_label=run.arm, alpha=0.95
    )
    at = {step: mean for step, mean in zip(steps, means, strict=True) if mean is not None}
    switches = [s for s in run.curves["switches"] if at]
    if not switches:
        return line, None
    last = max(at)
    places = [min(s["step"], last) for s in switches]
    marks = ColumnDataSource(
        {
            "step": [s["step"] for s in switches],
            "mean": [at.get(place, at[last]) for place in places],
            "rubric": [f"#{numbers.get(s['rubric'], '?')}" for s in switches],
            "anchor": [anchor(run, s["rubric"]) for s in switches],
            "name": [run.name] * len(switches),
            "hint": ["click: what changed, and why"] * len(switches),
        }
    )
    mark = plot.scatter(
        "step", "mean", source=marks, marker="diamond", size=13, color=ink, line_color="white"
    )
    return line, mark


def _smooth(values: Sequence[float | None]) -> list[float | None]:
    """Mean over the last steps, of what is known."""
    means: list[float | None] = []
    for end in range(1, len(values) + 1):
        known = [value for value in values[max(0, end - SMOOTH) : end] if value is not None]
        means.append(fmean(known) if known else None)
    return means


def _style(plot: Any) -> None:
    from bokeh.models import Range1d

    plot.y_range = Range1d(start=-0.02, end=1.02)
    plot.legend.location = "bottom_left"
    plot.legend.orientation = "horizontal"
    plot.legend.spacing = 16
    plot.legend.background_fill_alpha = 0.0
    plot.legend.border_line_alpha = 0.0
    plot.legend.label_text_color = _INK
    plot.legend.click_policy = "hide"
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
