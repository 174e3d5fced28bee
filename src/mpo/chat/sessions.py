"""HTTP sessions, one for each event loop that uses a client."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
import weakref
from collections.abc import MutableMapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from .proxy import environment_proxy
from .replies import Failure, is_retryable

if TYPE_CHECKING:
    import aiohttp

    _ByLoop: TypeAlias = MutableMapping[asyncio.AbstractEventLoop, aiohttp.ClientSession]

__all__ = ["Sessions"]


_CERTIFICATE = (
    "Put the file of the authority that signed it into the environment variable SSL_CERT_FILE (a "
    "proxy that reads the traffic has an authority of its own), or correct base_url"
)


class Sessions:
    """Connections to one endpoint, one session per event loop, since a socket belongs to a loop.

    Args:
        url: The endpoint's URL.

    Attributes:
        proxy: The proxy that the environment names for the endpoint; None if none.

    Raises:
        ConfigError: That proxy cannot be used.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.proxy = environment_proxy(url)
        self._lock = threading.Lock()
        self._by_loop: _ByLoop = weakref.WeakKeyDictionary()
        # A script that ends without `aclose` loses nothing, so no warning is shown.
        weakref.finalize(self, _close_ended, self._by_loop)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    def get(self) -> aiohttp.ClientSession:
        """The running loop's session, which is opened if there is none."""
        loop = asyncio.get_running_loop()
        session = self._by_loop.get(loop)
        if session is not None and not session.closed:
            return session
        with self._lock:
            # A session references its loop, so the weak keys alone would keep ended loops forever.
            _close_ended(self._by_loop)
            session = self._by_loop[loop] = _open()
        return session

    def check(self, timeout_s: float) -> None:
        """Open a connection as requests do, through the proxy and with its certificate checked, and
        close it. Sends no request.

        Raises:
            OSError: There is no connection; an `ssl.SSLError` if it could not be secured.
        """
        url, proxy = urlsplit(self._url), self.proxy
        kind = HTTPSConnection if url.scheme == "https" else HTTPConnection
        if proxy is None:
            connection = kind(url.hostname or "", url.port, timeout=timeout_s)
        else:
            via = urlsplit(proxy.url)
            tunnel = url.scheme == "https" and via.scheme == "http"
            kind = HTTPSConnection if tunnel else HTTPConnection
            connection = kind(via.hostname or "", via.port or proxy.port, timeout=timeout_s)
            if tunnel:
                connection.set_tunnel(url.hostname or "", url.port, headers=proxy.headers())
        try:
            connection.connect()
        except HTTPException as error:  # the proxy speaks no HTTP
            raise OSError(f"{type(error).__name__}: {error}") from error
        finally:
            connection.close()

    def failure(self, error: Exception, text: str) -> Failure:
        """Failure of a connection that could not be made.

        Args:
            error: Exception of aiohttp or of a socket.
            text: Its message, fit to be shown.
        """
        host, proxy = urlsplit(self._url).hostname, self.proxy
        status: int = getattr(error, "status", 0)  # with which the proxy has answered
        certificate = getattr(error, "certificate_error", error)
        if isinstance(certificate, ssl.SSLCertVerificationError):
            fault = f"the certificate of {host} is not trusted: {certificate.verify_message}"
            return Failure(f"unreachable: {fault}", False, advice=_CERTIFICATE)
        if isinstance(error, ssl.SSLError):
            advice = "Check that the server speaks https, and that base_url is right"
            return Failure(f"unreachable: no secure connection: {text}", True, advice=advice)
        if proxy is None:
            return Failure(f"unreachable: {text}", True)
        cause = f"status {status}" if status else text
        login = f"Put user and password into {proxy.variable}, before the host and an @"
        return Failure(
            f"unreachable: the proxy {proxy.url} gave no connection: {cause}",
            not 400 <= status < 500 or is_retryable(status),
            advice=login if "407" in cause else proxy.advice(host),
        )

    async def aclose(self) -> None:
        """Close the running loop's session; those of other loops stay."""
        with self._lock:
            session = self._by_loop.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()


def _open() -> aiohttp.ClientSession:
    import aiohttp  # late: `import mpo` must stay quick

    # No limit here: the limiter has one, and waiting in a second queue would count as timeout.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    # Calls are independent of each other, so no cookie of one is sent with another.
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


def _close_ended(by_loop: _ByLoop) -> None:
    for loop in [loop for loop in by_loop if loop.is_closed()]:
        closing = by_loop.pop(loop).close()
        # In a closed loop there is nothing to wait for: one step is enough.
        with contextlib.suppress(StopIteration, RuntimeError):
            closing.send(None)
        closing.close()
