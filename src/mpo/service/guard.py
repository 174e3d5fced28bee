"""The door: who may come in, with how much, and how long it may take to say what it wants.

A request reaches the application only when its body is here as a whole, so a slow client holds a
socket and nothing else.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import json
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

__all__ = ["LOOPBACK", "Guard"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/healthz",)
"""Paths that need no token: whoever restarts a service that hangs has none."""


class Guard:
    """ASGI middleware.

    Args:
        app: Gets what may pass.
        token: Demanded of every request; None for none.
        hosts: Names that the `Host` header may have; None for any. On loopback it keeps out pages
            that a browser loaded from a name which now points here (DNS rebinding).
        max_body: Of one request, in bytes.
        max_bodies: Of all requests that are being read or worked on, in bytes.
        body_timeout_s: Longest time until a body is whole, in seconds.
        on_answer: Called with path, status and seconds since the body was whole.
    """

    def __init__(
        self,
        app: App,
        *,
        token: str | None,
        hosts: Sequence[str] | None,
        max_body: int,
        max_bodies: int,
        body_timeout_s: float,
        on_answer: Callable[[str, int, float], None] | None = None,
    ) -> None:
        self._app = app
        self._token = token.encode() if token else None
        self._hosts = hosts
        self._max_body = max_body
        self._max_bodies = max_bodies
        self._timeout_s = body_timeout_s
        self._on_answer = on_answer
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k.lower(): v for k, v in scope["headers"]}
        refusal = self._refused(scope["path"], headers)
        if refusal is not None:
            await _refuse(send, *refusal)
            return
        chunks: list[bytes] = []
        try:
            async with asyncio.timeout(self._timeout_s):
                refusal = await self._read(receive, chunks)
            if refusal is None:
                await self._pass_on(scope, b"".join(chunks), receive, send)
                return
        except TimeoutError:
            refusal = 408, f"the body was not here within {self._timeout_s:g} s"
        finally:
            self._held -= sum(map(len, chunks))
        await _refuse(send, *refusal)

    def _refused(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Status and reason of a request that may not come in."""
        host = headers.get(b"host", b"").decode("latin-1")
        if self._hosts is not None and _name(host) not in self._hosts:
            return 421, f"no service for host {host[:80]!r} here; use {self._hosts[0]}"
        if self._token is not None and path not in OPEN and not self._knows(headers):
            return 401, "send the service's token: Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._max_body:
            return 413, f"the body may have {self._max_body} bytes at most: send smaller batches"
        return None

    def _knows(self, headers: dict[bytes, bytes]) -> bool:
        """Whether the request has the token; as a password too, for clients that only take a URL
        (`http://mpo:TOKEN@host:8000`)."""
        assert self._token is not None
        kind, _, given = headers.get(b"authorization", b"").partition(b" ")
        if kind.lower() == b"basic":
            try:
                given = base64.b64decode(given.strip(), validate=True).partition(b":")[2]
            except (binascii.Error, ValueError):
                given = b""
        # Compared in constant time: the time must not tell how much of it was right.
        return hmac.compare_digest(given.strip(), self._token)

    async def _read(self, receive: Receive, chunks: list[bytes]) -> tuple[int, str] | None:
        size = 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return 400, "the client has gone"
            chunk = event.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                return 413, f"the body may have {self._max_body} bytes at most"
            if self._held + len(chunk) > self._max_bodies:
                return 429, "too many requests are being read: try again in a moment"
            self._held += len(chunk)
            chunks.append(chunk)
            if not event.get("more_body", False):
                return None

    async def _pass_on(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        given = False
        status = 500

        async def replay() -> Event:
            nonlocal given
            if given:
                return await receive()  # the client's going away
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watched(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            await self._app(scope, replay, watched)
        finally:
            if self._on_answer is not None:
                path = _route(scope)
                self._on_answer(path, status, time.perf_counter() - started)


def _route(scope: Scope) -> str:
    """The path's template: a metric's label must not hold what a client chose."""
    return str(getattr(scope.get("route"), "path", "other"))


def _name(host: str) -> str:
    """Host name of a `Host` header."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


async def _refuse(send: Send, status: int, reason: str) -> None:
    body = json.dumps({"error": {"type": "refused", "message": reason}}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # The rest of the body is not read.
        (b"connection", b"close"),
    ]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    if status == 429:
        headers.append((b"retry-after", b"1"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
