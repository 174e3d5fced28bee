"""Adapters to training engines, one file for each engine, and what they share.

    trl.py           TRLReward and MPOCallback, for a GRPO or RLOO program of your own
    verl.py          the reward manager for veRL, and snapshots in its checkpoints
    verl_trainer.py  veRL's synchronous trainer with meta steps
    verifiers.py     the judge plugin for verifiers and prime-rl
    meta_steps.py    meta steps over ranks, for any training loop
    trainer_rollouts.py  from rows and texts to scored rollouts

Importing this package imports no engine.
"""
