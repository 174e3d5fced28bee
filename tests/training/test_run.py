"""A run from settings: what it leaves behind, what it tells, and how it ends with an error."""

from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from mpo.errors import (
    BudgetError,
    ChatTransportError,
    ConfigError,
    DataError,
    StoreError,
    UnscoredError,
)
from mpo.rubric import read_rubric
from mpo.store import Store
from mpo.training.model import load_tokenizer
from mpo.training.reporting import StepReport
from mpo.training.settings import LoraSettings, TrainerSettings
from training.tiny import ROWS, SETTINGS, Lengths, answer, tiny_reward, tiny_train

SHORT = SETTINGS.model_copy(update={"steps": 2, "save_every": 0})


def test_what_a_run_leaves_behind(whole: Path) -> None:
    store = Store(whole / "mpo.db")
    assert sorted(p.name for p in (whole / "checkpoints").glob("checkpoint-*")) == [
        "checkpoint-3",
        "checkpoint-6",
    ]
    files = sorted((whole / "rubrics").iterdir())
    accepted = [d for d in store.lineage() if d.accepted]
    assert [f.name for f in files] == [f"step-{d.step:06d}-{d.proposed}.md" for d in accepted]
    for file, decision in zip(files, accepted, strict=True):
        assert read_rubric(file.read_text()).rubric.id == decision.proposed
    state = json.loads((whole / "checkpoints" / "checkpoint-3" / "trainer_state.json").read_text())
    snapshot = state["stateful_callbacks"]["MPOCallback"]["snapshot"]
    assert (snapshot["store"], snapshot["step"]) == (store.uuid, 3)
    assert "mpo_reward" in json.dumps(state["log_history"])
    assert {f"mpo/{name}" for name in ("reward_normalized", "unscored", "rubric_age")} <= set(
        state["log_history"][0]
    )


def test_rollouts_carry_step_group_and_columns(whole: Path) -> None:
    cases = Store(whole / "mpo.db").window(cohort=None, scored=None)
    for step in range(6):
        rollouts = [c.rollout for c in cases if c.rollout.step == step]
        assert [r.index for r in rollouts] == list(range(8))
        groups = [r.group for r in rollouts]
        assert groups[:4] == groups[:1] * 4
        assert groups[4:] == groups[4:5] * 4
        assert groups[0] != groups[4]
        assert all(r.prompt.startswith(r.columns["topic"]) for r in rollouts)
    # The rubric accepted after update n scores the rollouts of step n on, and no earlier one.
    rubrics = [s.rubric_ids for s in Store(whole / "mpo.db").steps()]
    assert [len(ids) for ids in rubrics] == [1] * 6
    assert rubrics[0] == rubrics[1] != rubrics[2] == rubrics[3] != rubrics[4]


def test_progress_tells_of_each_update_once(model: str, tmp_path: Path) -> None:
    told: list[StepReport] = []
    reward = tiny_reward(tmp_path)
    tiny_train(tmp_path, model, reward, settings=SHORT, gold_scorer=Lengths(), progress=told.append)

    assert [(r.step, r.steps, r.unscored) for r in told] == [(1, 2, 0), (2, 2, 0)]
    assert told[0].decision is None
    assert told[1].decision is not None
    assert told[1].rubric_id == reward.rubric().id != told[0].rubric_id
    assert all(0 <= r.reward <= 1 and 0 < r.gold <= 1 and r.seconds > 0 for r in told)
    assert told[0].kl is not None
    assert 0 < told[0].words <= 12
    first = reward.store.steps()[0]
    assert told[0].reward == pytest.approx(first.mean_normalized)


def test_lora_micro_batches_and_no_kl(model: str, tmp_path: Path) -> None:
    settings = SHORT.model_copy(
        update={
            "lora": LoraSettings(r=2, alpha=4),
            "micro_batch_size": 4,
            "beta": 0.0,
            "extra": {"warmup_steps": 1},
        }
    )
    told: list[StepReport] = []
    reward = tiny_reward(tmp_path, every=None)
    tiny_train(tmp_path, model, reward, settings=settings, progress=told.append)
    checkpoint = tmp_path / "checkpoints" / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").exists()
    assert [(r.kl, r.gold) for r in told] == [(None, None)] * 2
    assert [len(reward.store.window(after_step=s - 1, up_to_step=s)) for s in (0, 1)] == [8, 8]


