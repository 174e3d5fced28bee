"""The blind arm: meta steps on the policy before training."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpo.errors import BudgetError, ConfigError
from mpo.store import Store
from mpo.training.untrained_arms import blind_rubric
from training.tiny import ROWS, SETTINGS, answer, history, tiny_reward


def run(folder: Path, model: str, reply=answer, rounds: int = 3, seed: int = 0):
    reward = tiny_reward(folder, reply, every=1)
    rubric = blind_rubric(
        reward=reward, settings=SETTINGS, model=model, rows=ROWS, rounds=rounds, seed=seed
    )
    return rubric, reward


def test_each_round_has_fresh_completions_and_a_decision(model: str, tmp_path: Path) -> None:
    rubric, reward = run(tmp_path, model)
    lineage = reward.store.lineage()
    assert [(d.step, d.kind) for d in lineage] == [
        (0, "seed"),
        (1, "evolve"),
        (2, "evolve"),
        (3, "evolve"),
    ]
    assert rubric.id == lineage[-1].head
    cases = reward.store.window(scored=None)
    assert [c.rollout.step for c in cases] == [0] * 8 + [1] * 8 + [2] * 8
    for step in range(3):
        texts = [c.rollout.completion for c in cases if c.rollout.step == step]
        assert len(set(texts)) > 4  # sampled, not greedy
    assert {c.rollout.columns["topic"] for c in cases} <= {row["topic"] for row in ROWS}


def test_it_is_repeatable_and_continues(model: str, tmp_path: Path) -> None:
    _, whole = run(tmp_path / "a", model)

    def stops(messages, schema, seed):
        if schema["title"] == "analysis" and seed >= 3000:  # the third round's
            raise BudgetError("budget.calls is used up")
        return answer(messages, schema, seed)

    with pytest.raises(BudgetError):
        run(tmp_path / "b", model, stops)
    _, continued = run(tmp_path / "b", model)
    assert history(continued.store) == history(whole.store)
    judged = [c for c in continued.chat.calls if c.schema["title"] == "judgement"]
    assert judged == []

    _, again = run(tmp_path / "b", "no such model is needed")
    assert again.chat.calls == []
    _, other = run(tmp_path / "c", model, seed=1)
    assert history(other.store) != history(whole.store)


def test_a_schedule_with_gaps_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no meta step after round 1"):
        blind_rubric(
            reward=tiny_reward(tmp_path),  # every second
            settings=SETTINGS,
            model=model,
            rows=ROWS,
            rounds=2,
            seed=0,
        )
    assert Store(tmp_path / "mpo.db").window() == []
