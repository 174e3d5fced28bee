"""The reward over HTTP, for engines that score in many processes.

    wire.py             the schema mpo.reward/1
    service.py          RewardService: one EvolvingReward for many clients, without HTTP; its parts:
    items.py              items to rollouts, judgements to results, rewards for unscored items
    in_flight.py          each item judged once, deadlines, turns between requests
    steps.py              meta steps beside the scoring
    rubric_history.py     rubrics with version numbers, and their decisions
    metrics.py            counters and gauges for Prometheus
    app.py              the endpoints; openrlhf.py: OpenRLHF's dialect
    guard.py            limits on clients; server.py: uvicorn and an orderly end
    client.py           RewardClient, which needs no `serve` extra

`mpo serve CONFIG` runs it. `mpo.integrations` has adapters that use the client (veRL, verifiers).
"""
