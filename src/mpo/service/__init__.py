"""The reward over HTTP, for engines that score in many processes, and the adapters to them.

    wire.py       the schema mpo.reward/1
    service.py    RewardService: one EvolvingReward for many clients, without HTTP; with
                  placing (which step, which group), flights (in flight, deadlines), fair (turns),
                  steps (meta steps in a thread), fallback (means), answers, versions, views
    app.py        the endpoints; guard.py the door, metrics.py what to watch
    server.py     uvicorn and an orderly end
    openrlhf.py   OpenRLHF's dialect
    client.py     a client; verl.py and verifiers.py, adapters that use it

`mpo serve CONFIG` puts it together. Clients need aiohttp only, not the extra `serve`.
"""

from __future__ import annotations

from .settings import ServiceSettings

__all__ = ["ServiceSettings"]
