"""The page: six sections, their style and script, and the texts, in one file.

Text by a model is escaped on its way into the page, or packed.
"""

from __future__ import annotations

import importlib
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from importlib import metadata
from pathlib import Path
from typing import Any

from ..errors import StoreError
from ..evaluation.simulated import sandbox_mark
from ..records import to_json
from .alarms import monitors_section
from .curves import curves_section, figures, scale_sentence
from .decisions import decisions_section
from .elements import badge, details, duration, number, section, table
from .figures import library
from .notes import notes
from .rollouts import pack, pack_texts, rollouts_section
from .run_data import RunData, load_run
from .summary import headline, summary_section, what_was_run

__all__ = ["LARGEST", "versions", "write_report"]

LARGEST = 3_000_000
"""The most bytes of a report. Rollouts get what the rest leaves, but at least `LEAST_ROOM`."""
LEAST_ROOM = 400_000
"""Characters for rollouts, however large the rest is."""
QUOTA = 10_000
"""Rollouts that are read for the page, over all runs."""
_SECTIONS = (
    ("arms", "Result"),
    ("curves", "Curves"),
    ("rubric", "The life of the rubric"),
    ("texts", "Rollouts"),
    ("monitors", "Monitors and cost"),
    ("reproduce", "How to reproduce it"),
)
_HERE = Path(__file__).parent
PACKAGES = ("torch", "transformers", "trl", "accelerate", "pydantic", "bokeh")
"""Packages on which a run's numbers depend."""


