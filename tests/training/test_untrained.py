"""The arm without training."""

from __future__ import annotations

from pathlib import Path

from mpo.store import Store
from mpo.training.untrained_arms import BATCHES, score_untrained
from training.tiny import ROWS, SETTINGS, tiny_reward


def test_base_scores_the_untrained_policy_and_trains_nothing(model: str, tmp_path: Path) -> None:
    reward = tiny_reward(tmp_path)
    told = []
    outcome = score_untrained(
        reward=reward,
        settings=SETTINGS,
        model=model,
        rows=ROWS,
        folder=tmp_path,
        seed=0,
        progress=told.append,
    )
    batches = min(BATCHES, SETTINGS.steps)
    assert [(r.step, r.steps, r.decision) for r in told] == [
        (n, batches, None) for n in range(1, batches + 1)
    ]
    assert all(r.reward is not None and r.unscored == 0 for r in told)
    assert (outcome["steps"], outcome["checkpoint"], outcome["rubrics"]) == (0, None, 1)
    assert not (tmp_path / "checkpoints").exists()
    assert (tmp_path / "rubrics").is_dir()
    with Store(tmp_path / "mpo.db") as store:
        assert len(store.window(scored=None)) == batches * SETTINGS.batch_size
        assert [d.kind for d in store.lineage()] == ["seed"]

    again = tiny_reward(tmp_path)
    score_untrained(
        reward=again, settings=SETTINGS, model=model, rows=ROWS, folder=tmp_path, seed=0
    )
    assert again.chat.calls == []
