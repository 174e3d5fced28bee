"""HTTP sessions, one for each event loop that asks."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import aiohttp

    _ByLoop: TypeAlias = MutableMapping[asyncio.AbstractEventLoop, aiohttp.ClientSession]

__all__ = ["Sessions"]


class Sessions:
    """The connections to one endpoint, kept apart by loop, since a socket belongs to one.

    Args:
        url: The endpoint.

    Attributes:
        proxy: What the environment says to go through.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.proxy = _environment_proxy(url)
        self._lock = threading.Lock()
        self._by_loop: _ByLoop = weakref.WeakKeyDictionary()
        # A script that ends without `aclose` loses nothing, so it is told nothing.
        weakref.finalize(self, _close_ended, self._by_loop)

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self._url}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["url"])  # type: ignore[misc]

    def get(self) -> aiohttp.ClientSession:
        """The running loop's session, opened where there is none yet."""
        loop = asyncio.get_running_loop()
        session = self._by_loop.get(loop)
        if session is not None and not session.closed:
            return session
        with self._lock:
            # A session holds its loop, so the weak keys alone would keep ended loops for ever.
            _close_ended(self._by_loop)
            session = self._by_loop[loop] = _open()
        return session

    async def aclose(self) -> None:
        """Close the running loop's session; those of other loops stay."""
        with self._lock:
            session = self._by_loop.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()


def _open() -> aiohttp.ClientSession:
    import aiohttp  # late: `import mpo` must stay quick

    # No limit here: the limiter has one, and a second queue would eat into the timeout.
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=60)
    # Calls are independent of each other, so no cookie of one is sent with another.
    return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())


def _close_ended(by_loop: _ByLoop) -> None:
    for loop in [loop for loop in by_loop if loop.is_closed()]:
        closing = by_loop.pop(loop).close()
        # In a closed loop there is nothing to wait for: one step does it.
        with contextlib.suppress(StopIteration, RuntimeError):
            closing.send(None)
        closing.close()


def _environment_proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL.

    aiohttp's own look-up (`trust_env`) reads the environment and `~/.netrc` for each request, and
    a `.netrc` entry would send a password that nobody asked for.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
