"""Results of a comparison: `compare.json`, the table, and the commands to go on with."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from ..config import ARMS, finished
from ..errors import MissingExtraError
from ..report import write_report
from .tables import in_brackets, number, table

__all__ = [
    "cost_lines",
    "gather",
    "next_commands",
    "report_or_why",
    "results_table",
    "tensorboard_command",
    "total_costs",
]


def cost_lines(costs: Mapping[str, Mapping[str, Any]]) -> str:
    """Use and cost by role, one line each; the body of `summary.json`'s `cost`."""
    lines = []
    for role, spent in costs.items():
        cached = f" ({spent['cached_tokens']:,} cached)" if spent["cached_tokens"] else ""
        usd = "no price given" if spent["usd"] is None else f"{spent['usd']:.4f} USD"
        lines.append(
            f"{role}: {spent['calls']:,} calls, {spent['prompt_tokens']:,} prompt tokens{cached}, "
            f"{spent['completion_tokens']:,} completion tokens, {usd}"
        )
    return "\n".join(lines) or "no model was called"


def total_costs(compare: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Use and cost by role of all finished runs of a comparison; `usd` is None where one of them
    has no price."""
    totals: dict[str, dict[str, Any]] = {}
    for arm in compare["arms"].values():
        for seed in arm["seeds"]:
            for role, spent in (seed.get("cost") or {}).items():
                total = totals.get(role)
                totals[role] = dict(spent) if total is None else _added(total, spent)
    return totals


def _added(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: None if value is None or other[key] is None else value + other[key]
        for key, value in one.items()
    }


def report_or_why(runs: Sequence[Path], out: Path, compare: Mapping[str, Any] | None = None) -> str:
    """Write the report and say where it is. A run is no failure because bokeh is not installed."""
    try:
        write_report(runs, out, compare)
    except MissingExtraError as error:
        return f"no report: {error}"
    return f"report: {out}"


def gather(folder: Path, arms: Sequence[str], seeds: Sequence[int]) -> dict[str, Any]:
    """Arms and seeds that are finished, from their `summary.json`: the body of `compare.json`."""
    body: dict[str, Any] = {}
    for arm in arms:
        summaries = [finished(folder / f"{arm}-{seed}") for seed in seeds]
        body[arm] = {"seeds": [_seed(summary) for summary in summaries if summary is not None]}
    return body


def _seed(summary: Mapping[str, Any]) -> dict[str, Any]:
    first = (
        "seed",
        "measure",
        "reward",
        "gold",
        "gold_parts",
        "hacked_share_end",
        "rubrics",
        "exploits",
    )
    rest = [key for key in summary if key not in (*first, "arm", "simulated", "trainer")]
    return {key: summary.get(key) for key in (*first, *rest)}


def results_table(compare: Mapping[str, Any]) -> Table:
    """One line per arm and seed; of an arm with several the mean and the spread over them."""
    measure = _measure(compare)
    measured = f" and {measure}" if _has_gold(compare) else ""
    title = f"reward{measured} by arm{in_brackets(compare['simulated'])}"
    start = "gold start" if measure == "gold" else "start"
    heads = ("reward", start, "peak", "end", "end/peak", "hacked", "rubrics")
    rows: list[list[str] | None] = []
    for arm, body in compare["arms"].items():
        seeds = body["seeds"]
        rows += [[f"{arm} {seed['seed']}", *_cells([seed])] for seed in seeds]
        if len(seeds) > 1:
            rows += [[f"{arm} mean", *_cells(seeds)], [f"{arm} ± sd", *_spread(seeds)], None]
        if not seeds:
            rows.append([arm, "no run finished"])
    return table(title, heads, rows, names="arm, seed")


def _has_gold(compare: Mapping[str, Any]) -> bool:
    seeds = [seed for body in compare["arms"].values() for seed in body["seeds"]]
    return any(_at(seed, ("gold", "end")) is not None for seed in seeds)


def _cells(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    def mean(*path: str) -> float | None:
        values = [_at(seed, path) for seed in seeds]
        known = [value for value in values if value is not None]
        return fmean(known) if known else None

    start, end, peak = mean("reward", "start"), mean("reward", "end"), mean("gold", "peak")
    gold_end = mean("gold", "end")
    share = None if gold_end is None or not peak else gold_end / peak
    rubrics = mean("rubrics")
    return [
        f"{number(start)} → {number(end)}",
        number(mean("gold", "start")),
        number(peak),
        number(gold_end),
        number(share),
        number(mean("hacked_share_end")),
        number(rubrics, 0 if rubrics is not None and rubrics == int(rubrics) else 1),
    ]


def _measure(compare: Mapping[str, Any]) -> str:
    """Name of the columns beside the reward: gold, or what the sandbox measures for the task."""
    seeds = [seed for body in compare["arms"].values() for seed in body["seeds"]]
    return next((str(seed["measure"]) for seed in seeds if seed.get("measure")), "gold")


def _spread(seeds: Sequence[Mapping[str, Any]]) -> list[str]:
    """Standard deviation over the seeds, in the columns of `_cells`."""

    def sd(*path: str) -> float | None:
        known = [value for seed in seeds if (value := _at(seed, path)) is not None]
        return stdev(known) if len(known) > 1 else None

    shares = [
        end / peak
        for seed in seeds
        if (end := _at(seed, ("gold", "end"))) is not None and (peak := _at(seed, ("gold", "peak")))
    ]
    return [
        f"{number(sd('reward', 'start'))} → {number(sd('reward', 'end'))}",
        *(number(sd("gold", name)) for name in ("start", "peak", "end")),
        number(stdev(shares) if len(shares) > 1 else None),
        number(sd("hacked_share_end")),
        number(sd("rubrics"), 1),
    ]


def _at(seed: Mapping[str, Any], path: Sequence[str]) -> float | None:
    value: Any = seed
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


def next_commands(run: Path, compared: bool = False) -> str:
    """The most useful commands after a run or a comparison."""
    evolving = next((name for name, arm in ARMS.items() if arm.evolves), "mpo")
    one = next(iter(sorted(run.glob(f"{evolving}-*"))), run) if compared else run
    if not compared and len(list((run / "rubrics").glob("step-*.md"))) < 2:
        # One rubric all the time: its criteria say more than its history.
        last = [f"mpo evaluate judge {_quoted(one)}", f"mpo rubric show {_quoted(one)}"]
    else:
        last = [f"mpo rubric diff {_quoted(one)}", f"mpo rubric show {_quoted(one)} --lineage"]
    commands = [f"mpo report {_quoted(run)} --open", *last]
    if next(run.glob("*/tensorboard" if compared else "tensorboard"), None) is not None:
        commands.append(tensorboard_command(run if compared else run / "tensorboard"))
    return "\n".join(["next:", *(f"  {command}" for command in commands)])


def tensorboard_command(folder: Path) -> str:
    """The command that shows a run's curves, or those of all runs under a folder."""
    return f"tensorboard --logdir {_quoted(folder)}"


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
