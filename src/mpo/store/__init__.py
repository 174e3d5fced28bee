"""Store: everything that happens in a run, in one SQLite file. Append only; nothing is deleted.

    store = Store("runs/a/mpo.db")
    store.decide(Decision(kind="seed", proposed=rubric.id, accepted=True, reason="seed"), rubric)
    store.append([Case(rollout=rollout, judgement=judgement)])
    evidence = store.window(after_step=110, up_to_step=120)
    checkpoint = store.snapshot(step=120)      # a few JSON values, for the trainer's checkpoint
    store.restore(checkpoint)                  # later: what came after is no longer visible

It promises:
- Several threads and several processes of one machine may use it at once. A forked or pickled Store
  opens the file again.
- What was committed survives the kill of any process; what was not leaves no trace (law 8).
- Rubrics, rollouts and judgements are stored once per id and for all branches. Events (scorings,
  decisions, pins, choices, external scores) belong to the branch they happened on; see
  `branches.py`.
- A chat's answers are kept by the key of their question (`get`, `put`): `mpo.chat.Cache`.
- A file that is deleted, moved, emptied, cut short or replaced while it is open is an error at the
  next write (StoreFileError), and stays one: nothing is written to what is not the store.
- Every error is a StoreError that names the file and what to do.

The file is in WAL mode: `mpo.db-wal` and `mpo.db-shm` belong to it while it is open, and it must
not lie on a network file system.
"""

from __future__ import annotations

from .branches import Group, View
from .cases import StepResults
from .run_files import STORE, RunFiles
from .store import Event, ExternalScore, Store

__all__ = ["STORE", "Event", "ExternalScore", "Group", "RunFiles", "StepResults", "Store", "View"]
