"""A verifiers environment whose rollouts are graded by an evolving reward.

    pip install mpo-rl verifiers
    mpo serve config.yaml service.every_items=640 &          # the reward, on port 8000
    vf-eval tea-essays -n 4 -r 2 --no-push --no-rich \
        --env.agent.harness.id null --env.agent.runtime.type subprocess \
        --model my-policy --client.base-url http://localhost:9000/v1

prime-rl takes the same environment: the judge is part of the taskset, and each rollout carries
`mpo_rubric_version`. The rubric changes after every 640 training rollouts, while training goes on.
An environment for evaluation sets `MODE=eval`: its rollouts are graded, and never used as evidence.
"""

import os

import verifiers.v1 as vf

from mpo.integrations.verifiers import MPOJudgeConfig

__all__ = ["TeaEssays"]

TOPICS = ["tea", "rivers", "bread", "night trains", "glass", "wool", "salt", "lighthouses"]


class EssayData(vf.TaskData):
    topic: str


class EssayConfig(vf.TaskConfig):
    judges: vf.Judges = [
        MPOJudgeConfig(
            id="mpo-judge",
            name="mpo",
            service=os.environ.get("MPO_URL", "http://127.0.0.1:8000"),
            mode=os.environ.get("MODE", "train"),
            columns=["topic"],
        )
    ]


class EssayTask(vf.Task[EssayData, vf.State, EssayConfig]):
    pass


class EssaysConfig(vf.TasksetConfig):
    task: EssayConfig = EssayConfig()


class TeaEssays(vf.Taskset[EssayTask, EssaysConfig]):
    def load(self):
        for topic in TOPICS:
            data = EssayData(prompt=f"Write a short essay about {topic}.", topic=topic)
            yield EssayTask(data, self.config.task)
