"""A reward that evolves, in a TRL program of your own.

    pip install 'mpo-rl[train]'
    BASE_URL=http://localhost:8000/v1 MODEL=my-judge python examples/trl_grpo.py

BASE_URL is any OpenAI-compatible server; `python -m mpo_sandbox` is one that needs no weights. The
rubric may change after every tenth update; `mpo.db` holds every judgement and every decision.
"""

import os

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import mpo
from mpo.integrations.trl import MPOCallback, TRLReward

chat = mpo.OpenAIChat(os.environ["BASE_URL"], model=os.environ.get("MODEL", "sandbox"))
reward = mpo.EvolvingReward(task="essay", chat=chat, store="mpo.db")

topics = ["tea", "rivers", "bread", "night trains", "glass", "wool", "salt", "lighthouses"]
prompts = [reward.task.policy_prompt({"prompt": f"Write about {topic}."}) for topic in topics]
settings = {"max_steps": int(os.environ.get("STEPS", "100")), "report_to": "none"}
if not torch.cuda.is_available():
    settings |= {"use_cpu": True, "bf16": False}
trainer = GRPOTrainer(
    os.environ.get("POLICY", "Qwen/Qwen3-0.6B"),
    reward_funcs=[TRLReward(reward)],
    callbacks=[MPOCallback(reward)],
    train_dataset=Dataset.from_dict({"prompt": prompts}),
    args=GRPOConfig("checkpoints", max_completion_length=400, **settings),
)
trainer.train()
print(reward.rubric().to_markdown())
