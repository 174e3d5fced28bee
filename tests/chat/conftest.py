"""A faulty endpoint: a real aiohttp server on a real loopback socket, in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from aiohttp import web

Handler = Callable[[web.Request, dict[str, Any]], Coroutine[Any, Any, web.StreamResponse]]


def reply_body(text: str = "hello", **changes: Any) -> dict[str, Any]:
    """A well-formed body, with changes to its one choice."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}}
    choice["finish_reason"] = "stop"
    return {
        "id": "x",
        "object": "chat.completion",
        "model": "served-name",
        "choices": [choice | changes],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 3,
            "total_tokens": 13,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }


class Endpoint:
    """Answers from `faults` while there are any, then with `default`.

    A fault is a handler, a body to send as JSON, or a status with optional headers.
    """

    def __init__(self) -> None:
        self.faults: list[Any] = []
        self.default: Any = reply_body()
        self.delay_s = 0.0
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.port = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        ready = threading.Event()

        def serve() -> None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
            self._loop.run_until_complete(self._open())
            ready.set()
            self._loop.run_forever()
            stalled = asyncio.all_tasks(self._loop)
            for task in stalled:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*stalled, return_exceptions=True))
            self._loop.close()

        self._thread = threading.Thread(target=serve, daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        assert self._loop is not None
        assert self._runner is not None
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    async def _open(self) -> None:
        app = web.Application(client_max_size=2**26)
        app.router.add_post("/v1/chat/completions", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        # A restarted server takes the port that it had.
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.delay_s:
                await asyncio.sleep(self.delay_s)
            answer = self.faults.pop(0) if self.faults else self.default
            return await respond(answer, request, body)
        finally:
            self.in_flight -= 1


async def respond(answer: Any, request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    if callable(answer):
        answer = await answer(request, body)
    if isinstance(answer, web.StreamResponse):
        return answer
    if isinstance(answer, int):
        answer = (answer, {})
    if isinstance(answer, tuple):
        status, headers = answer
        return web.json_response(
            {"error": {"message": f"status {status} from the test"}}, status=status, headers=headers
        )
    raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return web.Response(body=raw, content_type="application/json")


async def reset(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Break the connection before anything was sent."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def stall(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Send half a body, and then nothing."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    await asyncio.sleep(5)
    return response


async def cut(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Send half a body, and close."""
    response = web.StreamResponse(headers={"Content-Length": "1000"})
    await response.prepare(request)
    await response.write(b'{"choices": [')
    assert request.transport is not None
    request.transport.close()
    return response


async def no_http(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
    """Answer in something that is not HTTP."""
    assert request.transport is not None
    request.transport.write(b"\x00\x01 what is this\r\n\r\n")  # type: ignore[attr-defined]
    request.transport.close()
    return web.Response()


class Faults:
    """The handlers and bodies by name, since a conftest cannot be imported from everywhere."""

    reset = staticmethod(reset)
    stall = staticmethod(stall)
    cut = staticmethod(cut)
    no_http = staticmethod(no_http)
    body = staticmethod(reply_body)


@pytest.fixture
def faults() -> type[Faults]:
    return Faults


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    server.start()
    yield server
    server.stop()
