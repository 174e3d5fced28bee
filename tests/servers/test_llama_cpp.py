"""llama-cpp-python's server with random weights: whatever the model writes, held to a shape."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fakes import make_reward
from mpo.chat import OpenAIChat
from mpo.records import Judgement, Rollout
from mpo.rubric import Criterion, Rubric
from mpo.store import Store
from mpo.task import load_task

pytestmark = pytest.mark.servers

RUBRIC = Rubric(
    criteria=(
        Criterion(name="Flow", text="Ideas follow.", scores=(0, 3, 5)),
        Criterion(name="Detail", text="Much can be seen.", scores=(-1, 0, 1)),
    )
)


@pytest.fixture(scope="module")
def url(
    start: Callable[..., str],
    model: Callable[[str, Path], Path],
    needs: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> str:
    python = needs("llama_cpp.server")
    path = model("gguf", tmp_path_factory.mktemp("gguf") / "tiny.gguf")
    return start(
        str(python), "-m", "llama_cpp.server", "--model", str(path), "--port", "{port}",
        "--host", "127.0.0.1", "--n_ctx", "16384",
    )  # fmt: skip


def judged(path: Path, chat: OpenAIChat, count: int) -> list[Judgement]:
    task = load_task("essay").with_rm(max_tokens=6000)
    rollouts = [
        Rollout(prompt=f"Write about {n}.", completion=f"The {n}th text. " * 5, index=n)
        for n in range(count)
    ]

    async def scene() -> list[Judgement]:
        with Store(path) as store:
            reward = make_reward(task, chat, store, rubric=RUBRIC, every=None, max_unscored=1.0)
            try:
                return await reward.score(rollouts)
            finally:
                await reward.aclose()

    return asyncio.run(scene())


def test_the_probe_finds_the_output_that_is_enforced(
    url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It refuses json_schema, and enforces a schema beside json_object: a random model then writes
    nothing but valid judgements, unless it is cut off."""
    dialects: dict[str, Any] = {}
    chat = OpenAIChat(
        url, "tiny", structured_output="auto", dialects=dialects, concurrency=2, timeout_s=300
    )
    with caplog.at_level(logging.INFO, logger="mpo.chat.probe"):
        judgements = judged(tmp_path / "a.db", chat, 12)
    assert [d.structured_output for d in dialects.values()] == ["json_object_schema"]
    assert "structured output is json_object_schema" in caplog.text
    assert "json_schema: failed: status 500" in caplog.text
    scored = [j for j in judgements if j.reward is not None]
    assert len(scored) >= 10, [j.unscored for j in judgements]
    for judgement in scored:
        assert [s.criterion for s in judgement.scores] == ["flow", "detail"]
        assert judgement.scores[0].score in (0, 3, 5)
        assert judgement.scores[1].score in (-1, 0, 1)
    for judgement in judgements:
        # The one thing that a grammar cannot promise is that the model comes to an end.
        assert judgement.reward is not None or (judgement.unscored or "").startswith("truncated")


def test_json_schema_is_refused_and_leaves_rollouts_unscored(url: str, tmp_path: Path) -> None:
    chat = OpenAIChat(url, "tiny", structured_output="json_schema", retries=0, timeout_s=300)
    (judgement,) = judged(tmp_path / "a.db", chat, 1)
    assert judgement.reward is None
    assert (judgement.unscored or "").startswith("failed: status 500")


def test_without_a_shape_a_random_model_scores_nothing(url: str, tmp_path: Path) -> None:
    """What it writes freely is never taken for a judgement."""
    chat = OpenAIChat(url, "tiny", structured_output="lines", concurrency=2, timeout_s=300)
    task_answers = judged(tmp_path / "a.db", chat, 2)
    assert [j.reward for j in task_answers] == [None, None]
