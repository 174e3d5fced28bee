"""examples/trl_grpo.py as a user runs it: a process of its own, and a server over HTTP."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mpo.rubric import read_rubric
from mpo.store import Store
from training.tiny import answer

EXAMPLE = Path(__file__).parents[2] / "examples" / "trl_grpo.py"


class Server(BaseHTTPRequestHandler):
    """The tiny test model behind `/chat/completions`."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        schema = body["response_format"]["json_schema"]
        text = answer(body["messages"], {"title": schema["name"], **schema["schema"]}, None)
        message = {"role": "assistant", "content": text}
        reply = {
            "model": "tiny",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 5},
        }
        data = json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def base_url() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_example_is_short() -> None:
    code = EXAMPLE.read_text().split('"""')[2]
    assert len([line for line in code.splitlines() if line.strip()]) <= 25


def run(folder: Path, model: str, base_url: str, *launcher: str) -> subprocess.CompletedProcess:
    settings = {"BASE_URL": base_url, "POLICY": model, "STEPS": "14"}
    return subprocess.run(
        [sys.executable, *launcher, str(EXAMPLE)],
        cwd=folder,
        env=os.environ
        | settings
        | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.mark.slow
def test_the_example_runs_on_two_ranks(model: str, base_url: str, tmp_path: Path) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    done = run(tmp_path, model, base_url, *torchrun)
    assert done.returncode == 0, done.stderr[-3000:]
    store = Store(tmp_path / "mpo.db")
    # A meta step after update 10, decided four updates later; its gate may refuse the proposal.
    assert [(d.step, d.kind) for d in store.lineage()] == [(0, "seed"), (14, "evolve")]
    assert store.count(scored=None) == 14 * 2 * 8
    assert [len(step.rubric_ids) for step in store.steps()] == [1] * 14
    # One rank speaks.
    lines = re.findall("new rubric after update.*|alarm after update.*", done.stderr)
    assert len(lines) == len(set(lines))


def test_the_example_runs_as_it_stands(model: str, base_url: str, tmp_path: Path) -> None:
    done = run(tmp_path, model, base_url)
    assert done.returncode == 0, done.stderr[-3000:]
    store = Store(tmp_path / "mpo.db")
    head = store.head()
    assert head is not None
    assert head.to_markdown().strip() in done.stdout
    # A meta step after update 10, decided four updates later. The tiny model grades by a hash of
    # the text, which sees no damage: the gate refuses its proposal.
    assert [(d.step, d.kind, d.accepted) for d in store.lineage()] == [
        (0, "seed", True),
        (14, "evolve", False),
    ]
    assert read_rubric(done.stdout[done.stdout.index("# Essay") :]).rubric.id == head.id
    assert store.count(scored=None) == 14 * 8
    assert "'mpo/unscored': 0.0" in done.stdout
    assert "'mpo/proposals_refused': 1.0" in done.stdout
    assert "Unclosed" not in done.stderr
    assert "Traceback" not in done.stderr
