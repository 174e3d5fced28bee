"""`transformers serve`: it takes a schema and ignores it in silence. The probe must notice."""

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
from mpo.store import Store

pytestmark = pytest.mark.servers


@pytest.fixture(scope="module")
def serve(
    start: Callable[..., str],
    model: Callable[[str, Path], Path],
    needs: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[str, str]]:
    """Base URL and model name of a served checkpoint."""
    python = needs("transformers, torch, fastapi, uvicorn")

    def served(kind: str) -> tuple[str, str]:
        folder = str(model(kind, tmp_path_factory.mktemp(kind) / "model"))
        program = str(python.with_name("transformers"))
        url = start(program, "serve", folder, "--device", "cpu", "--port", "{port}")
        return url, folder

    return served


def judged(path: Path, chat: OpenAIChat) -> list[Judgement]:
    rollouts = [
        Rollout(prompt="Write about tea.", completion=f"Tea number {n} is hot.", index=n)
        for n in range(3)
    ]

    async def scene() -> list[Judgement]:
        with Store(path) as store:
            reward = make_reward("essay", chat, store, every=None, max_unscored=1.0)
            try:
                return await reward.score(rollouts)
            finally:
                await reward.aclose()

    return asyncio.run(scene())


def probed(
    url: str, name: str, path: Path, caplog: pytest.LogCaptureFixture
) -> tuple[list[Judgement], list[Any]]:
    dialects: dict[str, Any] = {}
    chat = OpenAIChat(
        url, name, structured_output="auto", dialects=dialects, concurrency=1, timeout_s=300
    )
    with caplog.at_level(logging.INFO, logger="mpo.chat.probe"):
        return judged(path, chat), [d.structured_output for d in dialects.values()]


def test_the_probe_notices_and_lines_serve(
    serve: Callable[[str], tuple[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The checkpoint knows two lines by heart: with the output `lines` that is a judgement."""
    judgements, detected = probed(*serve("lines"), tmp_path / "a.db", caplog)
    assert detected == ["lines"]
    assert "json_schema: taken and not enforced" in caplog.text
    assert [j.reward for j in judgements] == [0.6] * 3
    assert judgements[0].scores[0].rationale == "ideas follow from each other"


def test_a_random_model_is_reported_and_never_believed(
    serve: Callable[[str], tuple[str, str]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    judgements, detected = probed(*serve("random"), tmp_path / "a.db", caplog)
    assert detected == ["lines"]
    assert "taken and not enforced" in caplog.text
    for judgement in judgements:
        assert judgement.reward is None
        assert (judgement.unscored or "").partition(":")[0] in ("invalid_json", "truncated")
