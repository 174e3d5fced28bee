"""Who answered is a part of every key: no model gets another one's answers."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from fakes import judge_reply, make_reward
from mpo.chat import (
    CachedChat,
    ChatRequest,
    MemoryCache,
    OpenAIChat,
    RecordedChat,
    ScriptedChat,
    identity_of,
    same_model,
)
from mpo.chat.identity import endpoint_identity
from mpo.config import Config, RunFolder, build_served
from mpo.errors import ConfigError
from mpo.records import Judgement, Rollout

ROLLOUTS = [
    Rollout(prompt="Write about rain.", completion=f"Rain fell on harbour {n}. Nobody spoke.")
    for n in range(3)
]


@pytest.mark.parametrize(
    "url",
    [
        "http://host:80/v1",
        "http://HOST/v1/",
        "HTTP://host/v1",
        "http://host./v1",
        "http://host/v1/chat/completions",
        "http://host/v1?api-version=2024-10-21",
        "http://host/v1#x",
    ],
)
def test_the_spellings_of_one_address_are_one_model(url: str) -> None:
    assert OpenAIChat(url, "qwen").identity == "http://host/v1 qwen"


def test_what_decides_only_whether_an_answer_comes_is_no_part_of_it() -> None:
    plain = OpenAIChat("http://host/v1", "qwen")
    other = OpenAIChat(
        "http://host/v1", "qwen", api_key_env="OTHER_KEY", timeout_s=1, deadline_s=2, retries=0,
        concurrency=1, max_tokens_field="max_completion_tokens", extra_body={},
        structured_output="auto",
    )  # fmt: skip
    assert plain.identity == other.identity
    assert same_model(plain, other)


def test_another_address_model_or_setting_is_another_model() -> None:
    chats = [
        OpenAIChat("http://host/v1", "qwen"),
        OpenAIChat("https://host/v1", "qwen"),
        OpenAIChat("http://host:8000/v1", "qwen"),
        OpenAIChat("http://host/v2", "qwen"),
        OpenAIChat("http://[::1]/v1", "qwen"),
        OpenAIChat("http://host/v1", "Qwen"),
        OpenAIChat("http://host/v1", "qwen", extra_body={"top_k": 1}),
        OpenAIChat("http://host/v1", "qwen", extra_body={"top_k": 2}),
        OpenAIChat("http://host/v1", "qwen", structured_output="lines"),
    ]
    assert len({chat.identity for chat in chats}) == len(chats)
    ordered = endpoint_identity("http://host/v1", "m", {"extra_body": {"a": 1, "b": {"c": 2}}})
    assert ordered == endpoint_identity(
        "http://host/v1", "m", {"extra_body": {"b": {"c": 2}, "a": 1}}
    )


class Named(ScriptedChat):
    """A user's own chat with a name only, or with an identity."""

    def __init__(self, answer: str, identity: str | None = None) -> None:
        super().__init__(lambda messages, schema, seed: answer, name="any")
        if identity is not None:
            self.identity = identity


def test_the_cache_and_a_recording_keep_two_models_apart(tmp_path: Path) -> None:
    request = ChatRequest(({"role": "user", "content": "hello"},))

    def ask(chat: Any) -> str:
        return asyncio.run(chat.complete(request)).text

    cache = MemoryCache()
    for said in ("a", "b", "a"):
        assert ask(CachedChat(Named(said, f"at {said}"), cache)) == said
        assert ask(RecordedChat(tmp_path / "calls.jsonl", inner=Named(said, f"at {said}"))) == said
    assert len(cache) == 2
    assert len((tmp_path / "calls.jsonl").read_text().splitlines()) == 2
    # Without a model to ask, the file says what it holds.
    assert ask(RecordedChat(tmp_path / "calls.jsonl")) == "a"
    assert identity_of(CachedChat(Named("a"))) == "any"


# ---------------------------------------------------------------------- judgements


def graded(url: str, path: Path, **options: Any) -> list[Judgement]:
    async def score() -> list[Judgement]:
        chat = OpenAIChat(url, "any", retries=0, backoff_s=0.001)
        reward = make_reward("essay", chat, path, max_unscored=1.0, every=None, **options)
        try:
            return await reward.score(ROLLOUTS)
        finally:
            await reward.aclose()
            reward.store.close()

    return asyncio.run(score())


@pytest.fixture
def other(endpoint: Any) -> Iterator[Any]:
    server = type(endpoint)()
    server.start()
    yield server
    server.stop()


