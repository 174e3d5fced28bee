"""Watching a run from step to step: monitors, canaries, and the second judge.

    canaries = Canaries(store, scorer, seed)
    watch = Watch(store, seed, canaries=canaries)
    await watch.look(n)                          # after update n: figures, alarms, a hint
    failure = await canaries.failing(n, "")      # twice in a row: `EvolvingReward.step` rolls back

Nothing here moves the head, and nothing here is evidence: readings are kept in the store, where a
resumed run finds them.
"""

from .canaries import CANARIES_PER_RUBRIC, Canaries, Canary, CanaryFailure
from .second_judge import SECOND_JUDGE_SHARE, SecondJudge
from .watch import ALARM, MONITOR, Watch

__all__ = [
    "ALARM",
    "CANARIES_PER_RUBRIC",
    "MONITOR",
    "SECOND_JUDGE_SHARE",
    "Canaries",
    "Canary",
    "CanaryFailure",
    "SecondJudge",
    "Watch",
]
