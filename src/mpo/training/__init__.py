"""Training a policy with an evolving reward.

    start.py       `train`: the algorithm that the settings name
    trl_trainer.py GRPO and RLOO, by TRL
    ppo/           PPO, the paper's algorithm
    arms.py        arms without training: base and blind
    completions.py completions of checkpoints on a test set

Importing this package loads neither torch nor transformers.
"""
