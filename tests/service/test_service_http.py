"""The service as its clients see it: a process, a socket, and not only friendly requests."""

from __future__ import annotations

import base64
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable

import pytest

from mpo.errors import ConfigError
from mpo.service.guard import limits_for
from mpo.service.wire import METRICS
from service.conftest import Node

ITEM = {"prompt": "Write about tea.", "completion": "Tea is a plant.", "step": 9}
QUERY = {
    "query": ["<s><|user|>\nTea?\n<|assistant|>\nTea is a plant.<|im_end|>\n"],
    "prompts": ["<|user|>\nTea?\n<|assistant|>\n"],
    "labels": ['{"id": "row-7", "prompt": "Tea?", "columns": {"source": "a"}}'],
}


def test_a_run_from_outside(node: Node) -> None:
    answer = node.score(ITEM, schema="mpo.reward/1", run_id="r1")
    assert answer["schema"] == "mpo.reward/1"
    (result,) = answer["results"]
    assert result["status"] == "ok"
    assert 0 <= result["reward"] <= 1
    assert node.get("/v1/rubrics/head")[1]["version"] == 0
    status, meta = node.post("/v1/meta_step", {"step": 10})
    assert (status, meta["changed"], meta["rubric_version"]) == (200, True, 1)
    assert node.post("/v1/meta_step", {"step": 10})[1] == meta
    status, state = node.get("/v1/state?run_id=r1")
    assert (state["rubric_version"], state["rubric_id"]) == (1, meta["rubric_id"])
    rubrics = node.get("/v1/rubrics")[1]["rubrics"]
    assert [(r["version"], r["in_force"]) for r in rubrics] == [(0, False), (1, True)]
    named = node.get(f"/v1/rubrics/{meta['rubric_id'][:8]}")[1]
    assert named == node.get("/v1/rubrics/v1")[1]
    assert named["markdown"].startswith("# ")
    decisions = node.get("/v1/lineage")[1]["decisions"]
    assert [d["kind"] for d in decisions] == ["seed", "evolve"]
    assert decisions[1]["evidence"]
    snapshot = node.post("/v1/snapshot", {"tag": "c", "step": 10})[1]["snapshot"]
    status, restored = node.post("/v1/restore", {"snapshot": snapshot})
    assert (status, restored["rubric_version"]) == (200, 1)
    text = node.get("/metrics")[1]
    assert 'mpo_items_total{mode="train",status="ok"} 1.0' in text
    assert 'mpo_requests_total{code="200",path="/v1/score"} 1.0' in text
    assert "mpo_rubric_version 1.0" in text
    assert node.get("/healthz")[0] == 200
    assert "swagger" in node.get("/docs")[1]


def test_openrlhf_is_answered_in_its_own_dialect(node: Node) -> None:
    status, answer = node.post("/openrlhf/get_reward", QUERY)
    assert status == 200, answer
    assert set(answer) == {"rewards", "scores", "extra_logs"}
    assert len(answer["rewards"]) == len(answer["scores"]) == 1
    assert tuple(answer["extra_logs"]) == METRICS
    assert all(type(values[0]) is float for values in answer["extra_logs"].values())
    # The same through the general endpoint is the same item: group, prompt, text and columns.
    same = {"prompt": "Tea?", "completion": "Tea is a plant.", "group_id": "row-7"}
    before = node.get("/v1/state")[1]["scored"]
    again = node.score(same | {"columns": {"source": "a"}})
    assert again["results"][0]["reward"] == answer["rewards"][0]
    assert node.get("/v1/state")[1]["scored"] == before


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "Field required"),
        (b"{", "JSON"),
        (b"[" * 100_000, "body"),
        (b'{"items": 1' + b"0" * 5000 + b"}", "body"),
        (b'{"items": [{"prompt": "a", "completion": "b", "setp": 1}]}', "setp"),
        (b'{"items": [], "schema": "mpo.reward/2"}', "mpo.reward/1"),
        (b'{"items": [], "mode": "test"}', "mode"),
        (b'{"items": [17, null]}', "dictionary"),
        (b'{"items": [], "options": {"deadline_s": NaN}}', "deadline_s"),
        (json.dumps({"items": [ITEM] * 1025}).encode(), "1024"),
    ],
)
def test_what_cannot_be_understood_is_told_what_is_wrong(
    node: Node, body: bytes, words: str
) -> None:
    status, answer = node.post("/v1/score", None, raw=body)
    assert status in (400, 422), answer
    assert words in json.dumps(answer)


