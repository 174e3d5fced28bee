"""Config: keys, presets, overrides, rows and run folders."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpo.config import (
    ARMS,
    Config,
    RunFolder,
    check,
    config_hash,
    differences,
    finished,
    leaf_keys,
    load_config,
    load_rows,
    make_chat,
    preset_names,
    to_yaml,
    write_text,
)
from mpo.config.keys import config_keys, keys_markdown
from mpo.config.load import RENAMED
from mpo.config.schema import ChatConfig
from mpo.errors import (
    ChatTransportError,
    ConfigError,
    DataError,
    MPOError,
    RubricError,
    StoreError,
    TaskError,
)
from mpo.task import load_task

PRESET = "sandbox/essay"


def written(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


# ---------------------------------------------------------------------- keys


def test_every_key_has_a_name_a_type_and_a_description() -> None:
    keys = {key.name: key for key in config_keys()}
    assert set(keys) <= {*leaf_keys(), "meta_chat", "second_judge"}
    assert [key.name for key in keys.values() if not (key.type and key.description)] == []
    assert keys["meta.gate"].type == "text, or list of text"
    rank = keys["trainer.lora.r"]
    assert (rank.type, rank.default) == ("integer above 0", "16")
    assert keys["model"].default == "required"
    assert "meta_chat.base_url" in leaf_keys()


def test_the_page_of_keys_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "config.md"
    command = "run: mpo config keys --markdown > docs/config.md"
    assert page.read_text("utf-8") == keys_markdown(), command


@pytest.mark.parametrize("old", [*RENAMED, "meta_chat.tier", "second_judge.sandbox"])
def test_a_renamed_key_is_refused_with_its_new_name(old: str) -> None:
    chat, _, key = old.rpartition(".")
    new = RENAMED.get(old) or RENAMED[f"chat.{key}"].replace("chat.", f"{chat}.")
    with pytest.raises(ConfigError) as caught:
        load_config(PRESET, [f"{old}=1"])
    assert f"key {old!r} has a new name: write {new}" in str(caught.value)
    name = new.partition(" ")[0]
    assert name in [*leaf_keys(), "second_judge", "chat.options.judge"], "it is a key"


def test_a_key_of_ppo_is_refused_in_extra_with_its_new_name() -> None:
    ppo = ["trainer.algorithm=ppo", "trainer.extra.epochs=2", "trainer.extra.critic=separate"]
    with pytest.raises(ConfigError) as caught:
        load_config(PRESET, ppo)
    for key in ("epochs", "critic"):
        assert f"'trainer.extra.{key}' has a new name: write trainer.ppo.{key}" in str(caught.value)
    assert load_config(PRESET, ["trainer.extra.max_grad_norm=2"]).trainer.extra, "TRL has it too"


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_its_own_yaml(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    again = load_config(written(tmp_path / "c.yaml", to_yaml(config)))
    assert again == config
    assert config_hash(again) == config_hash(config)


def test_hash_tells_configs_apart_and_is_the_same_in_another_process() -> None:
    config = load_config(PRESET)
    assert config_hash(config) != config_hash(load_config(PRESET, ["seed=1"]))
    code = f"from mpo.config import *; print(config_hash(load_config({PRESET!r})))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == config_hash(config)


def test_overrides_are_typed_as_in_yaml_and_the_last_one_wins() -> None:
    config = load_config(
        PRESET,
        [
            "trainer.learning_rate=5e-4",
            "trainer.report_to=[wandb]",
            "data.shuffle=true",
            "data.limit=null",
            "trainer.extra.epsilon=1e-3",
            "seed=1",
            "seed=2",
            "meta_chat.base_url=http://h/v1",
            "meta_chat.model=m",
        ],
    )
    assert config.trainer.learning_rate == 5e-4
    assert config.trainer.report_to == ["wandb"]
    assert config.trainer.extra == {"epsilon": 0.001}
    assert (config.data.shuffle, config.data.limit, config.seed) == (True, None, 2)
    assert config.meta_chat is not None
    assert config.meta_chat.model == "m"


def test_an_endpoint_takes_the_place_of_the_simulated_model() -> None:
    config = load_config(PRESET, ["chat.base_url=http://h:1/v1", "chat.model=m"])
    assert config.chat.plugin is None
    assert config.simulated == {"policy": True, "data": True, "judge": False}


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["trainer.stpes=3"], ["'trainer.stpes'", "did you mean 'trainer.steps'?"]),
        (["learning_rate=3"], ["did you mean 'trainer.learning_rate'?"]),
        (["chat.modle=x"], ["did you mean 'chat.model'?"]),
        (["zzz=1"], ["unknown key 'zzz'"]),
        (["trainer.lora.rank=1"], ["'trainer.lora.rank'", "'r'"]),
        (["trainer.steps=many"], ["trainer.steps", "'many'"]),
        (["trainer.steps=0"], ["trainer.steps", "greater than 0"]),
        (["reward.scale=huge"], ["reward.scale", "'raw' or 'anchored'", "'huge'"]),
        (["arm=mpoo"], ["unknown arm 'mpoo'", "fixed", "blind"]),
        (["trainer.batch_size=10"], ["batch_size=10", "num_generations=8"]),
        (["chat={model: m}"], ["chat", "base_url"]),
        (["trainer.steps"], ["write key=value"]),
        (["a.=1"], ["write key=value"]),
        (["data.path={"], ["not valid YAML"]),
    ],
)
def test_a_wrong_key_or_value_is_named(overrides: list[str], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(PRESET, overrides)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: a\nmodel: b\nchat: {plugin: sandbox}\n", [":2", "'model' stands twice"]),
        ("task: [\n", ["not valid YAML", ":2"]),
        ("- a\n", ["a mapping"]),
        ("chat: {plugin: sandbox}\n", ["'model' is missing"]),
        ("model: m\n", ["'chat' is missing", "base_url"]),
        ("model: m\nchat: {plugin: sandbox, base_url: http://x}\n", ["exclude each other"]),
    ],
)
def test_a_faulty_file_is_named_with_its_place(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path / "c.yaml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sandbox/essay'"):
        load_config("sandbox/esay")


def test_differences_name_each_key() -> None:
    old, new = load_config(PRESET), load_config(PRESET, ["trainer.steps=7", "seed=3"])
    assert list(map(str, differences(old, new))) == ["seed: 0 -> 3", "trainer.steps: 140 -> 7"]
    assert [one.key for one in differences(old, new, ignore=("seed",))] == ["trainer.steps"]
    assert differences(old, old) == []


def test_only_one_arm_evolves_while_it_trains() -> None:
    assert [name for name, arm in ARMS.items() if arm.evolves] == ["mpo"]
    assert [name for name, arm in ARMS.items() if arm.blind] == ["blind"]


def test_the_simulated_model_follows_the_seed_and_can_be_honest() -> None:
    chat = ChatConfig(plugin="sandbox")
    assert make_chat(chat, 4).name == "sandbox-4"
    honest = ChatConfig(plugin="sandbox", options={"judge": "unbiased"})
    assert make_chat(honest, 4).name == "sandbox-4-unbiased"


# ---------------------------------------------------------------------- rows


def rows_of(path: Path | str, **data: Any) -> list[dict[str, Any]]:
    settings = ",".join(f"{key}: {json.dumps(value)}" for key, value in data.items())
    override = f"data={{path: {json.dumps(str(path))}, {settings}}}"
    return load_rows(load_config(PRESET, [override]), load_task("essay"))


PROMPTS = [{"prompt": f"about {n}", "id": n} for n in range(20)]


def jsonl(rows: list[Any]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(PROMPTS), path)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.jsonl", lambda path: path.write_text(jsonl(PROMPTS))),
        ("a.json", lambda path: path.write_text(json.dumps(PROMPTS))),
        ("a.jsonl.gz", lambda path: path.write_bytes(gzip.compress(jsonl(PROMPTS).encode()))),
        ("a.parquet", parquet),
    ],
)
def test_rows_of_every_kind_of_file(
    tmp_path: Path, name: str, write: Callable[[Path], object]
) -> None:
    write(tmp_path / name)
    rows = rows_of(tmp_path / name)
    assert [row["id"] for row in rows] == list(range(20))
    assert "Instruction: about 3" in rows[3]["prompt"], "the task's template is filled"


def test_a_dataset_has_names_of_its_own_and_may_have_bad_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    chats: list[Any] = [
        {"messages": [{"role": "user", "content": f"about {n}"}], "x": None} for n in range(3)
    ]
    path = written(tmp_path / "a.jsonl", jsonl([*chats, {"messages": []}]))
    assert "about 2" in rows_of(path, skip_bad=True)[2]["prompt"]
    assert "1 of 4 rows left out; the first: " in caplog.text
    path = written(tmp_path / "b.csv", "topic,tone\ntea,sad\n")
    (row,) = rows_of(path, columns={"prompt": "topic+tone"})
    assert "tea\n\nsad" in row["prompt"]


def test_shuffle_is_seeded_and_comes_before_limit(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", jsonl(PROMPTS))
    first = [row["id"] for row in rows_of(path, shuffle=True, limit=5)]
    assert first == [row["id"] for row in rows_of(path, shuffle=True, limit=5)]
    assert first != [0, 1, 2, 3, 4]
    assert [row["id"] for row in rows_of(path, limit=2)] == [0, 1]


def test_a_line_separator_inside_a_string_is_no_new_line(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", '{"prompt": "a\u2028b"}\n')
    assert "a\u2028b" in rows_of(path)[0]["prompt"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["is empty"]),
        ('{"prompt": "a"}\n{"prompt": \n', [":2", "not JSON"]),
        ('{"prompt": "a"}\n[1]\n', [":2", "must be a JSON object"]),
        ('{"text": "a"}\n', [":1", "'prompt' is missing", "columns are text", "prompt=text"]),
        ('{"prompt": "a"}\n{"prompt": ["b"]}\n', [":2", "must be text", "data.skip_bad=true"]),
    ],
)
def test_faulty_rows_are_named(tmp_path: Path, text: str, words: list[str]) -> None:
    path = written(tmp_path / "a.jsonl", text)
    with pytest.raises(DataError) as caught:
        rows_of(path)
    for word in [str(path), *words]:
        assert word in str(caught.value)


def test_a_missing_file_is_no_hub_id(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        rows_of(tmp_path / "gone.jsonl")


def test_the_sandbox_writes_its_own_prompts_by_seed() -> None:
    task = load_task("essay")
    first = load_rows(load_config(PRESET, ["data.limit=9"]), task)
    other = load_rows(load_config(PRESET, ["data.limit=9", "seed=1"]), task)
    assert len(first) == 9
    assert first != other


# ---------------------------------------------------------------------- parts


def test_check_fits_the_task_to_the_sandbox_policy() -> None:
    checked = check(load_config(PRESET))
    assert checked.task.spec.response.max_tokens == 72
    assert checked.task.policy_prompt({"prompt": "just this"}) == "just this"
    assert len(checked.rows) == 512


@pytest.mark.parametrize(
    ("override", "kind", "words"),
    [
        ("task=esay", TaskError, "unknown task 'esay'"),
        ("rubric=gone.md", RubricError, "gone.md"),
        ("data.path=gone.jsonl", DataError, "gone.jsonl"),
    ],
)
def test_check_finds_what_is_wrong(override: str, kind: type[MPOError], words: str) -> None:
    with pytest.raises(kind, match=words):
        check(load_config(PRESET, [override]))


def test_check_finds_that_an_endpoint_is_down() -> None:
    config = load_config(PRESET, ["chat={base_url: 'http://127.0.0.1:9/v1', model: m}"])
    with pytest.raises(ChatTransportError, match="nobody answers at http://127.0.0.1:9/v1"):
        check(config)


# ---------------------------------------------------------------------- run folders


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    config = load_config(PRESET)
    with (
        RunFolder(tmp_path / "a", config),
        pytest.raises(ConfigError, match="in use by another process"),
        RunFolder(tmp_path / "a", config),
    ):
        pass


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    written(tmp_path / "thesis.tex", "precious")
    with (
        pytest.raises(ConfigError, match="not the folder of a run"),
        RunFolder(tmp_path, load_config(PRESET)),
    ):
        pass
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_finished_only_with_a_summary(tmp_path: Path) -> None:
    config = load_config(PRESET)
    with RunFolder(tmp_path / "a", config) as folder:
        assert finished(folder.path) is None
        folder.finish({"x": 1.5, "y": None})
        assert finished(folder.path) == {"x": 1.5, "y": None}
    written(tmp_path / "a" / "summary.json", "{")
    with pytest.raises(StoreError, match=r"summary\.json"):
        finished(tmp_path / "a")


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(StoreError, match="cannot be written"):
        write_text(target, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_config_is_frozen() -> None:
    config: Any = load_config(PRESET)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3
    assert isinstance(config, Config)
