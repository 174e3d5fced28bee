"""From evidence to the next rubric: the parts of `EvolvingReward.step`.

options.py             Evolve: the options
schedule.py            when a meta step is due, and which rollouts it looks at
evidence.py            those rollouts, fixed at the moment when the meta step is due
meta_reward_model.py   MetaRewardModel: analyze, refine, merge, repair
lint/                  faults in a rubric that code can see
gate/                  whether a proposal takes effect
meta_step.py           one meta step from evidence to result
lineage.py             the seed rubric, and rollbacks
"""