def write_report(runs: Sequence[Path], out: Path, compare: Mapping[str, Any] | None = None) -> None:
    """Write one self-contained HTML file.

    Args:
        runs: Folders of runs, or their stores; at least one.
        out: The file; replaced if it exists.
        compare: Content of `compare.json`, which alone has the failed runs and the total seconds.

    Raises:
        DataError: A run has no judgement.
        MissingExtraError: bokeh is not installed.
        StoreError: A store cannot be read, or the file cannot be written.
    """
    loaded = [
        load_run(path, QUOTA // len(runs), name)
        for path, name in zip(runs, _run_names(runs), strict=True)
    ]
    html = render(loaded, _name(runs), compare or {})
    partial = out.with_name(f".{out.name}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # A model may emit a lone surrogate; a browser shows a replacement character for it.
        partial.write_bytes(html.encode("utf-8", "replace"))
        partial.replace(out)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"{out}: cannot be written: {error.strerror or error}") from error


def _name(runs: Sequence[Path]) -> str:
    """Name of the run, or of the folder that the runs have in common."""
    folders = [path.resolve() for path in runs]
    if len(folders) == 1:
        return folders[0].name
    return Path(os.path.commonpath([folder.parent for folder in folders])).name or "runs"


def _run_names(runs: Sequence[Path]) -> list[str]:
    """Different names for all runs, with as much of the path as that takes."""
    parts = [path.resolve().parts for path in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(dict.fromkeys(names)) == len(names):
            return names
    return [f"{name} ({n})" for n, name in enumerate(names, start=1)]  # the same run is given twice


def render(runs: Sequence[RunData], name: str, compare: Mapping[str, Any]) -> str:
    """The page's text."""
    drawn = figures(runs)
    plots = to_json({curve.key: item for curve, item in drawn})
    before = {
        "arms": summary_section(runs, compare) + notes(runs, scale_sentence(runs)),
        "curves": curves_section(runs, drawn),
        "rubric": decisions_section(runs),
        "monitors": monitors_section(runs),
        "reproduce": _reproduce(runs, compare),
    }
    data = {"library": pack(library()), "plots": pack(plots)}
    taken = sum(len(text.encode("utf-8", "replace")) for text in (*before.values(), *data.values()))
    packed = pack_texts(runs, max(LEAST_ROOM, LARGEST - taken - 80_000))
    data["texts"] = packed.text
    bodies = {**before, "texts": rollouts_section(runs, packed)}
    sections = "\n".join(section(id, title, bodies[id]) for id, title in _SECTIONS)
    blocks = "\n".join(
        f'<script type="text/plain" id="data-{key}">{text}</script>' for key, text in data.items()
    )
    return _PAGE.format(
        name=escape(name),
        style=_read("style.css"),
        header=_header(runs, name),
        sections=sections,
        data=blocks,
        script=_read("report.js"),
    )


def _header(runs: Sequence[RunData], name: str) -> str:
    differing = {tuple(run.simulated.items()): run.simulated for run in runs}.values()
    note = "".join(
        f"<p class='faint'>{escape(text)}</p>" for text in map(_sandbox_note, differing) if text
    )
    marks = dict.fromkeys(sandbox_mark(simulated) for simulated in differing)
    links = "".join(f'<li><a href="#{id}">{escape(title)}</a></li>' for id, title in _SECTIONS)
    mark = "".join(f" {badge(mark, 'sandbox')}" for mark in marks if mark)
    return (
        f'<header><div class="top"><h1>{escape(name)}{mark}</h1>'
        '<button type="button" id="theme" aria-label="Switch between light and dark">◐</button>'
        f"</div>\n{what_was_run(runs)}\n{headline(runs)}\n{note}</header>\n"
        f'<nav aria-label="Sections"><ol>{links}</ol></nav>'
    )


def _sandbox_note(simulated: Mapping[str, bool]) -> str:
    """Sentences on the simulated parts of a run; empty where all are real."""
    parts = {
        "policy": "the policy is a tiny model that was made for it",
        "data": "the prompts are generated",
        "judge": "the reward model is a program with declared biases",
        "meta-reward model": "the meta-reward model is a program",
        "second judge": "the second judge is a program with biases of its own",
    }
    mock = [parts.get(part, part) for part, is_simulated in simulated.items() if is_simulated]
    real = [part for part, is_simulated in simulated.items() if not is_simulated]
    if not mock:
        return ""
    known = f" Real: {', '.join(real)}." if real else ""
    return f"Sandbox: {'; '.join(mock)}.{known} It is no evidence about runs with real parts only."


def _read(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


# ---------------------------------------------------------------------- section 6


def _reproduce(runs: Sequence[RunData], compare: Mapping[str, Any]) -> str:
    """The section's HTML."""
    parts = ["<h3>Command</h3>", _commands(runs, compare), "<h3>Seeds and time</h3>", _seeds(runs)]
    if compare.get("seconds") is not None:
        parts.append(f"<p>The whole comparison took {duration(float(compare['seconds']))}.</p>")
    curves = [(run.summary.get("trainer") or {}).get("tensorboard") for run in runs]
    if any(curves):
        shown = escape(
            "\n".join(f"tensorboard --logdir {shlex.quote(str(c))}" for c in curves if c)
        )
        parts.append(f"<p>Curves of the trainer, in TensorBoard:</p><pre>{shown}</pre>")
    parts += ["<h3>Versions</h3>", _versions(runs), "<h3>Config</h3>", _changes(runs)]
    parts.append(_configs(runs))
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


def _changes(runs: Sequence[RunData]) -> str:
    """List of the keys that were changed while a run went on; empty where there are none."""
    items = [
        f"<li>{escape(run.name)}: at update {change.step}, <code>{escape(change.key)}</code> from "
        f"<code>{escape(repr(change.old))}</code> to <code>{escape(repr(change.new))}</code></li>"
        for run in runs
        for change in run.changes
    ]
    if not items:
        return ""
    return f"<p>Changed while the run went on:</p><ul>{''.join(items)}</ul>"


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


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{name} - mpo report</title>
<style>
{style}</style>
</head>
<body>
<a class="skip" href="#main">Skip to the result</a>
{header}
<main id="main">
{sections}
</main>
{data}
<script>
{script}</script>
</body>
</html>
"""
