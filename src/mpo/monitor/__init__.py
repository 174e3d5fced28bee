"""Monitors: what each step's rollouts and judgements show of a reward that is being gamed.

    state = MonitorState()                                    # or MonitorState.from_json(saved)
    state, reading = observe(state, step, cases, kl=kl)       # pure; every step
    store(reading.figures); checkpoint(state.to_json())
    if reading.alarms: hint = reading.hint                    # for the MRM's prompt, fenced

A reading pools the last steps until it holds 256 rollouts, and compares them with the first 256 of
the run. All numbers are in `Thresholds`. An alarm holds as long as its condition does; `new` says
when it begins. No text of a rollout is kept in the state, only counts of phrases.
"""

from .audit import Audit, Canary, auc, onset, shortfall
from .observe import Alarm, Reading, observe
from .state import MonitorState, StepSummary
from .thresholds import Thresholds

__all__ = [
    "Alarm",
    "Audit",
    "Canary",
    "MonitorState",
    "Reading",
    "StepSummary",
    "Thresholds",
    "auc",
    "observe",
    "onset",
    "shortfall",
]
