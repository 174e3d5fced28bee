"""A reward that evolves, in a TRL program of your own.

    pip install 'mpo-rl[train]'
    BASE_URL=http://localhost:8000/v1 MODEL=my-judge python examples/trl_grpo.py

BASE_URL is any OpenAI-compatible server; `python -m mpo_sandbox` is one that needs no weights. The
rubric may change after every tenth update; `mpo.db` holds every judgement and every decision.
REPORT_TO=tensorboard shows metrics and rubrics: tensorboard --logdir checkpoints
"""

import os

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

import mpo
from mpo.integrations.trl import MPOCallback, TRLReward

chat = mpo.OpenAIChat(os.environ["BASE_URL"], model=os.environ.get("MODEL", "sandbox-0"))
reward = mpo.EvolvingReward(task="essay", chat=chat, store="mpo.db")

topics = ["tea", "rivers", "bread", "night trains", "glass", "wool", "salt", "lighthouses"]
prompts = [reward.task.policy_prompt({"prompt": f"Write about {topic}."}) for topic in topics]
settings = {"max_completion_length": 400, "report_to": os.environ.get("REPORT_TO", "none")}
if not torch.cuda.is_available():
    settings |= {"use_cpu": True, "bf16": False}
trainer = GRPOTrainer(
    os.environ.get("POLICY", "Qwen/Qwen3-0.6B"),
    reward_funcs=[TRLReward(reward)],
    callbacks=[MPOCallback(reward)],
    train_dataset=Dataset.from_dict({"prompt": prompts}),
    args=GRPOConfig("checkpoints", max_steps=int(os.environ.get("STEPS", "100")), **settings),
)
trainer.train()
for line in [line for line in trainer.state.log_history if "mpo/unscored" in line][-1:]:
    print({name: value for name, value in line.items() if name.startswith("mpo/")})
print(reward.rubric().to_markdown())
