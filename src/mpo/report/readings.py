"""What the monitors saw of a run: figures by step, and alarms with how long they lasted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..reward import MONITOR
from ..store import Store
from ..watch.monitors import observe
from ..watch.state import MonitorState

__all__ = ["Readings", "Spell", "read_readings"]

PAUSE = 5
"""Readings without an alarm that do not end it: at a threshold it flickers."""


@dataclass(frozen=True)
class Spell:
    """An alarm, from the step at which it began to the last one at which it held."""

    monitor: str
    first: int
    last: int
    message: str
    """At its first step. May quote the policy."""
    rollouts: tuple[str, ...]
    """Ids of rollouts that show it."""


@dataclass(frozen=True)
class Readings:
    """All readings of a run."""

    steps: Sequence[int] = ()
    figures: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    """By name, one value per step; None where a step has none."""
    spells: Sequence[Spell] = ()
    afterwards: bool = False
    """The run kept no readings (an imported run): they were made for this report."""


def read_readings(store: Store) -> Readings:
    """The readings that the run kept; else those of today's monitors, over its rollouts."""
    kept = {choice.step: choice.result for choice in store.events(MONITOR)}
    if kept:
        # A reading at update n is of the rollouts sampled at step n - 1.
        return _of({step - 1: reading for step, reading in sorted(kept.items())}, False)
    state, made = MonitorState(), {}
    for summary in store.steps():
        step = summary.step
        cases = store.window(after_step=step - 1, up_to_step=step, cohort=None, scored=None)
        state, reading = observe(state, step, cases)
        made[step] = {
            "figures": reading.figures,
            "alarms": [alarm.to_dict() for alarm in reading.alarms],
        }
    return _of(made, True)


def _of(readings: Mapping[int, Mapping[str, Any]], afterwards: bool) -> Readings:
    steps = list(readings)
    names = dict.fromkeys(name for reading in readings.values() for name in reading["figures"])
    return Readings(
        steps=steps,
        figures={name: [readings[s]["figures"].get(name) for s in steps] for name in names},
        spells=_spells(readings),
        afterwards=afterwards,
    )


def _spells(readings: Mapping[int, Mapping[str, Any]]) -> list[Spell]:
    done: list[Spell] = []
    open_: dict[str, Spell] = {}
    heard: dict[str, int] = {}  # at which reading each one called last
    for place, (step, reading) in enumerate(readings.items()):
        for alarm in reading["alarms"]:
            name = str(alarm["monitor"])
            if name in open_ and place - heard[name] > PAUSE:
                done.append(open_.pop(name))
            heard[name] = place
            since = open_.get(name)
            open_[name] = Spell(
                monitor=name,
                first=since.first if since else step,
                last=step,
                message=since.message if since else str(alarm["message"]),
                rollouts=since.rollouts if since else tuple(alarm["rollouts"]),
            )
    return sorted([*done, *open_.values()], key=lambda spell: (spell.first, spell.monitor))
