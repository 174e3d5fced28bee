"""What watches a run from step to step: monitors, canaries, and the audit by a second RM.

    canaries = Canaries(store, scorer, seed)
    watch = Watch(store, seed, canaries=canaries)
    await watch.look(n)                          # after update n: figures, alarms, a hint
    failing = await canaries.failing(n, "")      # twice in a row: `EvolvingReward.step` rolls back

Nothing here moves the head, and nothing here is evidence: what is read is kept in the store, where
a resumed run finds it.
"""

from .audit import AUDIT_SHARE, SecondOpinion
from .canaries import CANARIES_PER_RUBRIC, Canaries, Failing
from .watch import CALLED, MONITOR, Watch

__all__ = [
    "AUDIT_SHARE",
    "CALLED",
    "CANARIES_PER_RUBRIC",
    "MONITOR",
    "Canaries",
    "Failing",
    "SecondOpinion",
    "Watch",
]
