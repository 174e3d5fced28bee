"""Training: the trainers that an evolving reward plugs into.

- `trl`: for your own TRL program: `TRLReward` and `MPOCallback`.
- `run`: a whole run from settings: `train`.
- `blind`: the arm that evolves the rubric before training, on the untrained policy.

Importing this package loads no torch; the first use of `MPOCallback` or `train` does.
"""
