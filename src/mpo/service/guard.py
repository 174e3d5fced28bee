"""Admission of requests: who may send them, how large, and how slowly.

A request reaches the application only when its whole body has arrived, so a slow client holds a
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
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigError

__all__ = ["TOKEN_ENV", "Guard", "ServerLimits", "limits_for"]

Scope = MutableMapping[str, Any]
Event = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TOKEN_ENV = "MPO_TOKEN"
"""Environment variable with the token that clients must send."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
OPEN = ("/healthz",)
"""Paths that need no token: a supervisor that restarts a hanging service has none."""
_MIN_TOKEN = 16


@dataclass(frozen=True)
class ServerLimits:
    """Limits on clients, and on the time that the end may take."""

    token: str | None = None
    """Token required for every path but `/healthz`; None for none."""
    hosts: Sequence[str] | None = LOOPBACK
    """Accepted names in the `Host` header; None for any. On loopback it keeps out pages that a
    browser loaded from a name which now points here (DNS rebinding)."""
    max_body: int = 16 * 2**20
    """Largest body of one request, in bytes."""
    max_bodies: int = 256 * 2**20
    """Largest sum of the bodies that are being read or worked on, in bytes."""
    header_timeout_s: float = 15.0
    """Longest time until a request's header is complete, in seconds."""
    body_timeout_s: float = 30.0
    """Longest time until a body is complete, in seconds."""
    write_timeout_s: float = 30.0
    """Longest time that a client may leave a response unread, in seconds."""
    drain_s: float = 30.0
    """Longest time for items in flight when the service is stopped, in seconds."""


def limits_for(host: str, token: str | None) -> ServerLimits:
    """Limits for a service that listens on an address.

    Raises:
        ConfigError: Other machines could connect and there is no token, or the token is short.
    """
    local = host in LOOPBACK
    if token is not None and len(token) < _MIN_TOKEN:
        raise ConfigError(
            f"{TOKEN_ENV} has {len(token)} characters: use {_MIN_TOKEN} at least, e.g. "
            "python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    if not local and token is None:
        raise ConfigError(
            f"{host} can be reached from other machines: set {TOKEN_ENV} to a secret that clients "
            "must send, or listen on 127.0.0.1"
        )
    return ServerLimits(token=token, hosts=LOOPBACK if local and token is None else None)


class Guard:
    """ASGI middleware that enforces `ServerLimits`.

    Args:
        app: The application; it gets the requests that pass.
        limits: Token, hosts, sizes and times.
        on_response: Called with path, status and seconds since the body was complete.
    """

    def __init__(
        self, app: App, limits: ServerLimits, on_response: Callable[[str, int, float], None]
    ) -> None:
        self._app = app
        self._limits = limits
        self._on_response = on_response
        self._held = 0
        """Bytes of the bodies that are being read or worked on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {k.lower(): v for k, v in scope["headers"]}
        chunks: list[bytes] = []
        try:
            refusal = self._refusal(scope["path"], headers) or await self._read(receive, chunks)
            if refusal is None:
                await self._pass_on(scope, b"".join(chunks), receive, send)
        finally:
            self._held -= sum(map(len, chunks))
        if refusal is not None:
            await _refuse(send, *refusal)

    def _refusal(self, path: str, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Status and reason of a request that is refused by its header."""
        host = headers.get(b"host", b"").decode("latin-1")
        hosts, token = self._limits.hosts, self._limits.token
        if hosts is not None and _name(host) not in hosts:
            return 421, f"this service does not answer for host {host[:80]!r}: use {hosts[0]}"
        if token and path not in OPEN and not _has_token(headers, token.encode()):
            return 401, "send the service's token: Authorization: Bearer TOKEN"
        length = headers.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._limits.max_body:
            return 413, self._too_large()
        return None

    def _too_large(self) -> str:
        return f"a body may have at most {self._limits.max_body} bytes: send smaller batches"

    async def _read(self, receive: Receive, chunks: list[bytes]) -> tuple[int, str] | None:
        """Read the body into `chunks`; status and reason if it is refused."""
        try:
            async with asyncio.timeout(self._limits.body_timeout_s):
                return await self._read_chunks(receive, chunks)
        except TimeoutError:
            return 408, f"the body did not arrive within {self._limits.body_timeout_s:g} s"

    async def _read_chunks(self, receive: Receive, chunks: list[bytes]) -> tuple[int, str] | None:
        size = 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                return 400, "the client disconnected"
            chunk = event.get("body", b"")
            size += len(chunk)
            if size > self._limits.max_body:
                return 413, self._too_large()
            if self._held + len(chunk) > self._limits.max_bodies:
                return 429, "too many requests are being read: try again in a moment"
            self._held += len(chunk)
            chunks.append(chunk)
            if not event.get("more_body", False):
                return None

    async def _pass_on(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        replayed = False
        status = 500

        async def replay() -> Event:
            nonlocal replayed
            if replayed:
                return await receive()  # the client's disconnect
            replayed = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watched(event: Event) -> None:
            nonlocal status
            if event["type"] == "http.response.start":
                status = event["status"]
            await send(event)

        try:
            await self._app(scope, replay, watched)
        finally:
            # The path's template: a metric's label must not hold text that a client chose.
            path = str(getattr(scope.get("route"), "path", "other"))
            self._on_response(path, status, time.perf_counter() - started)


def _has_token(headers: dict[bytes, bytes], token: bytes) -> bool:
    """True if the request has the token; as a password too, for clients that only take a URL
    (`http://mpo:TOKEN@host:8000`)."""
    kind, _, sent = headers.get(b"authorization", b"").partition(b" ")
    if kind.lower() == b"basic":
        try:
            sent = base64.b64decode(sent.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            sent = b""
    # Compared in constant time: the time must not reveal how much of it was right.
    return hmac.compare_digest(sent.strip(), token)


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
