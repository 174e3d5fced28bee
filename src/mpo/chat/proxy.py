"""The proxy that the environment names for an endpoint."""

from __future__ import annotations

from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from ..errors import ConfigError

__all__ = ["Proxy", "environment_proxy"]


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy. Its password is in no message: the URL does not have it."""

    url: str
    """URL without user and password."""
    variable: str
    """Environment variable that names it, in capitals."""
    credentials: str = field(default="", repr=False)
    """`user:password`; empty if the proxy wants none."""

    @property
    def port(self) -> int:
        """Port of a URL that has none."""
        return 443 if self.url.startswith("https:") else 80

    def headers(self) -> dict[str, str]:
        """Headers for the proxy."""
        if not self.credentials:
            return {}
        token = b64encode(self.credentials.encode("utf-8", "surrogateescape")).decode("ascii")
        return {"Proxy-Authorization": f"Basic {token}"}

    def advice(self, host: str | None) -> str:
        """Remedy where the proxy gave no connection to a host."""
        return f"Check {self.variable}, or add {host} to NO_PROXY if it needs no proxy"


def environment_proxy(url: str) -> Proxy | None:
    """The proxy for a URL, from `HTTP_PROXY`, `HTTPS_PROXY` or `ALL_PROXY`; None if there is none,
    or if `NO_PROXY` names the host.

    aiohttp's own look-up (`trust_env`) reads the environment and `~/.netrc` for each request, and
    an entry of `.netrc` would send a password without the user's intent.

    Raises:
        ConfigError: The proxy is no HTTP proxy, or no URL.
    """
    parts = urlsplit(url)
    host = parts.hostname
    if host is None or proxy_bypass(host) or proxy_bypass(f"{host}:{parts.port}"):
        return None
    proxies = getproxies()
    scheme = parts.scheme if proxies.get(parts.scheme) else "all"
    value = proxies.get(scheme, "").strip()
    if not value:
        return None
    variable = f"{scheme.upper()}_PROXY"
    try:
        proxy = urlsplit(value if "://" in value else f"http://{value}")
        port = "" if proxy.port is None else f":{proxy.port}"
    except ValueError:
        proxy, port = urlsplit(""), ""
    if proxy.scheme not in ("http", "https") or not proxy.hostname:
        kind = f"a {proxy.scheme} proxy" if proxy.hostname else "no URL"  # it may hold a password
        raise ConfigError(
            f"{variable} holds {kind}, and only HTTP proxies can be used. Put one like "
            f"http://proxy:3128 there, or add {host} to NO_PROXY"
        )
    name = f"[{proxy.hostname}]" if ":" in proxy.hostname else proxy.hostname
    user = unquote(proxy.username or "")
    credentials = f"{user}:{unquote(proxy.password or '')}" if user or proxy.password else ""
    return Proxy(f"{proxy.scheme}://{name}{port}", variable, credentials)