def test_an_odd_value_spoils_its_own_item_and_no_other(node: Node) -> None:
    odd = [
        (b'{"step": -1}', "step"),
        (b'{"step": 1e30}', "step"),
        (b'{"step": NaN}', "step"),
        (b'{"step": "soon"}', "step"),
        (b'{"completion": null}', "completion"),
        (b'{"completion": 7}', "completion"),
        (b'{"completion": [{"role": "user", "content": 1}]}', "completion"),
        (b'{"prompt": {"text": "a"}}', "prompt"),
        (b'{"columns": {"score": NaN}}', "columns.score"),
        (b'{"columns": {"a": [1, {"b": -Infinity}]}}', "columns.a[1].b"),
        (b'{"columns": {"a": 1e999}}', "columns.a"),
        (b'{"columns": {"a": 1' + b"0" * 5000 + b"}}", "columns.a"),
        (b'{"columns": {"x": ' + b"[" * 50 + b"]" * 50 + b"}}", "deeper"),
        (b'{"columns": ["a"]}', "columns"),
        (b'{"id": {"a": 1}}', "id"),
        (b'{"group_id": "' + b"x" * 300 + b'"}', "group_id"),
        (b'{"setp": 1}', "setp"),
        (b"null", "dictionary"),
    ]
    good = [
        b'{"id": "\\ud800", "group_id": "\\udfff\\ud83d", "completion": "\\ud800"}',
        b'{"columns": {"\\ud800": ["\\udfff", null, 1' + b"0" * 400 + b"]}}",
        b'{"id": null, "group_id": null, "step": null, "task": null, "columns": null}',
        b'{"id": 17, "group_id": 4.0, "step": "9"}',
        b'{"completion": [{"role": null, "content": null, "tool_calls": []}]}',
        b'{"completion": [{"content": ["a", {"text": null}, {"type": "image"}, {"text": "b"}]}]}',
        b'{"completion": ""}',
    ]
    plain = b'{"prompt": "Write about odd values.", "completion": "%d values", '
    rows = [b.replace(b"{", plain % i, 1) if b != b"null" else b for i, (b, _) in enumerate(odd)]
    rows += [b.replace(b"{", plain % (99 + i), 1) for i, b in enumerate(good)]
    status, answer = node.post("/v1/score", None, raw=b'{"items": [' + b", ".join(rows) + b"]}")
    assert status == 200, answer
    results = answer["results"]
    for (text, words), result in zip(odd, results[: len(odd)], strict=True):
        assert (result["status"], result["reward"]) == ("failed", None), text
        assert result["error"].startswith("invalid: "), text
        assert words in result["error"], text
    assert [result["status"] for result in results[len(odd) :]] == ["ok"] * len(good)
    assert results[len(odd)]["id"] == "\ufffd"

    # Alone in its request it is no different, and an engine that takes no null gets the mean.
    for on_failure, wanted in (("null", 200), ("group_mean", 200), ("error", 422)):
        body = b'{"items": [%b], "options": {"on_failure": "%b"}}'
        status, answer = node.post("/v1/score", None, raw=body % (rows[4], on_failure.encode()))
        assert status == wanted, answer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompts": ["another prompt"]}, "does not begin with its prompt"),
        ({"labels": ["a", "b"]}, "as many"),
        ({"query": [], "prompts": [], "labels": ["a"]}, "as many"),
    ],
)
def test_a_query_that_cannot_be_read_is_refused(
    node: Node, change: dict[str, list[str]], words: str
) -> None:
    status, answer = node.post("/openrlhf/get_reward", QUERY | change)
    assert status == 422
    assert words in answer["error"]["message"]


def test_unknown_paths_methods_and_rubrics_are_404_and_405(node: Node) -> None:
    assert node.get("/nothing")[0] == 404
    assert node.get("/v1/score")[0] == 405
    for name in ("ffffffffffffffff", "v9", "v" + "9" * 4000, "%00", "%ED%A0%80"):
        assert node.get(f"/v1/rubrics/{name}")[0] == 404, name
    assert "other" in node.get("/metrics")[1]
    assert "nothing" not in node.get("/metrics")[1]


