"""Rubrics as text in trackers, and trackers that fail."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from mpo.integrations.run_log import DIFF, RUBRIC, RunLog
from mpo.records import Decision, Refinement
from mpo.rubric import Criterion, Rubric
from mpo.store import Store
from mpo.training.settings import TrainerSettings
from mpo.training.start import train
from mpo.training.trackers import PATIENCE, LoopTrackers
from training.tiny import ROWS, SETTINGS, tiny_reward, tiny_train

PPO = TrainerSettings(algorithm="ppo", steps=6, batch_size=8)


def rubric(word: str) -> Rubric:
    return Rubric(title="Essays", criteria=(Criterion(name=word, text=f"{word}\n```"),))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    opened = Store(tmp_path / "mpo.db")
    accept(opened, None, rubric("Clarity"), 0)
    return opened


def accept(store: Store, parent: Rubric | None, new: Rubric, step: int) -> None:
    decision = Decision(
        step=step,
        kind="evolve" if parent else "seed",
        parent=parent.id if parent else None,
        proposed=new.id,
        accepted=True,
        reason="it is better",
        refinement=Refinement(rubric=new, reasons="too lenient") if parent else None,
    )
    store.decide(decision, new)


class Tracker:
    """A tracker of one's own, as transformers takes them, that hears texts too."""

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.texts: list[tuple[str, str, int]] = []
        self.logged = 0

    def __getattr__(self, event: str) -> Any:
        if not event.startswith("on_"):
            raise AttributeError(event)

        def hear(*_: Any, **__: Any) -> None:
            self.logged += event == "on_log"
            if event == self.fails:
                raise RuntimeError("the server is gone")

        return hear

    def log_text(self, name: str, text: str, step: int) -> None:
        self.texts.append((name, text, step))
        if self.fails == "log_text":
            raise RuntimeError("no room for text")


def followed(tracker: Tracker, store: Store, folder: Path) -> LoopTrackers:
    return LoopTrackers(PPO, folder, RunLog(store), [tracker])


def test_each_rubric_once_with_what_changed(store: Store, tmp_path: Path) -> None:
    tracker = Tracker()
    trackers = followed(tracker, store, tmp_path)
    trackers.begin(None)
    old, new = rubric("Clarity"), rubric("Depth")
    trackers.log(1, {"loss": 0.5})
    accept(store, old, new, 2)
    trackers.log(2, {"loss": 0.5})
    trackers.log(3, {"loss": 0.5})
    accept(store, new, old, 4)
    trackers.log(4, {"loss": 0.5})
    trackers.end()
    assert [(name, step) for name, _, step in tracker.texts] == [
        (RUBRIC, 0),
        (RUBRIC, 2),
        (DIFF, 2),
        (RUBRIC, 4),
        (DIFF, 4),
    ], "an earlier rubric that comes back is told again"
    assert tracker.texts[1][1] == new.to_markdown()
    for words in ("evolve: it is better", "too lenient", "+ criterion added: Depth"):
        assert words in tracker.texts[2][1]


def test_a_run_that_is_continued_tells_all(store: Store, tmp_path: Path) -> None:
    accept(store, rubric("Clarity"), rubric("Depth"), 2)
    tracker = Tracker()
    followed(tracker, store, tmp_path).begin(None)
    assert [step for _, _, step in tracker.texts] == [0, 2, 2]


def test_a_failing_tracker_stops_nothing(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    broken, fine = Tracker("on_log"), Tracker()
    trackers = LoopTrackers(PPO, tmp_path, RunLog(store), [broken, fine])
    trackers.begin(None)
    with caplog.at_level(logging.WARNING):
        for step in range(1, 6):
            trackers.log(step, {"loss": 0.5})
    assert broken.logged == PATIENCE
    assert fine.logged == 5
    assert len(caplog.messages) == PATIENCE
    assert "tracker Tracker failed in on_log: RuntimeError: the server is gone" in caplog.text
    assert "is not called again" in caplog.messages[-1]


def test_a_tracker_that_takes_no_text_keeps_its_figures(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = Tracker("log_text")
    trackers = followed(tracker, store, tmp_path)
    trackers.begin(None)
    for step in range(1, 6):
        trackers.log(step, {"loss": 0.5})
    assert (len(tracker.texts), tracker.logged) == (1, 5)
    [warning] = caplog.messages
    assert "no room for text" in warning


def test_tensorboard_has_the_rubrics_of_a_trl_run(model: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    reward = tiny_reward(tmp_path)
    settings = SETTINGS.model_copy(update={"steps": 2, "report_to": ["tensorboard"]})
    tiny_train(tmp_path, model, reward, settings=settings)
    accepted = [d for d in reward.store.lineage() if d.accepted]
    assert len(accepted) > 1, "the rubric has changed"
    texts, scalars = logged(tmp_path)
    # As Markdown that is shown as it stands: a model's text could close a fence.
    wanted = [
        "\n".join(
            f"    {line}" for line in reward.store.rubric(d.proposed).to_markdown().splitlines()
        )
        for d in accepted
        if d.proposed is not None
    ]
    assert texts[RUBRIC] == wanted
    assert len(texts[DIFF]) == len(accepted) - 1
    assert "criterion" in texts[DIFF][0]
    assert "train/loss" in scalars


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_a_run_keeps_its_curves_and_names_the_folder(
    model: str, tmp_path: Path, algorithm: str
) -> None:
    pytest.importorskip("tensorboard")
    reward = tiny_reward(tmp_path / "run")
    settings = TrainerSettings(
        algorithm=algorithm, steps=2, batch_size=8, num_generations=4, report_to=["tensorboard"]
    )
    options = {"settings": settings, "rows": ROWS, "seed": 0, "folder": tmp_path / "run"}
    result = train(reward=reward, model=model, **options)
    board = tmp_path / "run" / "tensorboard"
    assert result["tensorboard"] == str(board)
    files = list(tmp_path.rglob("events.out.tfevents.*"))
    assert files
    assert {file.parent for file in files} == {board}
    texts, scalars = logged(board)
    assert len(texts[DIFF]) == 1
    names = ("reward_normalized", "unscored", "rubric_number", "rubric_age", "alarms")
    names += ("cost/calls", "cost/prompt_tokens", "monitor/length_mean")
    assert {f"train/mpo/{name}" for name in names} <= scalars
    assert [name for name in scalars if name.startswith("train/mpo/criterion/")]


def logged(folder: Path) -> tuple[dict[str, list[str]], set[str]]:
    """Texts and names of figures in TensorBoard's event files."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    texts: dict[str, list[str]] = {}
    scalars: set[str] = set()
    for file in sorted(folder.rglob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                if value.metadata.plugin_data.plugin_name == "text":
                    tag = value.tag.removesuffix("/text_summary")
                    texts.setdefault(tag, []).append(value.tensor.string_val[0].decode())
                else:
                    scalars.add(value.tag)
    return texts, scalars
