"""Services as processes, on loopback sockets."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import mpo

TESTS = Path(__file__).parents[1]
PATHS = os.pathsep.join([str(Path(mpo.__file__).parents[1]), str(TESTS)])


class Node:
    """`node.py` in a folder, as a process."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        program = [sys.executable, str(TESTS / "service" / "node.py"), str(folder), *arguments]
        kept = {k: v for k, v in os.environ.items() if k != "MPO_TOKEN"}
        self.process = subprocess.Popen(
            program,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kept | {"PYTHONPATH": PATHS} | environment,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url, self.stop(signal.SIGKILL)
        self.host, port = self.url.removeprefix("http://").rsplit(":", 1)
        self.port = int(port)

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        timeout: float = 30,
        **headers: str,
    ) -> tuple[int, Any]:
        """Status and JSON (or text) of one request on a connection of its own."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        data = raw if raw is not None else None if body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, data, sent)
            response = connection.getresponse()
            text = response.read().decode()
        finally:
            connection.close()
        try:
            return response.status, json.loads(text)
        except ValueError:
            return response.status, text

    def post(self, path: str, body: Any, **options: Any) -> tuple[int, Any]:
        return self.send("POST", path, body, **options)

    def get(self, path: str, **options: Any) -> tuple[int, Any]:
        return self.send("GET", path, **options)

    def score(self, *items: dict[str, Any], **request: Any) -> dict[str, Any]:
        """An answer of /v1/score, which must be one."""
        status, answer = self.post("/v1/score", {"items": list(items), **request})
        assert status == 200, answer
        return dict(answer)

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        """Exit code, and what it said on stderr."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        _, said = self.process.communicate(timeout=30)
        return self.process.returncode, said


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """Starts a node in the test's folder; all are stopped in the end."""
    nodes: list[Node] = []

    def begin(*arguments: str, **environment: str) -> Node:
        nodes.append(Node(tmp_path, *arguments, **environment))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A service for all tests of a file."""
    started = Node(tmp_path_factory.mktemp("node"))
    yield started
    code, said = started.stop()
    assert code == 0
    assert "Traceback" not in said, said
