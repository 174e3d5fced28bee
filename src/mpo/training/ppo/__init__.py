"""PPO, the paper's algorithm.

trainer.py         the loop: sample, score, update, evolve, save
update.py          one update: the passes before the rewards, the losses, the epochs
math.py            the arithmetic: pure functions on tensors
engine.py          gradients and optimizer, on one process, several, or a sharded model
model.py           policy, critic and reference
language_model.py  a transformers model that computes no more than PPO needs
fast.py, ops.py    a faster path for small models in float32
batch.py           micro-batches
checkpoint.py      what a stopped run needs to continue bit for bit
"""
