"""The page: six sections, their style and script, and the texts, in one file.

Text by a model is escaped on its way into the page, or packed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ..errors import StoreError
from .alarms import monitors_section
from .curves import curves_section, figures, scale_sentence
from .decisions import decisions_section
from .elements import badge, section
from .figures import library
from .reproduce import reproduce_section
from .rollouts import pack, pack_texts, rollouts_section
from .run_data import RunData, load_run
from .summary import headline, notes, summary_section, what_was_run

__all__ = ["LARGEST", "write_report"]

LARGEST = 3_000_000
"""The most bytes of a report. Rollouts get what the rest leaves, but at least `LEAST_ROOM`."""
LEAST_ROOM = 400_000
"""Characters for rollouts, however large the rest is."""
QUOTA = 10_000
"""Rollouts that are read for the page, over all runs."""
_SECTIONS = (
    ("arms", "Result"),
    ("curves", "Reward and gold"),
    ("rubric", "The life of the rubric"),
    ("texts", "Rollouts"),
    ("monitors", "Monitors and cost"),
    ("reproduce", "How to reproduce it"),
)
_HERE = Path(__file__).parent


def write_report(runs: Sequence[Path], out: Path, compare: Mapping[str, Any] | None = None) -> None:
    """Write one self-contained HTML file.

    Args:
        runs: Folders of runs, at least one.
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
    plots = json.dumps({curve.key: item for curve, item in drawn}, separators=(",", ":"))
    before = {
        "arms": summary_section(runs, compare) + notes(runs, scale_sentence(runs)),
        "curves": curves_section(runs, drawn),
        "rubric": decisions_section(runs),
        "monitors": monitors_section(runs),
        "reproduce": reproduce_section(runs, compare),
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
    sandbox = any(run.sandbox for run in runs)
    note = (
        "<p class='faint'>Everything on this page comes from the sandbox: a tiny policy and a "
        "simulated grader with declared biases. It is no evidence about real models.</p>"
        if sandbox
        else ""
    )
    links = "".join(f'<li><a href="#{id}">{escape(title)}</a></li>' for id, title in _SECTIONS)
    mark = f" {badge('sandbox', 'sandbox')}" if sandbox else ""
    return (
        f'<header><div class="top"><h1>{escape(name)}{mark}</h1>'
        '<button type="button" id="theme" aria-label="Switch between light and dark">◐</button>'
        f"</div>\n{what_was_run(runs)}\n{headline(runs)}\n{note}</header>\n"
        f'<nav aria-label="Sections"><ol>{links}</ol></nav>'
    )


def _read(name: str) -> str:
    return (_HERE / name).read_text("utf-8")


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
