"""Section 1: what was run, the result in one sentence, and the table of arms with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean
from typing import Any, Literal

from .elements import arm_colour, details, number, signed, table
from .levels import MeanInterval, interval, known, levels_of, span_of, welch
from .run_data import RunData

__all__ = ["headline", "summary_section", "what_was_run"]

_HEADS = (
    "reward start",
    "reward end",
    "gold start",
    "gold peak",
    "gold end",
    "end / peak",
    "hacked",
    "rubrics",
)


class _Arm:
    """An arm's runs with their levels."""

    def __init__(self, name: str, runs: Sequence[RunData]):
        self.name, self.runs = name, runs
        self.levels = {
            curve: [levels_of(run.curves[curve]) for run in runs] for curve in ("reward", "gold")
        }

    def at(self, curve: str, level: Literal["start", "peak", "end"]) -> MeanInterval | None:
        """Mean and interval over the seeds; of a single run, over its own steps at that end."""
        values = [one[level] for one in self.levels[curve]]
        if len(self.runs) > 1 or level == "peak":
            return interval(values)
        return interval(self._ends(curve)[level == "end"])

    def change(self, curve: str) -> MeanInterval | None:
        """End minus start, paired by seed; of a single run, by its steps."""
        if len(self.runs) > 1:
            pairs = [(one["start"], one["end"]) for one in self.levels[curve]]
            return interval([b - a if a is not None and b is not None else None for a, b in pairs])
        return welch(*self._ends(curve))

    def _ends(self, curve: str) -> tuple[Sequence[float | None], Sequence[float | None]]:
        values: Sequence[float | None] = self.runs[0].curves[curve]
        span = span_of(len(values))
        return values[:span], values[-span:]

    def mean(self, key: str) -> float | None:
        """Mean of a number in the summaries."""
        values = [run.summary.get(key) for run in self.runs]
        present = [float(v) for v in values if isinstance(v, int | float)]
        return fmean(present) if present else None


def summary_section(runs: Sequence[RunData], compare: Mapping[str, Any]) -> str:
    """The table of arms; if arms have several seeds, also a table of their runs."""
    arms = _arms(runs)
    names = [arm.name for arm in arms]
    rows = [
        _row(arm, escape(arm.name), arm_colour(arm.name, names), str(len(arm.runs))) for arm in arms
    ]
    gold = runs[0].gold_name
    heads = [head.replace("gold", gold) for head in _HEADS]
    parts = [
        table("Arms, with 95 % intervals", ["arm", "seeds", *heads], rows),
        _legend(runs, gold),
    ]
    if len(arms) < len(runs):
        each = [
            _row(_Arm(run.arm, [run]), escape(run.name), arm_colour(run.arm, names), str(run.seed))
            for run in runs
        ]
        body = table("Each run", ["run", "seed", *heads], each)
        parts.append(details("Each run", body, kind="quiet"))
    return "\n".join([*parts, _exploits(runs), _failed(compare)])


def _row(arm: _Arm, name: str, ink: str, count: str) -> list[str]:
    peak, end = arm.at("gold", "peak"), arm.at("gold", "end")
    swatch = f'<span class="swatch" style="background:{ink}"></span>'
    return [
        f"{swatch}{name}",
        count,
        _with_half(arm.at("reward", "start")),
        _with_half(arm.at("reward", "end")),
        _with_half(arm.at("gold", "start")),
        _with_half(peak),
        _with_half(end),
        number(end.mean / peak.mean if end and peak and peak.mean else None),
        number(arm.mean("hacked_share_end")),
        f"{fmean([len(run.numbers) for run in arm.runs]):g}",
    ]


def _with_half(value: MeanInterval | None) -> str:
    if value is None:
        return number(None)
    if value.half is None:
        return number(value.mean)
    return f'{number(value.mean)} <span class="half">± {number(value.half)}</span>'


def _legend(runs: Sequence[RunData], gold: str) -> str:
    span = max(span_of(len(run.curves["step"])) for run in runs)
    steps = f"{span} steps" if span > 1 else "step"
    several = len(_arms(runs)) < len(runs)
    over = (
        "± is the 95 % interval over the seeds (Student's t)"
        if several
        else "One seed an arm: ± is the 95 % interval over those steps of that run, and says "
        "nothing about another seed"
    )
    parts = [f"Start and end: means of the first and the last {steps}"]
    judged = [run for run in runs if known(run.curves["gold"])]
    if judged:
        parts[0] += f"; peak: the highest mean of {steps}"
    parts += ["Reward: normalized, 0 to 1", over]
    if judged:
        parts.append(
            "Hacked: share of the last steps' texts with a reward of at least 0.8 and "
            f"{gold} of at most 0.5"
        )
    if 0 < len(judged) < len(runs):
        parts.append("–: not known")
    return f'<p class="faint">{". ".join(parts)}.</p>'


def _exploits(runs: Sequence[RunData]) -> str:
    lines = [
        f"{run.name}: {', '.join(run.summary['exploits'])}"
        for run in runs
        if run.summary.get("exploits")
    ]
    if not lines:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return details("Biases of the simulated grader", f"<ul>{items}</ul>", kind="quiet")


