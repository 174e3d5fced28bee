"""The server: uvicorn, with limits on slow clients and an orderly end."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from typing import Any

from ..errors import ConfigError, MissingExtraError
from .app import make_app
from .guard import App, ServerLimits
from .service import RewardService

__all__ = ["Listener", "serve"]

_log = logging.getLogger(__name__)

_BUSY_BODY = b'{"error":{"type":"busy","message":"too many open connections: try again soon"}}'
_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nConnection: close\r\n"
    b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
) % (len(_BUSY_BODY), _BUSY_BODY)
_WARN_EVERY_S = 60.0
_FOR_OTHERS = 256
"""File descriptors that no client gets, at most a quarter of all: connections to models, and the
store's files."""
_KEEP_ALIVE_S = 75.0
"""Longer than clients keep idle connections (aiohttp: 15 s): the end that closes first causes an
error at the other end now and then, and the client can avoid it."""


def serve(
    service: RewardService,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: ServerLimits | None = None,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT; then finish what is in flight.

    Args:
        service: Closed at the end.
        host: Address to bind.
        port: Port to bind; 0 picks a free one.
        limits: Limits on clients; only this machine may connect if None.
        ready: Called once with the base URL when the server accepts requests.

    Raises:
        MissingExtraError: FastAPI or uvicorn is not installed.
        ConfigError: The address cannot be bound.
    """
    if find_spec("uvicorn") is None:
        raise MissingExtraError("uvicorn", "serve")
    limits = limits if limits is not None else ServerLimits()
    app = make_app(service, limits)
    _many_files()
    # A meta step computes in another thread. By default that may keep the interpreter for 5 ms
    # each time that this loop has waited for a socket, thousands of times a second.
    sys.setswitchinterval(0.0005)
    asyncio.run(_serve(service, app, host, port, limits, ready))


async def _serve(
    service: RewardService,
    app: App,
    host: str,
    port: int,
    limits: ServerLimits,
    ready: Callable[[str], None] | None,
) -> None:
    import uvicorn

    class Server(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            # Not uvicorn's own: it would raise the signal again, in the middle of what follows.
            loop = asyncio.get_running_loop()

            def stop(number: int) -> None:
                service.stop(limits.drain_s)
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
        http=_protocol(limits.header_timeout_s, limits.write_timeout_s),
        ws="none",
        lifespan="on",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=int(_KEEP_ALIVE_S),
        timeout_graceful_shutdown=int(limits.drain_s) + 2,
    )
    try:
        sockets: list[socket.socket] = [_bind(host, port)]
    except OSError as error:
        taken = error.errno == errno.EADDRINUSE
        remedy = "another port with --port" if taken else "an address of this machine with --host"
        raise ConfigError(f"cannot listen on {host}:{port} ({error}): choose {remedy}") from error
    if ready is not None:
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{sockets[0].getsockname()[1]}")
    await Server(config).serve(sockets)


def _bind(host: str, port: int) -> Listener:
    """A listening socket: from here on no client is turned away, even while uvicorn starts."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name may have both kinds of address: clients of a name try IPv4 too.
    families = {address[0] for address in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    bound = socket.create_server(
        (host, port),
        family=family,
        backlog=1024,
        dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6(),  # all addresses, of both kinds
    )
    return Listener(fileno=bound.detach())


class Listener(socket.socket):
    """A listening socket that turns clients away before file descriptors run out.

    asyncio would try again at once, a thousand times with a traceback each, while the clients
    wait. Here the last descriptors are kept for the store and the models: descriptors are given
    out from the lowest number, so a client with a high one takes one of the last. Where even those
    are gone, a spare one is given up to accept a client, who is told, and is taken again.
    """

    def __init__(self, fileno: int) -> None:
        super().__init__(fileno=fileno)
        self._spare: int | None = os.open(os.devnull, os.O_RDONLY)
        self._turned_away = 0
        self._warned = -_WARN_EVERY_S

    def accept(self) -> tuple[socket.socket, Any]:
        """The next client; BlockingIOError if there is none, or it was turned away."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            client, address = super().accept()
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            self._use_spare()
        else:
            if client.fileno() < limit - min(_FOR_OTHERS, limit // 4):
                return client, address
            self._turn_away(client)
        if time.monotonic() > self._warned + _WARN_EVERY_S:
            self._warned = time.monotonic()
            _log.error(
                "no file descriptor is left for another client (the limit is %d): %d turned away "
                "so far. Raise the limit (ulimit -n 65536; systemd: LimitNOFILE=65536) and start "
                "the service again, or let clients keep fewer connections open",
                limit,
                self._turned_away,
            )
        raise BlockingIOError

    def close(self) -> None:
        """Close it, and its spare descriptor."""
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
        super().close()

    def _use_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None
            with suppress(OSError):  # it is gone, or another thread was faster
                self._turn_away(super().accept()[0])
        try:
            self._spare = os.open(os.devnull, os.O_RDONLY)
        except OSError:
            time.sleep(0.01)  # until something is closed; a busy loop would not help it

    def _turn_away(self, client: socket.socket) -> None:
        self._turned_away += 1
        with client, suppress(OSError):
            client.setblocking(False)
            client.send(_BUSY)


class _Timer:
    """A time limit that can be cancelled.

    Args:
        seconds: Length of the limit.
        on_timeout: Called when it is over.
    """

    def __init__(self, seconds: float, on_timeout: Callable[[], None]) -> None:
        self._seconds, self._on_timeout = seconds, on_timeout
        self._handle: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Count from now, unless it is counting already."""
        if self._handle is None:
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(self._seconds, self._on_timeout)

    def stop(self) -> None:
        """Cancel it."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None


def _protocol(header_s: float, write_s: float) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with time limits on headers and unread responses, which it lacks."""
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    class Timed(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._header = _Timer(header_s, self._close_if_idle)
            # Aborted, not closed: closing would wait for the client to read.
            self._unread = _Timer(write_s, transport.abort)
            self._header.start()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self._busy():
                self._header.stop()
            else:
                self._header.start()  # the beginning of the next request

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

        def _close_if_idle(self) -> None:
            if not self._busy():
                self.transport.close()

    return Timed


def _many_files() -> None:
    """Raise the limit on open files: some engines open a socket per completion."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
