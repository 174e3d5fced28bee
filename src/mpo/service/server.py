"""Running the service: uvicorn, with a limit on slow headers, and an orderly end."""

from __future__ import annotations

import asyncio
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from ..errors import ConfigError, MissingExtraError
from .app import Door, make_app
from .guard import LOOPBACK, App
from .service import RewardService

__all__ = ["TOKEN_ENV", "door_for", "serve"]

TOKEN_ENV = "MPO_TOKEN"
"""Environment variable with the token that clients must send."""
_MIN_TOKEN = 16
_KEEP_ALIVE_S = 75.0
"""Longer than clients keep idle connections (aiohttp: 15 s): whoever closes first causes an error
at the other end now and then, and the client is the one that can avoid it."""


def door_for(host: str, token: str | None) -> Door:
    """Who may come in at an address.

    Raises:
        ConfigError: Others than this machine could come in, and there is no token; or a weak one.
    """
    local = host in LOOPBACK
    if token is not None and len(token) < _MIN_TOKEN:
        raise ConfigError(
            f"{TOKEN_ENV} has {len(token)} characters: use {_MIN_TOKEN} at least, e.g. "
            "python -c 'import secrets; print(secrets.token_urlsafe(24))'"
        )
    if not local and token is None:
        raise ConfigError(
            f"{host} can be reached from outside this machine: set {TOKEN_ENV} to a secret that "
            "clients must send, or listen on 127.0.0.1"
        )
    return Door(token=token, hosts=LOOPBACK if local and token is None else None)


def serve(
    service: RewardService,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    door: Door | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in flight.

    Args:
        service: Closed in the end.
        host: Address to bind.
        port: 0 picks a free one.
        door: Who may come in; this machine if None.
        ready: Called once with the base URL when requests are taken.

    Raises:
        MissingExtraError: FastAPI or uvicorn is not installed.
        ConfigError: The address cannot be bound.
    """
    if find_spec("uvicorn") is None:
        raise MissingExtraError("uvicorn", "serve")
    door = door if door is not None else Door()
    app = make_app(service, door)
    _many_files()
    # A meta step computes in a thread. By default it may keep the interpreter for 5 ms each time
    # that the loop has waited for a socket, which it does thousands of times a second.
    sys.setswitchinterval(0.0005)
    asyncio.run(_serve(service, app, host, port, door, ready))


async def _serve(
    service: RewardService,
    app: App,
    host: str,
    port: int,
    door: Door,
    ready: Callable[[str], None] | None,
) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Not uvicorn's own: it would end the process by the signal once more, in the middle
            # of what comes after.
            loop = asyncio.get_running_loop()

            def stop(number: int) -> None:
                service.stop(door.drain_s)
                self.handle_exit(number, None)

            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, stop, number)
            try:
                yield
            finally:
                for number in (signal.SIGTERM, signal.SIGINT):
                    loop.remove_signal_handler(number)

    config = uvicorn.Config(
        app,
        http=_protocol(door.header_timeout_s, door.write_timeout_s),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(_KEEP_ALIVE_S),
        timeout_graceful_shutdown=int(door.drain_s) + 2,
    )
    try:
        sockets = [_bind(host, port)]
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port} ({error}); choose another with --port"
        ) from error
    if ready is not None:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{sockets[0].getsockname()[1]}")
    await Server(config).serve(sockets)


def _bind(host: str, port: int) -> Any:
    """A socket that listens: from here on nobody is turned away, also while uvicorn starts."""
    import socket

    return socket.create_server(
        (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
    )


class _Timer:
    """A time limit that may be called off.

    Args:
        seconds: Until it is over.
        late: Called then.
    """

    def __init__(self, seconds: float, late: Callable[[], None]) -> None:
        self._seconds, self._late = seconds, late
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Count from now, unless it counts already."""
        if self._handle is None:
            self._handle = asyncio.get_running_loop().call_later(self._seconds, self._late)

    def stop(self) -> None:
        """Call it off."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def _protocol(header_s: float, write_s: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol, with time limits on headers and on answers that nobody reads: it
    has none of its own."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Timed(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._header = _Timer(header_s, self._late)
            # Not closed but aborted: closing would wait for what is not read.
            self._unread = _Timer(write_s, transport.abort)
            self._header.start()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._busy():
                self._header.stop()
            else:
                self._header.start()  # the beginning of a next request

        def pause_writing(self) -> None:
            super().pause_writing()
            self._unread.start()

        def resume_writing(self) -> None:
            self._unread.stop()
            super().resume_writing()

        def connection_lost(self, exc: Exception | None) -> None:
            self._header.stop()
            self._unread.stop()
            super().connection_lost(exc)

        def _busy(self) -> bool:
            return self.cycle is not None and not self.cycle.response_complete

        def _late(self) -> None:
            if not self._busy():
                self.transport.close()

    return Timed


def _many_files() -> None:
    """Let the process have as many sockets as it may: some engines open one per completion."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