def test_unscored_rollouts_train_on_until_there_are_too_many(model: str, tmp_path: Path) -> None:
    def flaky(messages, schema, seed):
        text = answer(messages, schema, 0)
        return "no JSON" if "1" in text else text

    told: list[StepReport] = []
    reward = tiny_reward(tmp_path, flaky, max_unscored=1.0, every=None)
    tiny_train(tmp_path, model, reward, settings=SHORT, progress=told.append)
    assert 0 < sum(r.unscored for r in told) < 16
    known = [s.mean_normalized for s in reward.store.steps()]
    assert [r.reward for r in told] == pytest.approx(known)

    strict = tiny_reward(tmp_path / "strict", lambda *_: ChatTransportError("failed: down"))
    with pytest.raises(UnscoredError, match=r"\d of 8 rollouts.*failed: down"):
        tiny_train(tmp_path / "strict", model, strict, settings=SHORT)


def test_an_error_of_the_meta_step_stops_training(model: str, tmp_path: Path) -> None:
    def broke(messages, schema, seed):
        if schema["title"] == "analysis":
            return BudgetError("the budget is spent")
        return answer(messages, schema, seed)

    with pytest.raises(BudgetError, match="the budget is spent"):
        tiny_train(tmp_path, model, tiny_reward(tmp_path, broke), settings=SHORT)


@pytest.fixture
def full_disk():
    """Makes files beyond a size fail to be written, as on a full disk; undone at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_a_checkpoint_is_written(
    whole: Path, model: str, tmp_path: Path, full_disk
) -> None:
    weights = (Path(model) / "model.safetensors").stat().st_size  # the optimizer has twice as much
    reward = tiny_reward(tmp_path)

    def fill(report: StepReport) -> None:
        if report.step == 6:
            reward.store.close()  # the store is fine; only the checkpoint is too big
            full_disk(int(weights * 1.5))

    settings = SETTINGS.model_copy(update={"save_every": 3})
    with pytest.raises(StoreError, match=r"checkpoint-6 could not be written.*from checkpoint-3"):
        tiny_train(tmp_path, model, reward, settings=settings, gold_scorer=Lengths(), progress=fill)
    assert not (tmp_path / "checkpoints" / "checkpoint-6" / "trainer_state.json").exists()


def test_mistakes_are_named_before_anything_is_asked(model: str, tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)

    def told(error: type[Exception], match: str, **options) -> None:
        with pytest.raises(error, match=match):
            tiny_train(tmp_path, options.pop("model", model), reward, **options)

    told(DataError, "0 rows, and one update takes 2 prompts", rows=[])
    told(DataError, "row 1 .* no text in its column 'prompt'", rows=[ROWS[0], {"prompt": " "}] * 9)
    told(ConfigError, "model '/no/such/folder' cannot be loaded", model="/no/such/folder")
    told(ConfigError, "model 'nobody/nothing' cannot be loaded", model="nobody/nothing")
    copy = SHORT.model_copy
    told(ConfigError, "'wandbb' is unknown", settings=copy(update={"report_to": ["wandbb"]}))
    told(ConfigError, "a multiple of 3", settings=copy(update={"micro_batch_size": 3}))
    told(ConfigError, "bogus", settings=copy(update={"extra": {"bogus": 1}}))
    told(ConfigError, "zigzag", settings=copy(update={"lr_schedule": "zigzag"}))
    assert reward.chat.calls == []
    assert not (tmp_path / "checkpoints").exists()


def test_a_tokenizer_without_padding_uses_its_end_token(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(
        tokenizer_file=str(Path(model) / "tokenizer.json"), eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(tmp_path)
    shutil.copy(Path(model) / "config.json", tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.pad_token, tokenizer.padding_side) == ("<eos>", "left")
    assert "has no padding token" in caplog.text
    assert load_tokenizer(model).pad_token == "<pad>"


def test_settings_that_contradict_themselves() -> None:
    with pytest.raises(ValidationError, match="not a multiple of num_generations=8"):
        TrainerSettings(batch_size=12)
    with pytest.raises(ValidationError, match=r"extra.max_steps: set it through steps"):
        TrainerSettings(extra={"max_steps": 3})
    with pytest.raises(ValidationError, match="algoritm"):
        TrainerSettings(algoritm="grpo")
    with pytest.raises(ConfigError, match="on 3 process"):
        TrainerSettings().per_process(3)
    assert TrainerSettings(micro_batch_size=4).per_process(2) == (4, 8)
