"""A training run that kills itself where it is told to: plain Python, no torch (see `killing`).

A job is `{"folder": …, "plan": …, "kill": [event, n], "file_limit": bytes}`, without the last two
where nothing is to stop it. Everything of mpo is real: store, reward, meta steps in the background,
and which checkpoint counts. The policy is a table of weights; the models answer from the texts that
they are shown, and nothing else.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import signal
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fakes import judge_reply, make_reward, meta_reply, text_of
from killing import Job, Killer, serve
from mpo.chat import CachedChat, Chat, ChatRequest, Completion, Message, Schema
from mpo.evolve.gate import Probes
from mpo.evolve.schedule import Every, Prescreened, Stratified
from mpo.judge import make_reward_model
from mpo.judge.scale import Anchored, Raw, normalized
from mpo.records import Judgement, Rollout, Usage
from mpo.reward import EvolvingReward
from mpo.sanitize import find_fences
from mpo.store import Store
from mpo.task import load_task
from mpo.training.files import newest_checkpoint

STEPS, SAVE_EVERY = 8, 3
PROMPTS, GROUP = 2, 4
WORDS = "tea rain stone river light paper bread song glass wool moss salt ink rope".split()

PLANS: dict[str, dict[str, Any]] = {
    # The paper's: the trainer waits for the meta step, and every rewrite counts.
    "blocking": {"every": 2, "selection": Stratified(), "scale": Raw()},
    # In the background, with maps and canaries to carry through the resume.
    "background": {
        "every": 3,
        "delay": 2,
        "scale": Anchored(),
        "canaries": True,
    },
    # What is due overlaps: a meta step starts before the one before it is decided.
    "overlapping": {"every": Every(2), "delay": 3, "selection": Prescreened(fill=True)},
    # Gate, second RM and alarms; answers are kept, as `mpo train` does.
    "guarded": {"every": 3, "delay": 1, "alarm_distance": 1},
}
FAILS, UNUSABLE = 11, "I would rather not say."
"""One text in so many gets no usable judgement, however often it is asked for."""


# ---------------------------------------------------------------------- models


class Model:
    """RM and MRM: answers follow from the texts; the MRM takes its time, in updates.

    Args:
        role: `rm`, `mrm` or `audit`.
        log: File that gets a line per question: role, stage, whether the answer is usable.
    """

    def __init__(self, role: str, log: Path, killer: Killer, clock: Clock) -> None:
        self.role, self._killer, self._clock = role, killer, clock
        self.name = f"double {role}"
        self._log = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    async def complete(self, request: ChatRequest) -> Completion:
        messages, schema = request.messages, request.schema
        assert schema is not None
        text = text_of(messages)
        stage = self._stage(schema, text)
        shown = [part for label in ("RESPONSE", "PROPOSAL") for part in find_fences(text, label)]
        if self.role == "mrm":
            await self._clock.wait_for_decision(due=(request.seed or 0) // 1000)
        elif stage == "rollout":
            await self._clock.wait_for_background()
        reply = self._reply(messages, schema, shown)
        line = [self.role, stage, reply is not UNUSABLE]
        os.write(self._log, json.dumps(line).encode() + b"\n")
        self._killer.at(f"{self.role} {stage}")
        usage = Usage(calls=1, prompt_tokens=len(text.split()), completion_tokens=7)
        return Completion(reply, usage, model=self.name)

    async def aclose(self) -> None:
        return None

    def _stage(self, schema: Schema, text: str) -> str:
        """`rollout` or `other` (anchor, canary, probe) for the RM, the MRM's stage for the MRM."""
        if self.role != "mrm":
            return "rollout" if self._clock.in_score else "other"
        if schema["title"] != "rubric":
            return str(schema["title"])
        return "merge" if "<PROPOSAL" in text else "refine"

    def _reply(self, messages: Sequence[Message], schema: Schema, shown: Sequence[str]) -> str:
        if self.role == "mrm":
            return meta_reply(messages, schema)
        if zlib.crc32(shown[0].encode()) % FAILS == 0:
            return UNUSABLE
        if self._clock.plan != "guarded":
            return judge_reply(messages, schema)
        # Probes have to rank below what they were made of: many different words are good.
        variety = len(set(shown[0].split()))
        scores = {}
        for key, part in schema["properties"].items():
            allowed = part["properties"]["score"]["enum"]
            place = min(len(allowed) - 1, variety * len(allowed) // 16)
            scores[key] = {"rationale": f"{variety} words", "score": allowed[place]}
        return json.dumps(scores)


class Clock:
    """Updates made so far, and who waits for them."""

    def __init__(self, plan: str) -> None:
        self.plan = plan
        self.delay = int(PLANS[plan].get("delay", 0))
        self.updates = self.began_at = 0
        self.in_score = False
        self.held = 0

    async def wait_for_decision(self, due: int) -> None:
        """An answer of the MRM comes when the trainer has made all updates that it had time for."""
        self.held += 1
        while self.updates < due + self.delay:
            await asyncio.sleep(0.001)
        self.held -= 1

    async def wait_for_background(self) -> None:
        """Rollouts are judged only once the meta step that is under way beside them has asked.

        One that was under way at the checkpoint starts again with the next update.
        """
        every, last = PLANS[self.plan]["every"], self.updates
        schedule = Every(every) if isinstance(every, int) else every
        past = range(max(self.began_at, last - self.delay) + 1, last + 1)
        while self.delay and any(map(schedule.due, past)) and not self.held:
            await asyncio.sleep(0.001)


# ---------------------------------------------------------------------- policy and trainer


class Policy:
    """Draws words by weight, and gives the words of better-paid texts more weight."""

    def __init__(self) -> None:
        self.rng = random.Random(7)
        self.weights = dict.fromkeys(WORDS, 1.0)

    def rollouts(self, step: int, mode: Any = "train") -> list[Rollout]:
        names, weights = list(self.weights), list(self.weights.values())
        made = []
        for index in range(PROMPTS * GROUP):
            drawn = self.rng.choices(names, weights, k=15)
            text = ". ".join(" ".join(drawn[at : at + 5]).capitalize() for at in (0, 5, 10)) + "."
            prompt = f"Write about {WORDS[(step + index // GROUP) % len(WORDS)]}."
            made.append(Rollout(prompt=prompt, completion=text, step=step, index=index, mode=mode))
        return made

    def learn(self, rollouts: Sequence[Rollout], judgements: Sequence[Judgement]) -> None:
        paid = [(r, j.reward) for r, j in zip(rollouts, judgements, strict=True)]
        rewards = [reward for _, reward in paid if reward is not None]
        mean = sum(rewards) / len(rewards)
        for rollout, reward in paid:
            if reward is not None:
                for word in rollout.completion.lower().replace(".", "").split():
                    self.weights[word] = max(0.01, self.weights[word] + 0.07 * (reward - mean))

    def to_json(self) -> dict[str, Any]:
        return {"weights": self.weights, "rng": self.rng.getstate()}

    def restore(self, saved: Any) -> None:
        version, internal, gauss = saved["rng"]
        self.rng.setstate((version, tuple(internal), gauss))
        self.weights = saved["weights"]


class Trainer:
    """The loop of a trainer, with checkpoints laid out as those of transformers."""

    def __init__(self, folder: Path, plan: str, killer: Killer) -> None:
        self.folder, self.killer = folder, killer
        self.clock = Clock(plan)
        self.policy = Policy()
        self.reward = planned_reward(folder, plan, killer, self.clock)

    async def train(self) -> None:
        self._resume()
        self.killer.at("resumed")
        for step in range(self.clock.updates, STEPS):
            await self._update(step)
            if (step + 1) % SAVE_EVERY == 0 or step + 1 == STEPS:
                self._save(step + 1)
        await self.reward.aclose()

    async def _update(self, step: int) -> None:
        rollouts = self.policy.rollouts(step)
        judgements = await self._score(rollouts[:3]) + await self._score(rollouts[3:])
        if step % 4 == 1:
            await self._score(self.policy.rollouts(step, "eval"))
        self.policy.learn(rollouts, judgements)
        self.killer.at("learned")
        self.clock.updates = step + 1
        await self.reward.step(step + 1)
        self.killer.at("stepped")

    async def _score(self, rollouts: Sequence[Rollout]) -> list[Judgement]:
        self.clock.in_score = True
        judgements = await self.reward.score(rollouts)
        self.clock.in_score = False
        return judgements

    def _resume(self) -> None:
        newest = newest_checkpoint(self.folder / "checkpoints", remove_broken=True)
        if newest is None:
            self.reward.restore(self.reward.store.genesis())
            return
        state = json.loads((newest.folder / "trainer_state.json").read_text())
        self.reward.restore(state["stateful_callbacks"]["MPOCallback"]["snapshot"])
        self.policy.restore(json.loads((newest.folder / "policy.json").read_text()))
        self.clock.updates = self.clock.began_at = newest.step

    def _save(self, step: int) -> None:
        """Weights and random state first, `trainer_state.json` last, none of them in a rename."""
        folder = self.folder / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True, exist_ok=True)
        self.killer.at("checkpoint: empty")
        (folder / "policy.json").write_text(json.dumps(self.policy.to_json()))
        self.killer.at("checkpoint: no random state")
        (folder / "rng_state.pth").write_text("this policy keeps its own")
        snapshot = {"snapshot": self.reward.snapshot(step), "processes": 1}
        state = {"global_step": step, "stateful_callbacks": {"MPOCallback": snapshot}}
        text = json.dumps(state)
        with (folder / "trainer_state.json").open("w") as file:
            file.write(text[: len(text) // 2])
            file.flush()
            self.killer.at("checkpoint: half a state")
            file.write(text[len(text) // 2 :])
        self.killer.at("checkpoint: whole")


def planned_reward(folder: Path, plan: str, killer: Killer, clock: Clock) -> EvolvingReward:
    store = Store(folder / "mpo.db")
    killer.trace()
    models: dict[str, Chat] = {
        role: Model(role, folder / "asked.jsonl", killer, clock) for role in ("rm", "mrm", "audit")
    }
    options = dict(PLANS[plan])
    if plan == "guarded":
        models = {role: CachedChat(m, store) for role, m in models.items()}
        task = load_task("essay")
        rm = make_reward_model(task, models["rm"], store.secret, 0)
        options["gate"] = Probes(rm, task, normalized, seed=0)
        options["second_judge"] = models["audit"]
    return make_reward(
        "essay",
        models["rm"],
        store,
        meta_chat=models["mrm"],
        samples=3,
        context_cases=1,
        baseline_cases=1,
        max_unscored=1.0,
        **options,
    )


# ---------------------------------------------------------------------- a job


def work(job: Job) -> None:
    killer = Killer(*job.get("kill", ()))
    if "file_limit" in job:
        # The kernel ends the process in the middle of a write, at this byte of a file.
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_limit"], job["file_limit"]))
    asyncio.run(Trainer(Path(job["folder"]), job["plan"], killer).train())


if __name__ == "__main__":
    serve(work)
