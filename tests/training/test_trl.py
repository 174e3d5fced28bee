"""TRLReward and MPOCallback in a TRL program of one's own."""

from __future__ import annotations

import asyncio
import datetime
import functools
import inspect
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakes import make_reward
from mpo.chat import ChatRequest, ScriptedChat
from mpo.data import flatten
from mpo.errors import ConfigError, DataError, StoreError
from mpo.integrations.run_log import RunLog
from mpo.integrations.trl import MPOCallback, TRLReward
from mpo.store import Store
from training.tiny import ROWS, Lengths, answer, history, tiny_reward, tiny_task


def trainer_of(folder: Path, model: str, reward: Any, **options: Any) -> Any:
    """A user's own GRPO trainer."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    defaults = {
        "output_dir": str(folder / "out"),
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 12,
        "max_steps": 2,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    rewards = options.pop("reward_funcs", None) or [TRLReward(reward, gold_scorer=Lengths())]
    return GRPOTrainer(
        model,
        reward_funcs=rewards,
        args=GRPOConfig(**(defaults | options)),
        train_dataset=Dataset.from_list(ROWS),
        eval_dataset=Dataset.from_list(ROWS[:4]),
        callbacks=[MPOCallback(reward)],
    )


def test_it_is_a_coroutine_function_also_for_older_versions_of_trl(tmp_path: Path) -> None:
    reward = TRLReward(tiny_reward(tmp_path))
    # The question of TRL 1.9.2 to 1.13, and that of later ones.
    assert inspect.iscoroutinefunction(reward)
    assert inspect.iscoroutinefunction(functools.partial(reward, x=1))
    assert inspect.iscoroutinefunction(reward.__call__)
    assert reward.__name__ == "mpo_reward"
    names = list(inspect.signature(reward).parameters)
    assert {"prompts", "completions", "trainer_state", "log_metric", "log_extra"} <= set(names)


def test_evaluation_never_becomes_evidence(model: str, tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path, every=1, samples=100)
    trainer = trainer_of(
        tmp_path, model, reward, eval_strategy="steps", eval_steps=1, per_device_eval_batch_size=8
    )
    trainer.evaluate()  # before training: step 0, and no beginning of the run
    trainer.train()

    store = reward.store
    judged = store.window(mode="eval", scored=None)
    assert [c.rollout.step for c in judged] == [0] * 16 + [1] * 16 + [2] * 16
    assert len({c.rollout.id for c in judged}) == 48
    assert len(store.window(scored=None)) == 16
    evidence = [id for d in store.lineage() if d.refinement for id in d.refinement.evidence]
    assert len(evidence) == 8 + 8
    assert {store.rollout(id).mode for id in evidence} == {"train"}
    assert len([d for d in store.lineage() if d.kind == "evolve"]) == 2


def test_several_batches_per_update_have_one_numbering(model: str, tmp_path: Path) -> None:
    # Two calls of the reward within one update, and half an update's completions each.
    reward = tiny_reward(tmp_path)
    trainer = trainer_of(
        tmp_path, model, reward, gradient_accumulation_steps=2, steps_per_generation=1
    )
    trainer.train()
    for step in (0, 1):
        cases = reward.store.window(after_step=step - 1, up_to_step=step, scored=None)
        assert [c.rollout.index for c in cases] == list(range(16))
    assert [d.step for d in reward.store.lineage()] == [0, 2]  # steps count updates


def test_a_users_own_program_resumes(model: str, tmp_path: Path) -> None:
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "logging_steps": 1}
    reward = tiny_reward(tmp_path)
    trainer_of(tmp_path, model, reward, **options).train()
    before = history(reward.store)

    again = tiny_reward(tmp_path)
    trainer = trainer_of(tmp_path, model, again, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-2"))
    assert history(again.store) == before
    assert again.store.snapshot(4)["branch"] == 2
    # What the report shows of the trainer: each update once, the first two from before the stop.
    figures = again.store.events("trainer")
    assert [event.step for event in figures] == [1, 2, 3, 4]
    assert {"loss", "entropy", "learning_rate"} <= set(figures[0].result)

    # Anew: from the seed rubric, nothing deleted.
    trainer_of(tmp_path, model, again, **options).train()
    assert history(again.store) == before
    assert again.store.snapshot(4)["branch"] == 3


def test_a_checkpoint_without_the_callback_is_refused(model: str, tmp_path: Path) -> None:
    def ones(completions: list[str], **_: Any) -> list[float]:
        return [1.0] * len(completions)

    reward = tiny_reward(tmp_path)
    options = {"save_strategy": "steps", "save_steps": 1, "max_steps": 2}
    trainer = trainer_of(tmp_path, model, reward, reward_funcs=[ones], **options)
    trainer.remove_callback(MPOCallback)
    trainer.train()
    again = trainer_of(tmp_path, model, reward, **options)
    with pytest.raises(ConfigError, match="step 1 was written without MPOCallback"):
        again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-1"))


def test_another_rubric_than_the_stores_is_refused(tmp_path: Path) -> None:
    tiny_reward(tmp_path)
    reward = tiny_reward(tmp_path / "b")
    with pytest.raises(ConfigError, match="continues seed rubric"):
        tiny_reward(tmp_path, rubric=reward.rubric().model_copy(update={"title": "Other"}))


def test_trl_that_is_too_old_or_missing_is_refused(tmp_path: Path) -> None:
    program = "from mpo.integrations.trl import MPOCallback"

    def run(installed: str | None) -> str:
        # A folder of installed packages in which only TRL's version is different.
        place = tmp_path / f"trl-{installed}"
        info = place / f"trl-{installed}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: trl\nVersion: {installed}\n")
        path = os.pathsep.join([str(place), *sys.path])
        done = subprocess.run(
            [sys.executable, "-c", program],
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stderr.strip().splitlines()[-1]

    assert "trl 1.9.1 turns a missing reward into 0" in run("1.9.1")
    assert "trl 0.29.0 turns a missing reward into 0" in run("0.29.0")


# ---------------------------------------------------------------------- without a trainer


@dataclass
class Accelerator:
    process_index: int = 0
    num_processes: int = 1


@dataclass
class Caller:
    """What TRLReward sees of a trainer."""

    training: bool = True
    accelerator: Accelerator = field(default_factory=Accelerator)
    logged: dict[str, float] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def model(self) -> Any:
        return SimpleNamespace(training=self.training)

    def log_metric(self, name: str, value: float) -> None:
        self.logged[name] = value

    def log_extra(self, name: str, values: list[Any]) -> None:
        self.columns[name] = values

    def call(self, reward: TRLReward, now: int, n: int = 2, **columns: Any) -> list[float | None]:
        return asyncio.run(
            reward(
                prompts=columns.pop("prompts", ["tea"] * n),
                completions=columns.pop("completions", ["a song"] * n),
                completion_ids=[[1]] * n,
                trainer_state=SimpleNamespace(global_step=now),
                log_metric=self.log_metric,
                log_extra=self.log_extra,
                **columns,
            )
        )


def test_two_ranks_never_collide(tmp_path: Path) -> None:
    # The same prompt and the same completion on both ranks, twice within a step.
    for rank in (0, 1):
        reward = tiny_reward(tmp_path)
        caller = Caller(accelerator=Accelerator(rank, 2))
        adapter = TRLReward(reward)
        for step in (0, 0, 1):
            caller.call(adapter, step)
    steps = [(c.rollout.step, c.rollout.index) for c in reward.store.window()]
    assert steps == [(0, i) for i in range(8)] + [(1, i) for i in range(4)]


def test_metrics_have_no_false_zero(tmp_path: Path) -> None:
    def silent(messages, schema, seed):
        return "" if "quiet" in str(messages) else '{"discourse": {"score": 3}}'

    reward = tiny_reward(tmp_path, silent, max_unscored=1.0)
    caller = Caller()
    rewards = caller.call(TRLReward(reward), 3, completions=["quiet", "a song"])
    assert rewards == [None, pytest.approx(0.6)]
    # Ranks of which one has a metric and another has none wait for each other in TRL before 1.14.
    assert caller.logged == {}
    log = RunLog(reward.store)
    figures = log.metrics(4)
    assert figures["mpo/reward_normalized"] == pytest.approx(0.6)
    assert figures["mpo/criterion/discourse"] == pytest.approx(0.6)
    assert figures["mpo/unscored"] == 0.5
    assert caller.columns["mpo_rubric"] == [reward.rubric().id] * 2
    assert [bool(reason) for reason in caller.columns["mpo_unscored"]] == [True, False]

    nothing = Caller()
    assert nothing.call(TRLReward(reward), 4, completions=["quiet", "quiet"]) == [None, None]
    figures = log.metrics(5)
    assert figures["mpo/unscored"] == 1.0
    assert not [name for name in figures if name.startswith(("mpo/reward", "mpo/criterion"))]
    assert "mpo/unscored" not in log.metrics(6), "no rollouts, no share"


def test_gold_is_kept_apart_from_what_models_see(tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)
    Caller().call(TRLReward(reward, gold_scorer=Lengths()), 0, completions=["a song", "the song"])
    (case, other) = reward.store.window(scored=None)
    audits = reward.store.external_scores()
    assert (audits[case.rollout.id].value, audits[case.rollout.id].parts) == (1 / 3, {"words": 2})
    assert audits[other.rollout.id].value is None
    assert case.rollout.columns == {}


def test_conversations_and_columns_of_any_kind(tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)
    day = datetime.date(2026, 1, 2)
    system = {"role": "system", "content": "Be brief."}
    user = {"role": "user", "content": [{"type": "text", "text": "Tea?"}, {"type": "image"}]}
    Caller().call(
        TRLReward(reward),
        0,
        prompts=[[system, user], [user]],
        completions=[[{"role": "assistant", "content": "Yes."}], [{"role": "assistant"}]],
        day=[day, day],
        tags=[["a"], {"b": 1}],
        step=[7, 8],
    )
    first, second = (case.rollout for case in reward.store.window(scored=None))
    assert (first.prompt, first.completion) == (
        "system: Be brief.\n\nuser: Tea?\n[image]",
        "Yes.",
    )
    assert (second.prompt, second.completion) == ("Tea?\n[image]", "")
    assert first.columns == {"day": "2026-01-02", "tags": ["a"], "step": 7}
    assert first.step == 0


def test_a_prompt_without_text_is_named(tmp_path: Path) -> None:
    prompts = ["tea", [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]]
    with pytest.raises(DataError, match="prompt 1 of step 3 has the part"):
        Caller().call(TRLReward(tiny_reward(tmp_path)), 3, prompts=prompts)


def test_equal_prompts_with_different_columns_are_two_groups(tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)
    Caller().call(TRLReward(reward), 0, 4, reference=["x", "x", "y", "y"])
    groups = [case.rollout.group for case in reward.store.window()]
    assert groups[0] == groups[1] != groups[2] == groups[3]


def test_a_caller_that_is_no_trainer_is_told_so(tmp_path: Path) -> None:
    adapter = TRLReward(tiny_reward(tmp_path))
    with pytest.raises(ConfigError, match="called by a TRL trainer"):
        asyncio.run(adapter(prompts=["tea"], completions=["song"]))


def test_an_error_of_the_store_surfaces(tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)
    reward.store.close()
    with pytest.raises(StoreError, match="is closed"):
        Caller().call(TRLReward(reward), 0)


def test_an_error_from_among_many_calls_surfaces_as_itself(tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path, lambda *_: ConfigError("the budget is spent"))
    with pytest.raises(ConfigError, match="the budget is spent"):
        Caller().call(TRLReward(reward), 0)


def test_the_callback_works_where_a_loop_runs_already(tmp_path: Path) -> None:
    # As in a notebook: the main thread's loop runs while the trainer calls.
    reward = tiny_reward(tmp_path, every=1)
    callback = MPOCallback(reward)
    state = SimpleNamespace(global_step=1, max_steps=9, is_world_process_zero=True)

    async def notebook() -> None:
        callback.on_step_end(None, state, None)

    Caller().call(TRLReward(reward), 0)
    asyncio.run(notebook())
    assert [d.accepted for d in reward.store.lineage()] == [True, True]


class Held(ScriptedChat):
    """A chat that notes in which loop it was asked and closed."""

    def __init__(self, replies: Any) -> None:
        super().__init__(replies)
        self.loops: list[Any] = []

    async def complete(self, request: ChatRequest) -> Any:
        self.loops.append(asyncio.get_running_loop())
        return await super().complete(request)

    async def aclose(self) -> None:
        self.loops.append("closed")
        self.loops.append(asyncio.get_running_loop())


def test_everything_is_asked_and_closed_in_one_loop(tmp_path: Path) -> None:
    chat = Held(answer)
    reward = make_reward(tiny_task(), chat, tmp_path / "mpo.db", every=1, samples=1)
    callback = MPOCallback(reward)
    state = SimpleNamespace(global_step=1, max_steps=9, is_world_process_zero=True)
    Caller().call(TRLReward(reward), 0)
    callback.on_step_end(None, state, None)
    callback.on_train_end(None, state, None)
    loops = [loop for loop in chat.loops if loop != "closed"]
    assert len(chat.loops) >= 2 + 3 + 2
    assert all(loop is loops[0] for loop in loops)
    assert chat.loops[-2] == "closed"


def test_flatten() -> None:
    assert flatten("tea") == "tea"
    assert flatten([]) == ""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}]
    assert flatten(turns) == "user: a\n\nassistant: "


def test_reward_can_be_pickled(tmp_path: Path) -> None:
    adapter = TRLReward(tiny_reward(tmp_path, answer), gold_scorer=Lengths())
    copy = pickle.loads(pickle.dumps(adapter))
    assert inspect.iscoroutinefunction(copy)
    Caller().call(copy, 0)
    assert len(Store(tmp_path / "mpo.db").window()) == 2
