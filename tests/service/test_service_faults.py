"""A service whose disk is full, whose store is gone, or whose judge is down."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpo.errors import StoreFileError
from mpo.service.wire import MetaStepRequest, ScoreRequest
from mpo.store import Store
from service.conftest import Node
from service.node import SlowChat, make_service

WORDS = "Tea is a plant, and its leaves are dried. "


def items(first: int, n: int = 4, group: str = "") -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"Write about {i}.",
            "completion": f"{WORDS * 20}{i}",
            "group_id": group or f"{i}",
        }
        for i in range(first, first + n)
    ]


def send(node: Node, batch: list[dict[str, Any]]) -> tuple[int, Any]:
    return node.post("/v1/score", {"items": batch})


def alarm(node: Node, place: str = "store") -> float:
    match = re.search(rf'^mpo_alarm{{place="{place}"}} (.+)$', node.get("/metrics")[1], re.M)
    assert match is not None
    return float(match[1])


def calls(folder: Path) -> int:
    """Calls to the RM."""
    return len((folder / "calls").read_text().splitlines())


def limit_files(node: Node, size: int | None) -> None:
    """Limit the size of the files that a process writes; None lifts the limit."""
    _, hard = resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE)
    soft = hard if size is None else size
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (soft, hard))


def is_well(node: Node) -> bool:
    """True if it answers; not if it turns the client away."""
    try:
        return node.get("/healthz")[0] == 200
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_full_disk_refuses_new_work_and_loses_nothing_that_was_paid(
    start: Callable[..., Node], tmp_path: Path
) -> None:
    node = start(f"calls={tmp_path / 'calls'}", "delay=0.5")
    status, first = send(node, items(0, group="g"))
    assert (status, calls(tmp_path), alarm(node)) == (200, 4, 0)

    # The group has its rubric, so the first thing to be written is what was paid for.
    limit_files(node, 2**14)  # room for the list of calls
    status, answer = send(node, items(4, group="g"))
    assert (status, answer["error"]["type"]) == (503, "store")
    assert "disk" in answer["error"]["message"]
    assert calls(tmp_path) == 8
    for batch in (items(4, group="g"), items(8), items(0, group="g")):
        assert send(node, batch)[0] == 503
    assert node.post("/v1/meta_step", {"step": 10})[0] == 503
    assert (calls(tmp_path), alarm(node)) == (8, 1)
    health = node.get("/healthz")
    assert (health[0], health[1]["status"]) == (200, "degraded")
    assert "disk" in health[1]["problems"]["store"]

    limit_files(node, None)
    wait_for(lambda: alarm(node) == 0)
    status, again = send(node, items(4, group="g"))
    assert (status, calls(tmp_path)) == (200, 8)
    assert {result["status"] for result in again["results"]} == {"ok"}
    assert send(node, items(0, group="g"))[1]["results"] == first["results"]
    assert node.get("/healthz")[1]["status"] == "ok"
    code, said = node.stop()
    assert (code, "Traceback" in said) == (0, False)
    assert len(Store(tmp_path / "mpo.db").window()) == calls(tmp_path) == 8


def test_without_file_descriptors_clients_are_turned_away_and_the_log_stays_short(
    start: Callable[..., Node],
) -> None:
    node = start()
    pid = node.process.pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = len(os.listdir(f"/proc/{pid}/fd")) + 8
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    lines = [socket.create_connection((node.host, node.port), timeout=20) for _ in range(40)]
    try:
        answer = lines[-1].recv(1000)  # at once: it was accepted last
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: " in answer
    finally:
        for line in lines:
            line.close()
    wait_for(lambda: is_well(node))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (hard, hard))
    assert send(node, items(0))[0] == 200
    _, said = node.stop()
    assert said.count("no file descriptor is left") == 1
    assert "ulimit -n" in said
    assert len(said) < 1000


def delete(path: Path) -> None:
    path.unlink()


def replace(path: Path) -> None:
    with Store(path.with_name("other.db")) as store:
        other = store.path
    other.rename(path)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove_folder(path: Path) -> None:
    shutil.rmtree(path.parent)


@pytest.mark.parametrize("event", [delete, replace, empty, remove_folder])
def test_a_store_that_is_gone_stops_all_work(
    tmp_path: Path, event: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder, chat = tmp_path / "run", SlowChat()

    async def run() -> None:
        service = make_service(folder, chat=chat)
        request = ScoreRequest.model_validate({"items": items(0)})
        assert len((await service.score(request)).results) == 4
        chat.hang = chat.delay = 60  # whoever asks now is noticed
        event(folder / "mpo.db")
        for first in (0, 4):
            more = ScoreRequest.model_validate({"items": items(first)})
            with pytest.raises(StoreFileError, match="while it was in use"):
                await service.score(more)
            with pytest.raises(StoreFileError, match="while it was in use"):
                await service.meta_step(MetaStepRequest(step=10))
        assert b'mpo_alarm{place="store"} 1.0' in service.render_metrics()
        await service.aclose(1)

    asyncio.run(run())
    assert caplog.text.count("new work is refused") == 1
