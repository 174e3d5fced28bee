"""HTTP sessions, one for each event loop that uses a client."""

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
    """Connections to one endpoint, one session per event loop, since a socket belongs to a loop.

    Args:
        url: The endpoint's URL.

    Attributes:
        proxy: URL of the proxy that the environment names for the endpoint; None if none.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.proxy = _environment_proxy(url)
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


def _environment_proxy(url: str) -> str | None:
    """The proxy that the environment names for a URL.

    aiohttp's own look-up (`trust_env`) reads the environment and `~/.netrc` for each request, and
    an entry of `.netrc` would send a password without the user's intent.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies, proxy_bypass

    parts = urlsplit(url)
    if parts.hostname is None or proxy_bypass(parts.hostname):
        return None
    return getproxies().get(parts.scheme)
