"""The client of the adapters: patient where that helps, and plain where it does not."""

from __future__ import annotations

import asyncio
import json
import pickle
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from mpo.errors import BudgetError, ChatReplyError, ChatTransportError, ConfigError
from mpo.service.client import RewardClient

ITEM = {"prompt": "a", "completion": "b"}
GOOD = {"results": [{"reward": 0.5}]}


class Server:
    """Answers as it is told, in order; the last answer stays."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, Any]] = []
        self.asked: list[tuple[str, dict[str, str], Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, dict(self.headers), body))
                answers = outer.answers
                status, content = answers.pop(0) if len(answers) > 1 else answers[0]
                data = content if isinstance(content, bytes) else json.dumps(content).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever)
        self.thread.start()


@pytest.fixture
def server() -> Iterator[Server]:
    started = Server()
    yield started
    started.http.shutdown()
    started.thread.join()
    started.http.server_close()


def score(client: RewardClient) -> list[dict[str, Any]]:
    async def run() -> list[dict[str, Any]]:
        try:
            return await client.score([ITEM], mode="eval", on_failure="group_mean")
        finally:
            await client.aclose()

    return asyncio.run(run())


def test_it_asks_again_while_that_may_help(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPO_TOKEN", "secret-secret-secret")
    server.answers = [(503, {}), (429, {"error": {"message": "full"}}), (200, GOOD)]
    client = RewardClient(server.url + "/", run_id="r")
    assert score(client) == GOOD["results"]
    bodies = [body for _, _, body in server.asked]
    assert bodies[0] == bodies[1] == bodies[2]
    assert (bodies[0]["run_id"], bodies[0]["mode"]) == ("r", "eval")
    assert bodies[0]["options"]["on_failure"] == "group_mean"
    assert server.asked[0][1]["Authorization"] == "Bearer secret-secret-secret"
    assert b"secret" not in pickle.dumps(client)
    assert score(pickle.loads(pickle.dumps(client))) == GOOD["results"]


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        ((402, {"error": {"message": "budget.usd is used up"}}), BudgetError, "budget.usd"),
        ((409, {"error": {"message": "another run"}}), ConfigError, "another run"),
        ((401, b"no JSON"), ConfigError, "no JSON"),
        ((200, b"<html>"), ChatReplyError, "no reward service"),
        ((200, {"results": []}), ChatReplyError, "no result"),
    ],
)
def test_what_a_repetition_cannot_mend_is_raised_at_once(
    server: Server, answer: tuple[int, Any], kind: type[Exception], words: str
) -> None:
    server.answers = [answer]
    with pytest.raises(kind, match=words):
        score(RewardClient(server.url))
    assert len(server.asked) == 1


def test_patience_ends() -> None:
    with pytest.raises(ChatTransportError, match="mpo serve"):
        score(RewardClient("http://127.0.0.1:9", patience_s=0.2))
    with pytest.raises(ChatTransportError, match="mpo serve"):
        RewardClient("http://127.0.0.1:9", patience_s=0.2).meta_step_now(1)
    with pytest.raises(ConfigError, match="no URL"):
        RewardClient("localhost:8000")


def test_callbacks_need_no_event_loop(server: Server) -> None:
    client = RewardClient(server.url)
    server.answers = [(500, {}), (200, {"changed": True})]
    assert client.meta_step_now(20) == {"changed": True}
    assert client.snapshot_now("a", 20) == {"changed": True}
    assert client.restore_now(tag="a") == {"changed": True}
    assert [path for path, _, _ in server.asked] == [
        "/v1/meta_step",
        "/v1/meta_step",
        "/v1/snapshot",
        "/v1/restore",
    ]
    server.answers = [(404, {"error": {"message": "there is no snapshot"}})]
    with pytest.raises(ConfigError, match="no snapshot"):
        client.restore_now(tag="b")
