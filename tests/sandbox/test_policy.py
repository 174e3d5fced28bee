"""The policy: an ordinary checkpoint that loads, decodes, ends and generates; cached whole.

A few training steps are enough for all of it; how fluent the full training gets is a matter of the
demo.
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from mpo.errors import MPOError  # noqa: E402
from mpo_sandbox import corpus, policy  # noqa: E402
from mpo_sandbox.environments import ENVIRONMENTS  # noqa: E402
from mpo_sandbox.policy import PolicySettings, ensure_policy  # noqa: E402
from mpo_sandbox.words import words  # noqa: E402

TINY = PolicySettings(hidden=64, layers=1, essays=640, steps=40)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def trained(cache: Path) -> tuple[Path, list[str]]:
    said: list[str] = []
    return ensure_policy(cache, settings=TINY, progress=said.append), said


@pytest.fixture(scope="module")
def loaded(trained: tuple[Path, list[str]]) -> tuple[Any, Any]:
    model = transformers.AutoModelForCausalLM.from_pretrained(trained[0])
    return model, transformers.AutoTokenizer.from_pretrained(trained[0])


def test_training_lowers_the_loss_and_reports_it(trained: tuple[Path, list[str]]) -> None:
    said = trained[1]
    assert "steps" in said[0]
    loss = float(said[-1].split("loss ")[1].split()[0])
    assert 0.1 < loss < 4.5  # log(511 words) = 6.2 untrained


def test_the_tokenizer_reads_every_essay_back(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    for essay in corpus.generate(0, 300, "a"):
        for text in (essay.prompt, essay.text):
            ids = tokenizer(text)["input_ids"]
            assert tokenizer.unk_token_id not in ids
            assert tokenizer.decode(ids) == text


def test_special_tokens_are_distinct_and_agree_with_the_model(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    eos, pad, unk = tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.unk_token_id
    assert len({eos, pad, unk}) == 3
    for config in (model.config, model.generation_config):
        assert (config.eos_token_id, config.pad_token_id) == (eos, pad)
        assert config.bos_token_id is None
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.padding_side == "left"


def test_unknown_words_become_unk(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    ids = tokenizer("Honey about zebras.")["input_ids"]
    assert ids.count(tokenizer.unk_token_id) == 1
    assert tokenizer.decode(ids, skip_special_tokens=True) == "honey about."


def test_generation_from_a_padded_batch_is_the_same_as_alone(loaded: tuple[Any, Any]) -> None:
    model, tokenizer = loaded
    drawn = sorted(corpus.prompts(4, 6), key=len)
    batch = tokenizer(drawn, return_tensors="pt", padding=True)
    assert batch["input_ids"][0, 0] == tokenizer.pad_token_id
    alone = tokenizer(drawn[:1], return_tensors="pt")

    def greedy(inputs: Any) -> str:
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        out = model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=12, do_sample=False)
        text = tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        assert isinstance(text, str)
        return text

    assert greedy(batch) == greedy(alone)
    assert words(greedy(alone))


def test_labels_cover_the_essay_and_its_end_only(loaded: tuple[Any, Any]) -> None:
    tokenizer = loaded[1]
    essay = corpus.generate(6, 1, "b")[0]
    ids, mask, labels = policy._encode(tokenizer, [essay], 96)
    learned = ids[0][labels[0] != -100]
    assert tokenizer.decode(learned[:-1]) == essay.text
    assert learned[-1] == tokenizer.eos_token_id
    assert int(mask.sum()) == len(learned) + len(tokenizer(essay.prompt)["input_ids"])
    assert bool((ids[0][mask[0] == 0] == tokenizer.pad_token_id).all())


def test_a_cached_policy_is_not_trained_again(cache: Path, trained: tuple[Path, list[str]]) -> None:
    said: list[str] = []
    before = (trained[0] / "config.json").stat().st_mtime_ns
    assert ensure_policy(cache, settings=TINY, progress=said.append) == trained[0]
    assert said == []
    assert (trained[0] / "config.json").stat().st_mtime_ns == before


def test_only_whole_folders_are_left_in_the_cache(
    cache: Path, trained: tuple[Path, list[str]]
) -> None:
    assert list(cache.iterdir()) == [trained[0]]


def test_task_seed_and_settings_name_the_folder() -> None:
    essay, ethics = ENVIRONMENTS["essay"], ENVIRONMENTS["ethics"]
    keys = [
        policy._key(essay, 0, TINY),
        policy._key(essay, 1, TINY),
        policy._key(essay, 0, PolicySettings()),
        policy._key(ethics, 0, TINY),
    ]
    assert len(set(keys)) == 4


@pytest.mark.parametrize("task", sorted(ENVIRONMENTS))
def test_a_tokenizer_of_each_task_reads_its_texts_back(task: str) -> None:
    texts = ENVIRONMENTS[task].texts(0, 300)
    tokenizer = policy.build_tokenizer(texts)
    for text in texts:
        for said in (text.prompt, text.text):
            assert tokenizer.decode(tokenizer(said)["input_ids"]) == said


def test_the_same_seed_trains_the_same_weights(
    tmp_path: Path, trained: tuple[Path, list[str]]
) -> None:
    torch.rand(7)  # the caller's random state must not matter
    state = torch.random.get_rng_state()
    again = ensure_policy(tmp_path, settings=TINY)
    assert bool((torch.random.get_rng_state() == state).all())
    weights = "model.safetensors"
    assert (again / weights).read_bytes() == (trained[0] / weights).read_bytes()


def test_training_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def stop(message: str) -> None:
        raise KeyboardInterrupt(message)

    with pytest.raises(KeyboardInterrupt):
        ensure_policy(tmp_path, settings=TINY, progress=stop)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_that_reads_back_something_else_is_refused(
    trained: tuple[Path, list[str]],
) -> None:
    strange = corpus.Essay("honey", "write about zebras.", "zebras.", None)
    with pytest.raises(MPOError, match="zebras"):
        policy.check_round_trip(trained[0], strange)


def test_cache_root_follows_the_environment(tmp_path: Path) -> None:
    code = "from mpo_sandbox.policy import cache_root; print(cache_root())"

    def root(**extra: str) -> str:
        env = {k: v for k, v in os.environ.items() if k != "MPO_CACHE"} | extra
        run = [sys.executable, "-c", code]
        return subprocess.run(run, env=env, check=True, capture_output=True, text=True).stdout

    assert root(MPO_CACHE=str(tmp_path)).strip() == str(tmp_path / "sandbox")
    assert root(HOME=str(tmp_path)).strip() == str(tmp_path / ".cache" / "mpo" / "sandbox")


def test_importing_the_module_loads_no_torch() -> None:
    code = "import sys, mpo_sandbox.policy; print('torch' in sys.modules)"
    run = [sys.executable, "-c", code]
    assert subprocess.run(run, check=True, capture_output=True, text=True).stdout == "False\n"
