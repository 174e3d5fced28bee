"""Adapters to training engines, one file an engine.

    trl.py        TRLReward and MPOCallback, for a GRPO or RLOO program of your own
    verl.py       the reward manager for veRL
    verifiers.py  the judge plugin for verifiers and prime-rl

Importing this package imports no engine.
"""
