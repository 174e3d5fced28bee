"""A PPO run: what it leaves behind, that it learns, and that it goes on where it was stopped."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fakes import make_reward  # noqa: E402
from mpo.chat import ScriptedChat  # noqa: E402
from mpo.errors import ConfigError, DataError, StoreError, UnscoredError  # noqa: E402
from mpo.judge.scale import Normalized, Raw  # noqa: E402
from mpo.rubric import read_rubric  # noqa: E402
from mpo.sanitize import find_fences  # noqa: E402
from mpo.store import Store  # noqa: E402
from mpo.training.ppo.trainer import reward_span  # noqa: E402
from mpo.training.reporting import StepReport  # noqa: E402
from mpo.training.settings import PPOSettings, TrainerSettings  # noqa: E402
from mpo.training.trackers import LoopTrackers  # noqa: E402
from mpo_sandbox import corpus  # noqa: E402
from mpo_sandbox.policy import PolicySettings, ensure_policy  # noqa: E402
from training.tiny import ROWS, Lengths, answer, history, tiny_reward, tiny_task  # noqa: E402
from training.tiny_ppo import LORA, SETTINGS, ppo, tiny_ppo  # noqa: E402

VARIANTS = {
    "shared": {},
    "separate": {"critic": "separate", "minibatches": 2, "kl_target": 0.5, "kl_horizon": 20},
    "lora": {"lora": LORA.model_dump(), "critic": "separate", "dtype": "bfloat16"},
    "folded": {"lora": LORA.model_dump(), "missing_eos": "absolute"},
}
SHORT = ppo(steps=2, save_every=0)


class Stop(Exception):
    """What stops the run from outside."""


def stop_after(step: int):
    def progress(report: StepReport) -> None:
        if report.step == step:
            raise Stop

    return progress


@pytest.fixture(scope="module")
def wholes(model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run that nothing stopped, of each variant. Not to be changed."""
    folders = {}
    for name, changes in VARIANTS.items():
        folders[name] = folder = tmp_path_factory.mktemp(name)
        settings = ppo(**changes)
        tiny_ppo(folder, model, tiny_reward(folder), settings=settings, gold_scorer=Lengths())
    return folders


def files(folder: Path, step: int = 6) -> dict[str, bytes]:
    """The weights of a checkpoint and what it says, to the bit."""
    checkpoint = folder / "checkpoints" / f"checkpoint-{step}"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    found = {p.name: p.read_bytes() for p in checkpoint.glob("*.safetensors")}
    return {**found, "history": json.dumps(state["log_history"]).encode()}


# ---------------------------------------------------------------------- what it leaves behind


def test_what_a_run_leaves_behind(wholes: dict[str, Path]) -> None:
    folder = wholes["shared"]
    store = Store(folder / "mpo.db")
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "checkpoint-3",
        "checkpoint-6",
    ]
    accepted = [d for d in store.lineage() if d.accepted]
    rubrics = sorted((folder / "rubrics").iterdir())
    assert [f.name for f in rubrics] == [f"step-{d.step:06d}-{d.proposed}.md" for d in accepted]
    for file, decision in zip(rubrics, accepted, strict=True):
        assert read_rubric(file.read_text()).rubric.id == decision.proposed
    # The rubric accepted after step n scores the rollouts of step n on, and no earlier one.
    ids = [s.rubric_ids for s in store.steps()]
    assert ids[0] == ids[1] != ids[2] == ids[3] != ids[4]
    for step in range(6):
        rollouts = [c.rollout for c in store.window(after_step=step - 1, up_to_step=step)]
        assert [r.index for r in rollouts] == list(range(8))
        assert [r.group for r in rollouts[::2]] == [r.group for r in rollouts[1::2]]
        assert len({r.group for r in rollouts}) == 4
    # The report has curves of these.
    figures = store.events("trainer")
    assert [event.step for event in figures] == [1, 2, 3, 4, 5, 6]
    for event in figures:
        assert list(event.result) == ["loss", "kl", "entropy", "learning_rate"]
        assert all(isinstance(value, float) for value in event.result.values())