def judge(faults: Any) -> Any:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        schema: Mapping[str, Any] = body["response_format"]["json_schema"]["schema"]
        return web.json_response(faults.body(judge_reply(body["messages"], schema)))

    return answer


def test_two_servers_with_one_name_are_two_judges(
    tmp_path: Path, endpoint: Any, other: Any, faults: Any
) -> None:
    for server in (endpoint, other):
        server.default = judge(faults)
    first = graded(endpoint.url, tmp_path / "mpo.db")
    second = graded(other.url, tmp_path / "mpo.db")
    assert len(endpoint.requests) == len(other.requests) == 3
    assert {j.model for j in (*first, *second)} == {"any"}
    assert {j.answered_by for j in second} == {f"{other.url} any"}
    # Each is known from now on, and costs nothing.
    for url, before in ((endpoint.url, first), (other.url + "/", second)):
        assert [j.key for j in graded(url, tmp_path / "mpo.db")] == [j.key for j in before]
    assert len(endpoint.requests) == len(other.requests) == 3


def test_a_run_whose_endpoint_moved_pays_for_no_judgement_twice(
    tmp_path: Path, endpoint: Any, other: Any, faults: Any
) -> None:
    endpoint.default = other.default = judge(faults)
    first = graded(endpoint.url, tmp_path / "mpo.db")
    moved = graded(other.url, tmp_path / "mpo.db", earlier_judges=[f"{endpoint.url} any"])
    assert [j.key for j in moved] == [j.key for j in first]
    assert other.requests == []


def test_a_second_judge_that_is_the_reward_model_is_refused(tmp_path: Path) -> None:
    def reward(second: Any) -> Any:
        chat = CachedChat(OpenAIChat("http://host/v1", "any"))
        return make_reward("essay", chat, tmp_path / "mpo.db", second_judge=second)

    with pytest.raises(ConfigError, match="second_judge is the reward model itself"):
        reward(OpenAIChat("http://host:80/v1/", "any", api_key_env="OTHER_KEY"))
    reward(OpenAIChat("http://host:8001/v1", "any"))
    reward(OpenAIChat("http://host/v1", "any", extra_body={"top_k": 1}))


def test_a_key_that_the_server_repeats_is_in_no_file(
    tmp_path: Path, endpoint: Any, faults: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = "c4nary-s3cr3t-k3y"
    monkeypatch.setenv("OPENAI_API_KEY", key)

    async def echo(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        said = request.headers["Authorization"]
        if len(endpoint.requests) == 1:
            return web.json_response({"error": {"message": f"no such key: {said}"}}, status=401)
        schema = body["response_format"]["json_schema"]["schema"]
        reply = judge_reply(body["messages"], schema).replace("because of", f"{said} and")
        return web.json_response(faults.body(reply))

    endpoint.default = echo
    judgements = graded(endpoint.url, tmp_path / "mpo.db")
    assert [j.unscored is None for j in judgements].count(False) == 1
    assert "[secret]" in json.dumps([j.model_dump(mode="json") for j in judgements])
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(key.encode() in path.read_bytes() for path in files)
    assert os.environ["OPENAI_API_KEY"] == key


def test_a_run_that_goes_on_at_another_address_keeps_its_judgements(
    tmp_path: Path, endpoint: Any, other: Any, faults: Any
) -> None:
    endpoint.default = other.default = judge(faults)

    def run(url: str, rollouts: list[Rollout]) -> list[Judgement]:
        settings = {
            "model": "none",
            "chat": {"base_url": url, "model": "any", "structured_output": "json_schema"},
            "meta": {"every": None, "gate": "always", "canaries": False},
        }
        config = Config.model_validate(settings)
        ignore = ("model", "data", "trainer")
        with RunFolder(tmp_path / "run", config, ignore=ignore, started_by=0) as folder:
            reward = build_served(config, folder.path).reward

            async def score() -> list[Judgement]:
                try:
                    return await reward.score(rollouts)
                finally:
                    await reward.aclose()
                    reward.store.close()

            return asyncio.run(score())

    first = run(endpoint.url, ROLLOUTS)
    new = Rollout(
        prompt="Write about rain.", completion="Rain again, all day long. It fell.", step=1
    )
    moved = run(other.url, [*ROLLOUTS, new])
    assert [j.key for j in moved[:3]] == [j.key for j in first]
    assert (len(endpoint.requests), len(other.requests)) == (3, 1)
