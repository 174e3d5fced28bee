"""The command line as a person runs it: a process of its own, in a folder of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from typer.testing import CliRunner

import mpo
from mpo.cli.group import app
from mpo_sandbox.server import make_app

SOURCE = str(Path(mpo.__file__).parents[1])


def environment(**more: str) -> dict[str, str]:
    """Of a child: this checkout's package, one thread, no colours, no network."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OPENAI")}
    return kept | {
        "PYTHONPATH": SOURCE,
        "OMP_NUM_THREADS": "1",
        "HF_HUB_OFFLINE": "1",
        "NO_COLOR": "1",
        "COLUMNS": "100",
        **more,
    }


class Mpo:
    """Runs `mpo` in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(
        self, *arguments: object, program: list[str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        start = program or [sys.executable, "-m", "mpo"]
        return subprocess.run(
            [*start, *map(str, arguments)],
            cwd=self.folder,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    def ok(self, *arguments: object) -> str:
        """Its stdout; it must end well."""
        done = self(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refused(self, *arguments: object) -> str:
        """The one line on stderr of a command that must fail."""
        done = self(*arguments)
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return lines[0]

    def write(self, name: str, content: str | list[dict[str, Any]]) -> Path:
        """A file in the folder; a list becomes JSONL."""
        path = self.folder / name
        if not isinstance(content, str):
            content = "".join(json.dumps(row) + "\n" for row in content)
        path.write_text(content, "utf-8")
        return path


@pytest.fixture
def run(tmp_path: Path) -> Mpo:
    return Mpo(tmp_path)


class Endpoint:
    """The sandbox's server on a real loopback socket, in a thread; it counts what it is asked."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        """Requests by the title of their schema."""
        self.bodies: list[dict[str, Any]] = []
        """Requests in order."""
        self.url = ""

    def start(self) -> None:
        ready = threading.Event()
        self._loop = asyncio.new_event_loop()

        def serve() -> None:
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._open())
            ready.set()
            self._loop.run_forever()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(10)

    async def _open(self) -> None:
        app = make_app()

        @web.middleware
        async def count(request: web.Request, handler: Any) -> web.StreamResponse:
            if request.method == "POST":
                body = await request.json()
                self.bodies.append(body)
                self.asked[body["response_format"]["json_schema"]["schema"]["title"]] += 1
            answer: web.StreamResponse = await handler(request)
            return answer

        app.middlewares.append(count)
        self._runner = web.AppRunner(app)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v1"

    def stop(self) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    served = Endpoint()
    served.start()
    yield served
    served.stop()


class Here:
    """Commands in this process, which is faster; the folder of the test is the working folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._runner = CliRunner()

    def _run(self, arguments: tuple[object, ...]) -> Any:
        return self._runner.invoke(app, ["evaluate", *map(str, arguments)], prog_name="mpo")

    def ok(self, *arguments: object) -> str:
        done = self._run(arguments)
        assert done.exit_code == 0, done.output
        self.stderr = done.stderr
        return str(done.stdout)

    def json(self, *arguments: object) -> Any:
        return json.loads(self.ok(*arguments, "--json"))

    def refused(self, *arguments: object) -> str:
        done = self._run(arguments)
        assert done.exit_code == 1, (done.exit_code, done.output)
        lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, done.stderr
        return str(lines[0])

    def write(self, name: str, rows: list[dict[str, Any]]) -> Path:
        path = self.folder / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Here:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    return Here(tmp_path)
