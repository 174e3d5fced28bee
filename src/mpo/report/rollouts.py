"""Section 4: the form that filters rollouts. `report.js` fills in what it finds in the payload."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from .load import RunData
from .payload import Packed

__all__ = ["rollouts_section"]


def rollouts_section(runs: Sequence[RunData], packed: Packed) -> str:
    """The section's HTML."""
    if packed.shown == packed.total:
        told = f"All {packed.total:,} rollouts are here."
    else:
        told = (
            f"{packed.shown:,} of {packed.total:,} rollouts are here, so that this file stays "
            "small: those that a decision, an alarm or a replay points at, and of the others "
            "evenly many of every step. The store has all."
        )
    if packed.cut is not None:
        told += f" Analyses are cut after {packed.cut:,} characters."
    names = "".join(f"<option>{escape(run.name)}</option>" for run in runs)
    which = _field("run", f'<select name="run"><option value="">all</option>{names}</select>')
    fields = [
        which if len(runs) > 1 else "",
        _field("step from", '<input name="from" type="number" min="0" inputmode="numeric">'),
        _field("step to", '<input name="to" type="number" min="0" inputmode="numeric">'),
        _field("reward from", _share("low")),
        _field("reward to", _share("high")),
        _field("rubric", '<select name="rubric"><option value="">all</option></select>'),
        _field("flag", '<select name="flag"><option value="">any or none</option></select>'),
        _field("text contains", '<input name="text" type="search">'),
        _field(
            "order",
            '<select name="order"><option value="step">by step</option>'
            '<option value="high">highest reward</option>'
            '<option value="low">lowest reward</option>'
            '<option value="gap">reward above gold</option></select>',
        ),
    ]
    return (
        f'<p class="faint">{told}</p>\n'
        '<form id="filter" class="filter" role="search" aria-label="Filter rollouts">'
        f"{''.join(fields)}"
        '<button type="reset">Clear</button></form>\n'
        '<p id="found" role="status" aria-live="polite"></p>\n'
        '<div id="rollouts"></div>\n'
        '<button type="button" id="more" hidden>Show more</button>\n'
        "<noscript><p>Rollouts and figures need JavaScript; all else is here.</p></noscript>"
    )


def _field(label: str, control: str) -> str:
    return f"<label><span>{escape(label)}</span>{control}</label>"


def _share(name: str) -> str:
    return f'<input name="{name}" type="number" min="0" max="1" step="0.05" inputmode="decimal">'
