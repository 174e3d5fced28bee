"""`mpo serve` as a person runs it: a process in a folder, stopped, killed and started again."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from chat.conftest import Endpoint, reply_body
from fakes import loop_answer
from mpo.store import Store
from service.conftest import PATHS

Start = Callable[..., subprocess.Popen[str]]
WORDS = "Bread is a food that is made from flour and water, and it is baked in an oven."
ITEMS = [{"prompt": "bread", "completion": f"{WORDS} {n}"} for n in range(4)]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(
        *arguments: str, config: str = "sandbox/essay", **environment: str
    ) -> subprocess.Popen[str]:
        kept = {k: v for k, v in os.environ.items() if k != "MPO_TOKEN"}
        process = subprocess.Popen(
            [sys.executable, "-m", "mpo", "serve", config, "--port", "0", *arguments],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=kept | {"PYTHONPATH": PATHS, "NO_COLOR": "1"} | environment,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = process.stdout.readline()
    start = r"mpo serve( \(sandbox judge\))?: run 'a' at http://(127\.0\.0\.1|\[::1\]):"
    assert re.match(start, said), said
    return said.split("//")[1].split(",")[0]


def get(at: str, path: str) -> str:
    connection = http.client.HTTPConnection(at, timeout=30)
    connection.request("GET", path)
    return connection.getresponse().read().decode()


def score(at: str, items: Sequence[dict[str, str]] = ITEMS) -> dict[str, Any]:
    connection = http.client.HTTPConnection(at, timeout=30)
    body = json.dumps({"items": items, "run_id": "a"})
    connection.request("POST", "/v1/score", body, {"Content-Type": "application/json"})
    return dict(json.loads(connection.getresponse().read()))


def test_the_same_command_continues(run: Start, tmp_path: Path) -> None:
    arguments = ("--name", "a", "service.every_items=40")
    first = run(*arguments)
    told = score(address(first))
    assert [result["status"] for result in told["results"]] == ["ok"] * 4

    refused = run("--name", "a")
    _, said = refused.communicate(timeout=60)
    assert refused.returncode == 1
    assert "in use by another process" in said

    first.send_signal(signal.SIGKILL)
    first.communicate()
    again = run("--name", "a", "service.every_items=80")
    assert score(address(again))["results"] == told["results"]
    again.send_signal(signal.SIGTERM)
    out, said = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert "the same command continues runs/a" in out
    assert len(Store(tmp_path / "runs" / "a" / "mpo.db").window()) == 4


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "0.0.0.0"], "MPO_TOKEN"),
        (["--host", "::"], "MPO_TOKEN"),
        (["arm=blind"], "cannot be served"),
        (["service.every_items=0"], "service.every_items"),
    ],
)
def test_what_cannot_be_served_is_refused_in_one_line(
    run: Start, arguments: list[str], words: str
) -> None:
    process = run("--name", "b", *arguments)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    lines = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, said
    assert words in lines[0]


async def judge(request: web.Request, body: dict[str, Any]) -> web.Response:
    """A judge that enforces json_schema, and knows the probe's word."""
    schema = body["response_format"]["json_schema"]["schema"]
    if "word" in schema["properties"]:
        answer = json.dumps({"word": schema["properties"]["word"]["enum"][0]})
    else:
        answer = loop_answer(body["messages"], {"title": "judgement", **schema}, None)
    return web.json_response(reply_body(answer))


def test_a_service_starts_without_its_judge_and_takes_it_up_when_it_comes(
    run: Start, tmp_path: Path
) -> None:
    endpoint = Endpoint()
    endpoint.default = judge
    endpoint.start()
    endpoint.stop()
    config = tmp_path / "config.yaml"
    config.write_text(
        "task: essay\nmodel: tiny\n"
        f"chat: {{base_url: '{endpoint.url}', model: m, retries: 0, structured_output: auto}}\n"
    )
    process = run("--name", "a", "--host", "::1", config=str(config))
    at = address(process)
    (result, *_) = score(at)["results"]
    assert (result["status"], result["reward"]) == ("failed", None)
    assert result["error"].startswith("unreachable:")
    assert json.loads(get(at, "/healthz"))["problems"].keys() == {"rm"}
    assert 'mpo_alarm{place="rm"} 1.0' in get(at, "/metrics")

    endpoint.start()
    answer = score(at)
    assert {result["status"] for result in answer["results"]} == {"ok"}
    assert json.loads(get(at, "/healthz"))["status"] == "ok"
    assert 'mpo_alarm{place="rm"} 0.0' in get(at, "/metrics")
    usage = json.loads(get(at, "/metrics").split('role="rm",unit="calls"} ')[1].split()[0])
    assert usage == len(endpoint.requests) == 5  # the probe is counted too

    endpoint.stop()
    assert score(at)["results"] == answer["results"]
    (new,) = score(at, [{"prompt": "bread", "completion": f"{WORDS} New."}])["results"]
    assert new["error"].startswith("unreachable:")
    assert json.loads(get(at, "/healthz"))["problems"].keys() == {"rm"}
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "does not answer yet" in said
    assert "Traceback" not in said
