"""Real servers as child processes. `make test-servers` installs them into a venv of their own."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PYTHON = Path(os.environ.get("MPO_SERVERS_PYTHON", ROOT / ".venv-servers" / "bin" / "python"))

Start = Callable[..., str]


def need(modules: str) -> Path:
    """The servers' interpreter; skips where its environment lacks a package."""
    if not PYTHON.exists():
        pytest.skip(f"{PYTHON} is missing: make test-servers installs it")
    found = subprocess.run([PYTHON, "-c", f"import {modules}"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"{modules} is not installed in {PYTHON.parent.parent}: make test-servers")
    return PYTHON


def make_model(kind: str, path: Path) -> Path:
    script = Path(__file__).with_name("make_models.py")
    subprocess.run([PYTHON, script, kind, path], check=True, capture_output=True, timeout=300)
    return path


@pytest.fixture(scope="session")
def model() -> Callable[[str, Path], Path]:
    return make_model


@pytest.fixture(scope="session")
def needs() -> Callable[[str], Path]:
    return need


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts a server, waits until it listens, and ends it with the tests. Returns its base URL."""
    logs = tmp_path_factory.mktemp("logs")
    home = tmp_path_factory.mktemp("hf")  # transformers serve fails where the cache is missing
    children: list[subprocess.Popen[bytes]] = []

    def begin(*command: str) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = logs / f"{len(children)}.txt"
        with log.open("wb") as out:
            child = subprocess.Popen(
                [arg.format(port=port) for arg in command],
                stdout=out,
                stderr=subprocess.STDOUT,
                env=os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"},
            )
        children.append(child)
        for _ in range(1200):
            assert child.poll() is None, f"the server ended: {log.read_text()[-2000:]}"
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return f"http://127.0.0.1:{port}/v1"
            time.sleep(0.1)
        raise AssertionError(f"the server does not listen: {log.read_text()[-2000:]}")

    yield begin
    for child in children:
        child.terminate()
    for child in children:
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
