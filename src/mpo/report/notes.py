"""What a reader should look at first: scale jumps, alarms, what lint would have refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape

from .decisions import lint_sentence
from .elements import number, table
from .levels import known
from .load import RunData
from .readings import Spell

__all__ = ["notes"]

MOST = 3
"""Runs of which notes are made one by one; of more, alarms are counted by monitor."""


def notes(runs: Sequence[RunData], scale: str) -> str:
    """A list; empty where nothing stands out.

    Args:
        runs: All of the report.
        scale: The sentence about the greatest jump of scale, as HTML; may be empty.
    """
    items = [scale] if scale else []
    counted = ""
    if len(runs) <= MOST:
        for run in runs:
            items += [_spell(run, spell, len(runs) > 1) for spell in run.readings.spells[:6]]
            left = len(run.readings.spells) - 6
            if left > 0:
                items.append(f'{left} more alarms: <a href="#monitors">monitors</a>.')
    else:
        counted = _counted(runs)
    items += [said for run in runs if (said := lint_sentence(run))]
    if not items and not counted:
        return ""
    listed = "".join(f"<li>{item}</li>" for item in items)
    return f'<h3>To look at first</h3><ul class="notes">{listed}</ul>{counted}'


def _spell(run: RunData, spell: Spell, named: bool) -> str:
    when = (
        f"step {spell.first}"
        if spell.first == spell.last
        else f"steps {spell.first} to {spell.last}"
    )
    where = f"{escape(run.name)}, " if named else ""
    name = escape(spell.monitor.replace("_", " "))
    collapse = _collapse(run, spell) if spell.monitor == "length" else ""
    return f"{where}{when}: monitor <b>{name}</b> called: {escape(spell.message)}.{collapse}"


def _collapse(run: RunData, spell: Spell) -> str:
    """Of an alarm about length: from where to where, and whether it recovered."""
    words = dict(zip(run.curves["step"], run.curves["words"], strict=True))
    during = {s: w for s, w in words.items() if spell.first <= s <= spell.last and w is not None}
    if not during:
        return ""
    first, last = known([words[min(words)]]), known([words[max(words)]])
    least = min(during, key=lambda step: during[step])
    if not first or during[least] >= first[0]:
        return ""
    told = (
        f" The policy's texts collapsed from {number(first[0], 0)} words to "
        f"{number(during[least], 0)} at step {least}"
    )
    later = {s: w for s, w in words.items() if s > spell.last and w is not None}
    back = next((step for step, value in later.items() if value >= 0.9 * first[0]), None)
    if back is not None:
        return f"<strong>{told}</strong> and were as long as before at step {back}."
    return f"<strong>{told}</strong>; at the end they had {number(last[0] if last else None, 0)}."


def _counted(runs: Sequence[RunData]) -> str:
    """In how many runs of each arm a monitor called."""
    arms = list(dict.fromkeys(run.arm for run in runs))
    called: dict[str, Counter[str]] = {}
    for run in runs:
        for monitor in dict.fromkeys(spell.monitor for spell in run.readings.spells):
            called.setdefault(monitor, Counter())[run.arm] += 1
    if not called:
        return ""
    of = Counter(run.arm for run in runs)
    rows = [
        [escape(monitor.replace("_", " ")), *(f"{count[arm]} of {of[arm]}" for arm in arms)]
        for monitor, count in sorted(called.items())
    ]
    return table("Runs in which a monitor called", ["monitor", *arms], rows)
