"""The service that `service.py` measures and kills, as a process of its own.

    python benchmarks/node.py FOLDER PORT LATENCY_S K     prints its URL

The sandbox's simulated model grades and evolves in this process, after a fixed latency, so that
what is measured beyond that is the service's own.
"""

from __future__ import annotations

import sys
from pathlib import Path

from mpo.evolve.options import Evolve
from mpo.judge.options import Scoring
from mpo.reward import EvolvingReward
from mpo.service.server import serve
from mpo.service.service import RewardService, ServiceSettings
from mpo_sandbox.chat import SimulatedChat

__all__ = ["main"]


def main() -> None:
    """Serve until stopped."""
    folder, port, latency, k = sys.argv[1:]
    reward = EvolvingReward(
        "essay",
        SimulatedChat(latency=float(latency)),
        Path(folder) / "mpo.db",
        scoring=Scoring(max_unscored=1.0),
        evolve=Evolve(every=int(k), samples=8, gate="always", delay=0),
    )
    service = RewardService(
        reward,
        run_id="bench",
        settings=ServiceSettings(deadline_s=60),
        concurrency=256,
    )

    def ready(url: str) -> None:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()

    serve(service, port=int(port), ready=ready)


if __name__ == "__main__":
    main()