def test_too_large_a_body_is_refused_before_it_is_read(node: Node) -> None:
    huge = str(2**40)
    status, answer = node.post("/v1/score", None, raw=b"{}", Content_Length=huge)
    assert status == 413
    assert "smaller batches" in answer["error"]["message"]
    # In chunks, without a length: the server may close before all of it was sent.
    with socket.create_connection((node.host, node.port), timeout=20) as line:
        line.sendall(
            b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * 2**20 + b"\r\n"
        try:
            for _ in range(40):
                line.sendall(chunk)
        except OSError:
            return
        assert b" 413 " in line.recv(1000)


def test_a_web_page_cannot_reach_a_service_on_loopback(node: Node) -> None:
    assert node.get("/v1/state", Host="evil.example")[0] == 421
    assert node.get("/v1/state", Host="localhost:1")[0] == 200
    assert node.get("/v1/state", Host="[::1]:80")[0] == 200
    # A page may post plain text without asking; it is not taken for JSON.
    status, _ = node.send("POST", "/v1/score", {"items": []}, Content_Type="text/plain")
    assert status == 415


def test_slow_and_broken_clients_stop_nobody(node: Node) -> None:
    lines = [socket.create_connection((node.host, node.port)) for _ in range(200)]
    try:
        for number, line in enumerate(lines):
            if number % 3 == 0:
                line.sendall(b"POST /v1/score HT")  # a header that never ends
            elif number % 3 == 1:
                line.sendall(
                    b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999\r\n\r\n{"
                )
            else:
                line.sendall(b"\x16\x03\x01garbage\r\n\r\n")
        started = time.monotonic()
        assert node.score(ITEM | {"completion": "Meanwhile."})["results"][0]["status"] == "ok"
        assert time.monotonic() - started < 5
    finally:
        for line in lines:
            line.close()
    assert node.get("/healthz")[0] == 200


def head(line: socket.socket) -> bytes:
    """The first line of an answer; empty where the other end hung up."""
    got = b""
    while chunk := line.recv(1000):
        got += chunk
        if b"}" in got:
            break
    return got.partition(b"\r\n")[0]


def test_who_does_not_come_to_the_point_is_hung_up_on(start: Callable[..., Node]) -> None:
    node = start("header=0.5", "body=0.5", "delay=1")
    address = (node.host, node.port)
    with socket.create_connection(address, timeout=10) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: loc")
        assert head(line) == b""
    with socket.create_connection(address, timeout=10) as line:
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in head(line)
        time.sleep(1)  # idle between requests is no fault
        line.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in head(line)
        line.sendall(b"POST /v1/sco")
        assert head(line) == b""
    with socket.create_connection(address, timeout=10) as line:
        line.sendall(b"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert b" 408 " in head(line)

    # A client that hangs up loses nothing: the next one joins the call, or finds its answer.
    body = json.dumps({"items": [ITEM]}).encode()
    with socket.create_connection(address) as line:
        sent = f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        line.sendall(sent.encode() + b"Content-Type: application/json\r\n\r\n" + body)
        time.sleep(0.3)
    assert node.score(ITEM)["results"][0]["status"] == "ok"
    assert 'mpo_spent{role="rm",unit="calls"} 1.0' in node.get("/metrics")[1]

    # SIGTERM finishes what is in flight.
    answers = []
    last = ITEM | {"completion": "The last one."}
    asking = threading.Thread(target=lambda: answers.append(node.score(last)))
    asking.start()
    time.sleep(0.5)
    code, said = node.stop()
    asking.join()
    assert answers[0]["results"][0]["status"] == "ok"
    assert code == 0
    assert "Traceback" not in said


def answered(node: Node, path: str) -> float:
    """Requests for a path that were answered."""
    start = f'mpo_requests_total{{code="200",path="{path}"}} '
    lines = node.get("/metrics")[1].splitlines()
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), 0)


def test_an_answer_that_nobody_reads_is_given_up(start: Callable[..., Node]) -> None:
    node = start("write=0.5")
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.socket() as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.settimeout(20)
        line.connect((node.host, node.port))
        line.sendall(asked * 600)  # more than the system holds for a reader
        before, now = 0.0, 0.0
        while not now or before != now:  # until it waits for this reader, and is tired of it
            time.sleep(1.2)
            before, now = now, answered(node, "other")  # not one of its own
        assert 0 < now < 600
        with contextlib.suppress(ConnectionError):
            while line.recv(2**16):
                pass  # and then the end, not a time-out
    assert node.get("/healthz")[0] == 200


def test_the_end_does_not_wait_for_ever(start: Callable[..., Node]) -> None:
    node = start("drain=1")
    slow = ITEM | {"completion": "SLOW"}
    answers = []
    asking = threading.Thread(target=lambda: answers.append(node.score(slow)))
    asking.start()
    time.sleep(0.5)
    started = time.monotonic()
    code, said = node.stop()
    asking.join()
    assert time.monotonic() - started < 6
    assert (code, said) == (0, "")
    (result,) = answers[0]["results"]
    assert (result["status"], result["reward"]) == ("failed", None)
    assert result["error"].startswith("stopped")


def test_the_token_is_demanded(start: Callable[..., Node]) -> None:
    token = "a-token-of-some-length"
    node = start(MPO_TOKEN=token)
    basic = base64.b64encode(f"mpo:{token}".encode()).decode()
    for headers, status in [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": f"Bearer {token}x"}, 401),
        ({"Authorization": "Basic !!!"}, 401),
        ({"Authorization": "Bearer \xe4"}, 401),
        ({"Authorization": f"Bearer {token}"}, 200),
        ({"Authorization": f"bearer  {token}"}, 200),
        ({"Authorization": f"Basic {basic}"}, 200),
    ]:
        assert node.get("/v1/state", **headers)[0] == status, headers
    for path in ("/docs", "/openapi.json", "/metrics"):
        assert node.get(path)[0] == 401
    assert node.get("/healthz")[0] == 200
    assert node.get("/v1/state", Authorization=f"Bearer {token}", Host="gpu-1")[0] == 200
    assert token not in node.stop()[1]


def test_another_address_than_loopback_wants_a_good_token() -> None:
    with pytest.raises(ConfigError, match="MPO_TOKEN"):
        limits_for("0.0.0.0", None)
    with pytest.raises(ConfigError, match="characters"):
        limits_for("127.0.0.1", "short")
    assert limits_for("127.0.0.1", None).hosts is not None
    assert limits_for("0.0.0.0", "x" * 16).hosts is None