def _failed(compare: Mapping[str, Any]) -> str:
    failed = compare.get("failed") or {}
    items = "".join(f"<li><b>{escape(k)}</b>: {escape(str(v))}</li>" for k, v in failed.items())
    return f'<p class="bad">Failed runs:</p><ul>{items}</ul>' if items else ""


# ---------------------------------------------------------------------- in words


def what_was_run(runs: Sequence[RunData]) -> str:
    """One line: task, arms and seeds, steps, rollouts, judges."""
    first = runs[0]
    arms = _arms(runs)
    seeds = max(len(arm.runs) for arm in arms)
    shape = f"{len(arms)} arms" if len(arms) > 1 else f"arm {first.arm}"
    if first.summary.get("imported"):
        shape = "a run of the published code, imported"
    elif seeds > 1:
        shape += f" × {seeds} seeds"
    elif len(arms) == 1:
        shape += f", seed {first.seed}" if first.config else ""
    longest = max(len(run.curves["step"]) for run in runs)
    trainer = first.config.get("trainer") or {}
    parts = [f"task {first.config['task']}" if first.config.get("task") else "", shape]
    if first.config.get("model"):
        parts.append(f"policy {first.config['model']} by {trainer.get('algorithm', 'a trainer')}")
    parts.append(f"{longest:,} step{'s' * (longest != 1)} with rollouts in each run")
    parts.append(f"{sum(run.rollouts for run in runs):,} rollouts judged")
    judges = list(
        dict.fromkeys(name for run in runs for name in run.sample.models if name != run.arm)
    )
    if judges:
        more = f" and {len(judges) - 3} more" if len(judges) > 3 else ""
        parts.append(f"reward model {', '.join(judges[:3])}{more}")
    return f'<p class="ran">{escape("; ".join(part for part in parts if part))}.</p>'


def headline(runs: Sequence[RunData]) -> str:
    """The result in one sentence."""
    arms = _arms(runs)
    sentence = _one_arm(arms[0]) if len(arms) == 1 else _several_arms(arms)
    return f'<p class="headline">{sentence}</p>'


def _one_arm(arm: _Arm) -> str:
    reward = (
        f"the reward went from {_level(arm, 'reward', 'start')} to {_level(arm, 'reward', 'end')}"
    )
    changes = fmean([len(run.switches) for run in arm.runs])
    rubric = (
        f"the rubric changed {changes:g} time{'s' * (changes != 1)}"
        if changes
        else "the rubric stayed as it was"
    )
    change = arm.change("gold")
    if change is None:
        return (
            f"{reward[0].upper()}{reward[1:]} (share of the rubric's points) while {rubric}; "
            "<strong>whether the policy got better is not known</strong>, since nothing but the "
            "reward model judged it."
        )
    peak, end = arm.at("gold", "peak"), arm.at("gold", "end")
    of_peak = (
        f", {100 * end.mean / peak.mean:.0f} % of its peak" if end and peak and peak.mean else ""
    )
    gold = arm.runs[0].gold_name
    return (
        f"<strong>The policy {_trend(change)}</strong> by {gold}, which went from "
        f"{_level(arm, 'gold', 'start')} to {_level(arm, 'gold', 'end')} "
        f"({_difference(change)}){of_peak}; {reward}, and {rubric}."
    )


def _several_arms(arms: Sequence[_Arm]) -> str:
    judged = [arm for arm in arms if arm.change("gold") is not None]
    if not judged:
        ends = ", ".join(f"{_level(arm, 'reward', 'end')} ({escape(arm.name)})" for arm in arms)
        return (
            f"The reward ended at {ends}; <strong>whether the policies got better is not known"
            "</strong>, since nothing but the reward model judged them."
        )
    ranked = sorted(judged, key=lambda arm: -_end(arm))
    parts = []
    for arm in ranked:
        change = arm.change("gold")
        assert change is not None
        parts.append(
            f"<strong>{escape(arm.name)}</strong> {_trend(change)} "
            f"({_level(arm, 'gold', 'start')} → {_level(arm, 'gold', 'end')})"
        )
    rewards = [arm.at("reward", "end") for arm in ranked]
    low, high = (f([r.mean for r in rewards if r]) for f in (min, max))
    span = number(low) if number(low) == number(high) else f"{number(low)} to {number(high)}"
    gold = judged[0].runs[0].gold_name
    return f"By {gold}, {'; '.join(parts)}; their rewards ended at {span}."


def _end(arm: _Arm) -> float:
    end = arm.at("gold", "end")
    return end.mean if end is not None else float("-inf")


def _trend(change: MeanInterval) -> str:
    """The change in words; one whose interval holds 0 is not clear."""
    if change.half is None or abs(change.mean) <= change.half:
        return "did not clearly change"
    return "got better" if change.mean > 0 else "got worse"


def _difference(change: MeanInterval) -> str:
    half = "" if change.half is None else f" ± {number(change.half)}"
    return f"{signed(change.mean)}{half}"


def _level(arm: _Arm, curve: str, level: Literal["start", "end"]) -> str:
    value = arm.at(curve, level)
    return number(value.mean if value else None)


def _arms(runs: Sequence[RunData]) -> list[_Arm]:
    groups: dict[str, list[RunData]] = {}
    for run in runs:
        groups.setdefault(run.arm, []).append(run)
    return [_Arm(name, group) for name, group in groups.items()]