def test_a_checkpoint_is_a_model_for_anybody(wholes: dict[str, Path], model: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    whole = wholes["shared"] / "checkpoints" / "checkpoint-6"
    AutoModelForCausalLM.from_pretrained(whole)
    assert AutoTokenizer.from_pretrained(whole).eos_token == "<eos>"
    base = AutoModelForCausalLM.from_pretrained(model)
    adapted = PeftModel.from_pretrained(base, str(wholes["lora"] / "checkpoints" / "checkpoint-6"))
    moved = [p for n, p in adapted.named_parameters() if "lora_B" in n and bool(p.any())]
    assert len(moved) == 7


def test_progress_tells_of_each_step_once(model: str, tmp_path: Path) -> None:
    told: list[StepReport] = []
    reward = tiny_reward(tmp_path)
    summary = tiny_ppo(
        tmp_path, model, reward, settings=SHORT, gold_scorer=Lengths(), progress=told.append
    )
    assert [(r.step, r.steps, r.unscored) for r in told] == [(1, 2, 0), (2, 2, 0)]
    assert told[0].decision is None
    assert told[1].decision is not None
    assert told[1].rubric_id == reward.rubric().id != told[0].rubric_id
    assert told[0].kl == 0.0 != told[1].kl
    assert told[0].reward == pytest.approx(reward.store.steps()[0].mean_normalized)
    assert 0 < told[0].words <= 12
    assert 0 < told[0].gold <= 1
    assert (summary["steps"], summary["resumed_from"], summary["rubrics"]) == (2, None, 2)
    assert Path(summary["checkpoint"]).name == "checkpoint-2"


def test_trackers_are_called_as_by_a_trainer_of_transformers(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    heard = []

    class Tracker(TrainerCallback):
        def on_train_begin(self, args, state, control, model=None, **_) -> None:
            heard.append(("begin", model, state.is_world_process_zero, args.max_steps))

        def on_log(self, args, state, control, logs=None, **_) -> None:
            heard.append((state.global_step, logs))

        def on_train_end(self, args, state, control, **_) -> None:
            heard.append("end")

    trackers = LoopTrackers(SETTINGS, tmp_path, callbacks=[Tracker()])
    trackers.begin("model")
    trackers.log(1, {"objective/kl": 0.5})
    trackers.end()
    assert heard == [("begin", "model", True, 6), (1, {"objective/kl": 0.5}), "end"]
    LoopTrackers(SETTINGS, tmp_path).log(1, {})  # nobody listens


# ---------------------------------------------------------------------- learning


def count_reply(word: str):
    """Grades a response by how often it has a word."""

    def reply(messages, schema, seed) -> str:
        (response,) = find_fences("\n".join(m["content"] for m in messages), "RESPONSE")
        n = response.split().count(word)
        scores = {
            k: min(n, max(v["properties"]["score"]["enum"]))
            for k, v in schema["properties"].items()
        }
        return json.dumps({k: {"rationale": "", "score": s} for k, s in scores.items()})

    return reply


@pytest.mark.parametrize("changes", [{}, {"critic": "separate", "lora": {"r": 8, "alpha": 16}}])
def test_the_sandbox_policy_learns_what_pays(tmp_path: Path, changes: dict, policy: str) -> None:
    settings = ppo(
        steps=12, batch_size=32, num_generations=1, learning_rate=3e-3, beta=0.01, save_every=0,
        epochs=4, **changes
    )  # fmt: skip
    told: list[StepReport] = []
    reward = make_reward(
        tiny_task(), ScriptedChat(count_reply("the")), tmp_path / "mpo.db", every=None
    )
    rows = [{"prompt": essay.prompt} for essay in corpus.generate(3, 40, "a")]
    tiny_ppo(tmp_path, policy, reward, settings=settings, rows=rows, progress=told.append)
    first, last = ([r.reward for r in told[part]] for part in (slice(0, 4), slice(-4, None)))
    assert sum(last) / 4 > 0.15 + sum(first) / 4
    assert told[-1].kl > 0


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    settings = PolicySettings(hidden=64, layers=1, essays=640, steps=40)
    return str(ensure_policy(tmp_path_factory.mktemp("policy"), settings=settings))


# ---------------------------------------------------------------------- law 5


@pytest.mark.parametrize("name", list(VARIANTS))
def test_a_stopped_run_continues_bit_for_bit(
    wholes: dict[str, Path], model: str, tmp_path: Path, name: str
) -> None:
    settings = ppo(**VARIANTS[name])
    reward = tiny_reward(tmp_path)
    with pytest.raises(Stop):
        tiny_ppo(tmp_path, model, reward, settings=settings, gold_scorer=Lengths(),
                 progress=stop_after(5))  # fmt: skip
    reward.store.close()
    torch.manual_seed(99)  # another process has another random state

    again = tiny_reward(tmp_path)
    summary = tiny_ppo(tmp_path, model, again, settings=settings, gold_scorer=Lengths())

    assert summary["resumed_from"] == 3
    assert history(again.store) == history(Store(wholes[name] / "mpo.db"))
    assert files(tmp_path) == files(wholes[name])
    assert len({d.proposed for d in again.store.lineage()}) == 4  # rubrics did change


def test_a_killed_process_loses_nothing(
    wholes: dict[str, Path], model: str, tmp_path: Path
) -> None:
    # In the middle of the judgements of the fifth batch, one step after the checkpoint.
    command = [sys.executable, str(Path(__file__).parent / "tiny_ppo.py"), str(tmp_path), model]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run(
        [*command, "--kill-at", "37"], env=environment, capture_output=True, text=True, timeout=240
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (tmp_path / "checkpoints" / ".checkpoint-6.part").mkdir()  # as if it had died while writing

    reward = tiny_reward(tmp_path)
    summary = tiny_ppo(tmp_path, model, reward, gold_scorer=Lengths())

    assert summary["resumed_from"] == 3
    assert history(reward.store) == history(Store(wholes["shared"] / "mpo.db"))
    assert files(tmp_path) == files(wholes["shared"])
    once = Store(wholes["shared"] / "mpo.db").usage()
    assert reward.store.usage()["rm"] == once["rm"]  # no judgement was asked for twice
    assert not (tmp_path / "checkpoints" / ".checkpoint-6.part").exists()


def test_a_finished_run_is_not_repeated_and_a_shorter_one_is_refused(
    wholes: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(wholes["shared"], tmp_path, dirs_exist_ok=True)
    reward = tiny_reward(tmp_path)
    summary = tiny_ppo(tmp_path, "no such model", reward)
    assert (summary["resumed_from"], reward.chat.calls) == (6, [])
    with pytest.raises(ConfigError, match="beyond steps=4"):
        tiny_ppo(tmp_path, "no such model", reward, settings=ppo(steps=4))


def test_a_checkpoint_with_other_weights_is_refused(
    wholes: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(wholes["shared"], tmp_path, dirs_exist_ok=True)

    def told(match: str, **changes) -> None:
        with pytest.raises(ConfigError, match=match):
            tiny_ppo(tmp_path, "no model", tiny_reward(tmp_path), settings=ppo(steps=8, **changes))

    told("trained with critic='shared', and the settings say 'separate'", critic="separate")
    told("trained with lora=None", lora=LORA.model_dump())
    (tmp_path / "checkpoints" / "checkpoint-6" / "ppo.json").unlink()
    told("was not written by PPO")


def test_a_damaged_checkpoint_is_named(wholes: dict[str, Path], model: str, tmp_path: Path) -> None:
    shutil.copytree(wholes["shared"], tmp_path, dirs_exist_ok=True)
    torn = tmp_path / "checkpoints" / "checkpoint-6" / "optimizer.pt"
    torn.write_bytes(torn.read_bytes()[:200])
    with pytest.raises(StoreError, match=r"checkpoint-6 cannot be read.*delete it"):
        tiny_ppo(tmp_path, model, tiny_reward(tmp_path), settings=ppo(steps=8))


@pytest.fixture
def full_disk():
    """Makes files beyond a size fail to be written, as on a full disk; undone at the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_while_a_checkpoint_is_written(
    wholes: dict[str, Path], model: str, tmp_path: Path, full_disk
) -> None:
    weights = (Path(model) / "model.safetensors").stat().st_size
    reward = tiny_reward(tmp_path)

    def fill(report: StepReport) -> None:
        if report.step == 6:
            reward.store.close()  # the store is fine; only the checkpoint is too big
            full_disk(int(weights * 1.5))

    with pytest.raises(StoreError, match="checkpoint-6 could not be written"):
        tiny_ppo(tmp_path, model, reward, gold_scorer=Lengths(), progress=fill)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    again = tiny_reward(tmp_path)
    assert tiny_ppo(tmp_path, model, again, gold_scorer=Lengths())["resumed_from"] == 3
    assert files(tmp_path) == files(wholes["shared"])


# ---------------------------------------------------------------------- rewards


def test_unscored_rollouts_train_on_until_there_are_too_many(model: str, tmp_path: Path) -> None:
    def flaky(messages, schema, seed):
        text = answer(messages, schema, 0)
        return "no JSON" if '"score": 0' in text or '"score": 3' in text else text

    told: list[StepReport] = []
    reward = tiny_reward(tmp_path, flaky, max_unscored=1.0, every=None)
    tiny_ppo(tmp_path, model, reward, settings=SHORT, progress=told.append)
    assert 0 < sum(r.unscored for r in told) < 16
    assert [r.reward for r in told] == pytest.approx(
        [s.mean_normalized for s in reward.store.steps()]
    )
    strict = tiny_reward(tmp_path / "strict", lambda *_: "no JSON")
    with pytest.raises(UnscoredError, match="8 of 8 rollouts"):
        tiny_ppo(tmp_path / "strict", model, strict, settings=SHORT)


def test_a_batch_without_any_score_changes_no_weight(model: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    reward = tiny_reward(tmp_path, lambda *_: "no JSON", max_unscored=1.0, every=None)
    told: list[StepReport] = []
    tiny_ppo(tmp_path, model, reward, settings=SHORT, progress=told.append)
    assert [(r.reward, r.kl, r.unscored) for r in told] == [(None, None, 8)] * 2
    before = load_file(Path(model) / "model.safetensors")
    after = load_file(tmp_path / "checkpoints" / "checkpoint-2" / "model.safetensors")
    assert all(torch.equal(after[name], weight) for name, weight in before.items())


def test_the_span_of_a_reward_depends_on_its_scale() -> None:
    rubric = read_rubric(
        "# R\n## A  (weight 2)\nText.\n- -1: bad\n- 3: good\n## B  (weight 1)\nText.\n- 0: no\n"
        "- 5: yes\n"
    ).rubric
    assert reward_span(Normalized(), rubric) == 1
    low, high = rubric.score_range
    assert reward_span(Raw(), rubric) == high - low > 5


def test_a_missing_end_costs_a_share_of_the_span_or_an_amount(model: str, tmp_path: Path) -> None:
    def mean(name: str, **changes) -> tuple[float, float]:
        folder = tmp_path / name
        reward = tiny_reward(folder, every=None, scale=Raw())
        settings = ppo(steps=1, save_every=0, **changes)
        tiny_ppo(folder, model, reward, settings=settings)
        state = folder / "checkpoints" / "checkpoint-1" / "trainer_state.json"
        line = json.loads(state.read_text())["log_history"][0]
        return line["objective/scores"], 1 - line["completions/ended"]

    free, cut = mean("none", missing_eos_penalty=None)
    assert 0 < cut < 1
    assert mean("absolute", missing_eos="absolute", missing_eos_penalty=0.5)[0] == pytest.approx(
        free - 0.5 * cut
    )
    span = reward_span(Raw(), tiny_task().rubric)
    assert mean("relative", missing_eos_penalty=0.5)[0] == pytest.approx(free - 0.5 * span * cut)


# ---------------------------------------------------------------------- mistakes


def test_importing_ppo_loads_nothing_heavy() -> None:
    program = (
        "import sys, mpo.training.ppo.trainer\n"
        "print(*[m for m in ('torch', 'transformers', 'peft', 'trl') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.strip()) == (0, "")


def test_ppo_runs_where_trl_cannot_be_imported(model: str, tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['trl'] = sys.modules['datasets'] = None\n"  # as if they were not installed
        "from training.tiny_ppo import main\n"
        "main()\n"
        "assert sys.modules['trl'] is None\n"
    )
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    options = [str(tmp_path), model, "--settings", json.dumps({"steps": 2})]
    done = subprocess.run(
        [sys.executable, "-c", program, *options],
        env=environment, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads((tmp_path / "told.json").read_text())
    assert [line["step"] for line in told] == [1, 2]
    assert [d.step for d in Store(tmp_path / "mpo.db").lineage()] == [0, 2]


def test_mistakes_are_named_before_anything_is_asked(model: str, tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)

    def told(error: type[Exception], match: str, **options) -> None:
        with pytest.raises(error, match=match):
            tiny_ppo(tmp_path, options.pop("model", model), reward, **options)

    told(DataError, "0 rows, and one update takes 4 prompts", rows=[])
    told(DataError, "row 1 .* no text in its column 'prompt'", rows=[ROWS[0], {"prompt": " "}] * 9)
    told(ConfigError, "model '/no/such/folder' cannot be loaded", model="/no/such/folder")
    told(ConfigError, "'wandbb' is unknown", settings=ppo(report_to=["wandbb"]))
    told(ConfigError, r"3 mini-batch\(es\) on 1 process", settings=ppo(minibatches=3))
    told(ConfigError, "zigzag", settings=ppo(lr_schedule="zigzag"))
    told(ConfigError, "lora:.*no_such", settings=ppo(
        lora={"r": 2, "alpha": 4, "target_modules": ["no_such"]}))  # fmt: skip
    assert reward.chat.calls == []
    assert not (tmp_path / "checkpoints").exists()


def test_settings_that_contradict_themselves() -> None:
    with pytest.raises(ValueError, match="not a multiple of num_generations=3"):
        TrainerSettings(algorithm="ppo", num_generations=3)
    with pytest.raises(ValueError, match="beta=0 would stay 0"):
        TrainerSettings(algorithm="ppo", beta=0, ppo=PPOSettings(kl_target=1))
    with pytest.raises(
        ValueError, match=r"TRL, which does not run PPO: move epochs to trainer\.ppo"
    ):
        TrainerSettings(algorithm="ppo", extra={"epochs": 2})
    with pytest.raises(ValueError, match="epoch"):
        PPOSettings(epoch=3)
