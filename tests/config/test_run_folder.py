"""A run's folder: what may change while the run goes on, what may not, and a name that stays free
until the run has had an update."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import pytest

from fakes import batch, loop_chat
from mpo.chat import ScriptedChat
from mpo.config import Config, RunFolder, build_served, finished, load_config, read_run_config
from mpo.config.run_folder import open_run_store, remember_store
from mpo.config.schema import is_operational, operational_keys
from mpo.errors import ConfigError, StoreError
from mpo.store import Store
from store.store_doubles import SEED, make_case, seed_decision

PRESET = "sandbox/essay"
CHAT = "chat={base_url: 'http://127.0.0.1:9/v1', model: m}"


@lru_cache
def config_of(*overrides: str) -> Config:
    return load_config(PRESET, [CHAT, *overrides])


def begun(path: Path, config: Config, *, updates: int = 3, paid: bool = True) -> Path:
    """The folder of a run that was stopped after so many updates."""
    with RunFolder(path, config), open_run_store(path) as store:
        store.plant_seed("", SEED)
        remember_store(store)
        usage = {} if paid else {"usage": seed_decision().usage}
        store.append([make_case(step=step, **usage) for step in range(updates + 1)])
        if updates:
            checkpoint(path, updates, store)
    return path


def checkpoint(path: Path, step: int, store: Store) -> None:
    folder = path / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "rng_state.pth").write_bytes(b"x")
    saved = {"MPOCallback": {"snapshot": store.snapshot(step), "processes": 1}}
    state = {"global_step": step, "stateful_callbacks": saved}
    (folder / "trainer_state.json").write_text(json.dumps(state))


def test_the_same_config_continues(tmp_path: Path) -> None:
    path = begun(tmp_path / "a", config_of())
    before = (path / "config.yaml").read_bytes()
    with RunFolder(path, config_of()) as run:
        assert run.notes == []
    assert (path / "config.yaml").read_bytes() == before
    with Store(path / "mpo.db") as store:
        assert store.config_changes() == []


OPERATIONAL = (
    "chat.base_url='http://127.0.0.1:10/v1'",
    "chat.api_key_env=OTHER_KEY",
    "chat.timeout_s=7",
    "chat.retries=0",
    "chat.concurrency=3",
    "chat.structured_output=lines",
    "reward.max_unscored=0.9",
    "reward.deadline_s=5",
    "trainer.steps=3",
    "trainer.save_every=1",
    "trainer.report_to=[tensorboard]",
    "budget.calls=1000000",
    "budget.prices={m: [1, 2]}",
    "cache=false",
    "service.deadline_s=9",
)
DEFINING = (
    "seed=3",
    "task=ethics",
    "model=other",
    "arm=fixed",
    "rubric=mine.md",
    "data.limit=5",
    "chat.model=other",
    "chat={plugin: sandbox}",
    "meta_chat={base_url: 'http://127.0.0.1:9/v1', model: m}",
    "second_judge={base_url: 'http://127.0.0.1:9/v1', model: n}",
    "reward.scale=raw",
    "meta.gate=always",
    "meta.every=7",
    "trainer.learning_rate=0.5",
    "trainer.batch_size=8",
)


def test_operational_keys_may_change_and_are_recorded(tmp_path: Path) -> None:
    path = begun(tmp_path / "a", config_of())
    for n in range(len(OPERATIONAL)):
        config = config_of(*OPERATIONAL[: n + 1])
        with RunFolder(path, config) as run:
            (note,) = run.notes
        assert note.startswith(f"from update 3 on: {OPERATIONAL[n].partition('=')[0]}")
        assert read_run_config(path) == config
    with RunFolder(path, config) as run:
        assert run.notes == [], "it is the run's config now"
    with Store(path / "mpo.db") as store:
        changes = store.config_changes()
    assert [change.step for change in changes] == [3] * len(OPERATIONAL)
    assert str(changes[2]) == "chat.timeout_s: 120.0 -> 7.0"
    with RunFolder(path, config_of()) as run:  # and back
        assert len(run.notes) == len(OPERATIONAL)


def test_what_the_run_is_may_not_change(tmp_path: Path) -> None:
    path = begun(tmp_path / "a", config_of())
    before = (path / "config.yaml").read_bytes()
    for override in DEFINING:
        with pytest.raises(ConfigError) as caught:
            RunFolder(path, config_of(override, "chat.timeout_s=7")).__enter__()
        told = str(caught.value)
        for word in (
            override.partition("=")[0],
            "another --name",
            "chat.timeout_s: 120.0 -> 7.0",
            *operational_keys(),
        ):
            assert word in told
    assert (path / "config.yaml").read_bytes() == before
    with RunFolder(path, config_of()):
        pass  # the refusal has let go of it


def test_fewer_updates_than_it_has_had_are_refused(tmp_path: Path) -> None:
    path = begun(tmp_path / "a", config_of())
    with (
        pytest.raises(ConfigError, match=r"has had 3 updates, more than trainer\.steps=2"),
        RunFolder(path, config_of("trainer.steps=2")),
    ):
        pass
    assert read_run_config(path) == config_of()


def test_a_finished_run_can_be_given_more_updates(tmp_path: Path) -> None:
    path = begun(tmp_path / "a", config_of("trainer.steps=3"))
    with RunFolder(path, config_of("trainer.steps=3")) as run:
        run.finish({"x": 1})
    assert finished(path, 3) == {"x": 1}
    assert finished(path, 5) is None
    with RunFolder(path, config_of("trainer.steps=5", "chat.timeout_s=7")):
        assert finished(path) is None


def test_marks_reach_into_parts_and_values() -> None:
    assert is_operational("budget.prices.qwen")
    assert is_operational("meta_chat.base_url")
    assert not is_operational("meta_chat")
    assert not is_operational("chat.options.judge")
    assert "budget.*" in operational_keys()


# ---------------------------------------------------------------------- the name stays free


def test_a_start_that_fails_before_anything_is_paid_leaves_no_folder(tmp_path: Path) -> None:
    def start(config: Config, *, with_store: bool) -> None:
        with RunFolder(tmp_path / "a", config) as run:
            if with_store:
                with open_run_store(run.path) as store:
                    store.plant_seed("", SEED)
                    remember_store(store)
            raise StoreError("the disk is full")

    for with_store in (False, True):
        with pytest.raises(StoreError, match="the disk is full"):
            start(config_of(), with_store=with_store)
        assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("paid", [False, True])
def test_before_the_first_update_the_name_is_free(tmp_path: Path, paid: bool) -> None:
    path = begun(tmp_path / "a", config_of(), updates=0, paid=paid)
    with RunFolder(path, config_of("chat.model=other", "seed=1")) as run:
        assert read_run_config(path) == run.config
        assert sorted(p.name for p in path.iterdir()) == ["config.yaml"]
    aside = tmp_path / "a.unstarted-1"
    assert aside.exists() is paid, "what was paid for is not removed"
    if paid:
        assert str(aside) in run.notes[0]
        with Store(aside / "mpo.db", create=False) as store:
            assert store.usage()["rm"].calls == 1


def test_a_failing_start_removes_nothing_that_is_not_its_own(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        with pytest.raises(StoreError, match="full"), RunFolder(path, config_of()):
            raise StoreError("full")

    started = begun(tmp_path / "started", config_of())
    fail(started)
    assert (started / "mpo.db").exists()
    noted = begun(tmp_path / "noted", config_of(), updates=0, paid=False)
    (noted / "notes.txt").write_text("mine")
    fail(noted)
    assert (noted / "notes.txt").read_text() == "mine"


def test_a_service_has_started_with_its_first_item(tmp_path: Path) -> None:
    path = begun(tmp_path / "a", config_of(), updates=0)
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        RunFolder(path, config_of("seed=1"), started_by=0).__enter__()


# ---------------------------------------------------------------------- the run's own store


def put_a_new_one_there(path: Path) -> None:
    Store(path.with_name("new.db")).close()
    path.with_name("new.db").replace(path)


HARMS: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, 4096),
    "another run's": lambda path: shutil.copyfile(path.parents[1] / "b" / "mpo.db", path),
    "a new one": put_a_new_one_there,
}


@pytest.mark.parametrize("updates", [0, 3])
@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_a_lost_store_is_an_error_at_every_start(
    tmp_path: Path, harm: Callable[[Path], object], updates: int
) -> None:
    path = begun(tmp_path / "a", config_of(), updates=updates, paid=updates > 0)
    begun(tmp_path / "b", config_of())
    harm(path / "mpo.db")
    for config in (config_of(), config_of("seed=1"), config_of()):
        with pytest.raises(StoreError, match="mpo.db"):
            RunFolder(path, config).__enter__()
        with pytest.raises(StoreError, match="mpo.db"):
            open_run_store(path)
    assert (path / "config.yaml").exists()


def test_a_store_that_lost_its_log_is_no_new_beginning(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with RunFolder(path, config_of()), open_run_store(path) as store:
        made = (path / "mpo.db").read_bytes()
        store.plant_seed("", SEED)
        remember_store(store)
    (path / "mpo.db").write_bytes(made)
    with pytest.raises(StoreError, match="has lost what was in it"):
        RunFolder(path, config_of()).__enter__()


# ---------------------------------------------------------------------- another endpoint


def test_what_was_graded_at_the_old_endpoint_is_not_paid_for_again(tmp_path: Path) -> None:
    async def graded(chat: ScriptedChat, steps: range) -> list[str]:
        served = build_served(config_of(), tmp_path, chat)
        try:
            rollouts = [rollout for step in steps for rollout in batch(step)]
            return [judgement.key for judgement in await served.reward.score(rollouts)]
        finally:
            served.chats.keep()
            await served.reward.aclose()
            served.reward.store.close()

    old, new = loop_chat("at the old endpoint"), loop_chat("at the new endpoint")
    keys = asyncio.run(graded(old, range(2)))
    assert asyncio.run(graded(new, range(3)))[: len(keys)] == keys
    assert (len(old.calls), len(new.calls)) == (16, 8)
    assert asyncio.run(graded(loop_chat("at the old endpoint"), range(2))) == keys
