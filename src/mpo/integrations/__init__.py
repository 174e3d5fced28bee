"""Adapters to training engines, one file for each engine, and what they share.

    trl.py           TRLReward, for a GRPO or RLOO program of your own
    trl_callback.py  MPOCallback: meta steps, logs and checkpoints in TRL's trainers
    verl.py          the reward manager for veRL, and snapshots in its checkpoints
    verl_trainer.py  veRL's synchronous trainer with meta steps
    verifiers.py     the judge plugin for verifiers and prime-rl
    meta_steps.py    meta steps over ranks, for any training loop
    run_log.py       metrics and texts of a run, for any trainer
    tracker_texts.py texts in the trackers that a trainer reports to
    trainer_figures.py  the trainer's own figures, for the report
    trainer_rollouts.py  from rows and texts to scored rollouts

Importing this package imports no engine.
"""
