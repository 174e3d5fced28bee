"""Section 6: config, versions, seeds and the command."""

from __future__ import annotations

import importlib
import platform
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from typing import Any

from .elements import details, duration, number, table
from .run_data import RunData

__all__ = ["reproduce_section", "versions"]

PACKAGES = ("torch", "transformers", "trl", "accelerate", "pydantic", "bokeh")


def reproduce_section(runs: Sequence[RunData], compare: Mapping[str, Any]) -> str:
    """The section's HTML."""
    parts = ["<h3>Command</h3>", _commands(runs, compare), "<h3>Seeds and time</h3>", _seeds(runs)]
    if compare.get("seconds") is not None:
        parts.append(f"<p>The whole comparison took {duration(float(compare['seconds']))}.</p>")
    parts += ["<h3>Versions</h3>", _versions(runs), "<h3>Config</h3>", _configs(runs)]
    return "\n".join(parts)


def _commands(runs: Sequence[RunData], compare: Mapping[str, Any]) -> str:
    lines = []
    for run in runs:
        source = (run.summary.get("imported") or {}).get("from")
        if source:
            lines.append(f"mpo import {shlex.quote(str(source))} --name {shlex.quote(run.name)}")
    arms = list(dict.fromkeys(run.arm for run in runs if run.config_text))
    seeds = list(dict.fromkeys(run.seed for run in runs if run.config_text))
    if compare.get("arms") and arms:
        many = f" --seeds {len(seeds)}" if len(seeds) > 1 else ""
        lines.append(f"mpo compare config.yaml --arms {','.join(arms)}{many} --name NAME")
    elif arms:
        lines += [
            f"mpo train config.yaml --name {shlex.quote(run.name)}"
            for run in runs
            if run.config_text
        ]
    if not lines:
        return "<p>The run has no config: it was scored from a file or through the service.</p>"
    shown = escape("\n".join(lines))
    return (
        f"<p>With the config below as config.yaml:</p><pre>{shown}</pre>"
        if arms
        else f"<pre>{shown}</pre>"
    )


def _seeds(runs: Sequence[RunData]) -> str:
    rows = []
    for run in runs:
        seconds = run.summary.get("seconds")
        resumed = (run.summary.get("trainer") or {}).get("resumed_from")
        rows.append(
            [
                escape(run.name),
                str(run.seed) if run.config_text else number(None),
                f"{len(run.curves['step']):,}",
                f"{run.rollouts:,}",
                duration(float(seconds) if isinstance(seconds, int | float) else None),
                number(None) if resumed is None else escape(str(resumed)),
            ]
        )
    heads = ["run", "seed", "steps", "rollouts", "took", "resumed from step"]
    return table("Seed and time of each run", heads, rows, visible=False)


def versions() -> dict[str, str]:
    """Versions of this package, Python, and the packages on which a run's numbers depend."""
    package = importlib.import_module((__package__ or "").partition(".")[0])
    installed = {"mpo": str(package.__version__), "Python": platform.python_version()}
    for name in PACKAGES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def _versions(runs: Sequence[RunData]) -> str:
    recorded = next((run.summary["versions"] for run in runs if run.summary.get("versions")), None)
    if isinstance(recorded, Mapping):
        source, packages = "Of the run", {str(k): str(v) for k, v in recorded.items()}
    else:
        source, packages = "Where this report was written (the run kept none)", versions()
    listed = ", ".join(f"{escape(name)} {escape(version)}" for name, version in packages.items())
    return f"<p>{source}: {listed}.</p>"


def _configs(runs: Sequence[RunData]) -> str:
    parts = []
    texts: dict[str, list[RunData]] = {}
    for run in runs:
        if run.config_text:
            texts.setdefault(_shared(run), []).append(run)
    for group in texts.values():
        first = group[0]
        names = ", ".join(run.name for run in group)
        differ = (
            f'<p class="faint">The same in {escape(names)}, except for arm and seed.</p>'
            if len(group) > 1
            else ""
        )
        body = f"{differ}<pre>{escape(first.config_text)}</pre>"
        parts.append(details(f"config.yaml of {escape(first.name)}", body, opened=len(runs) == 1))
    return "\n".join(parts) or "<p>The run has no config.yaml.</p>"


def _shared(run: RunData) -> str:
    """The config without what a comparison varies."""
    shared = {key: value for key, value in run.config.items() if key not in ("arm", "seed")}
    return repr(sorted(shared.items(), key=lambda pair: str(pair[0])))
