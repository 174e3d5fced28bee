"""The way to an endpoint: proxies of the environment, certificates, and Azure's key."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import mpo
from mpo.chat import ChatRequest, OpenAIChat
from mpo.chat.proxy import environment_proxy
from mpo.errors import ChatTransportError, ConfigError

REQUEST = ChatRequest(({"role": "user", "content": "?"},))
NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
PASSWORD = "s3cr3t-pass"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def ask(url: str, **options: Any) -> str:
    async def once() -> str:
        chat = OpenAIChat(url, "m", **({"retries": 0, "timeout_s": 5.0} | options))
        try:
            return (await chat.complete(REQUEST)).text
        finally:
            await chat.aclose()

    return asyncio.run(once())


class Tunnel:
    """A proxy that answers each CONNECT with a status, and passes 200 on to one port."""

    def __init__(self, status: int = 200, port: int = 0) -> None:
        self.status, self.target = status, port
        self.heads: list[str] = []
        self.server = socket.create_server(("127.0.0.1", 0))
        self.port = self.server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self.server.accept()
            except OSError:
                return
            self.heads.append(client.recv(65536).decode("latin-1"))
            client.sendall(f"HTTP/1.1 {self.status} Said\r\nContent-Length: 0\r\n\r\n".encode())
            if self.status != 200:
                client.close()
                continue
            server = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def close(self) -> None:
        self.server.close()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):  # one side has closed
        while chunk := source.recv(65536):
            sink.sendall(chunk)
    sink.close()


# ---------------------------------------------------------------------- proxies


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({}, "http://h/v1", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://h/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1"}, "https://h/v1", None),
        ({"https_proxy": "http://p:1"}, "https://h/v1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1"}, "https://h/v1", "http://p:1"),
        ({"ALL_PROXY": "http://p:1", "HTTPS_PROXY": "http://q:2"}, "https://h/v1", "http://q:2"),
        ({"HTTP_PROXY": "p:3128"}, "http://h/v1", "http://p:3128"),
        ({"HTTP_PROXY": "http://[::1]:1"}, "http://h/v1", "http://[::1]:1"),
        ({"HTTP_PROXY": f"http://al:{PASSWORD}@p:1"}, "http://h/v1", "http://p:1"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "h"}, "http://h/v1", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": ".lan,h:80"}, "http://a.lan:80/v1", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "h:8000"}, "http://h:8000/v1", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "http://h/v1", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "other"}, "http://h/v1", "http://p:1"),
    ],
)
def test_the_proxy_follows_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = environment_proxy(url)
    assert (found and found.url) == proxy
    assert PASSWORD not in repr(found)


@pytest.mark.parametrize("value", ["socks5://al:s3cr3t-pass@p:1080", "http://p:port", "http://"])
def test_a_proxy_that_cannot_be_used_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(ConfigError, match=r"ALL_PROXY holds .*NO_PROXY") as caught:
        OpenAIChat("http://h/v1", "m")
    assert PASSWORD not in str(caught.value)


def test_requests_and_the_check_use_the_proxy(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = endpoint.url.removesuffix("/v1").removeprefix("http://")
    monkeypatch.setenv("HTTP_PROXY", f"http://al:{PASSWORD}@{address}")
    chat = OpenAIChat("http://judge.invalid/v1", "m")
    chat.check_reachable()
    assert ask("http://judge.invalid/v1") == "hello"
    assert endpoint.headers[0]["Proxy-Authorization"].startswith("Basic ")


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (407, "Put user and password into HTTPS_PROXY"),
        (503, "Check HTTPS_PROXY"),
        (403, "Check HTTPS_PROXY"),
    ],
)
def test_a_proxy_that_refuses_is_named_without_its_password(
    monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    with closing(Tunnel(status)) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://al:{PASSWORD}@127.0.0.1:{proxy.port}")
        with pytest.raises(ChatTransportError) as asked:
            ask("https://judge.invalid/v1")
        with pytest.raises(ChatTransportError) as checked:
            OpenAIChat("https://judge.invalid/v1", "m").check_reachable()
    for caught in (asked, checked):
        message = str(caught.value)
        assert f"the proxy http://127.0.0.1:{proxy.port} gave no connection" in message
        assert str(status) in message
        assert words in message
        assert PASSWORD not in message


def test_a_proxy_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with pytest.raises(ChatTransportError, match=r"proxy http://127.0.0.1:9 gave no.*HTTP_PROXY"):
        OpenAIChat("http://judge.invalid/v1", "m").check_reachable()
    with pytest.raises(ChatTransportError, match=r"proxy http://127.0.0.1:9 gave no.*HTTP_PROXY"):
        ask("http://judge.invalid/v1")


# ---------------------------------------------------------------------- certificates


class Hello(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        choice = {"message": {"content": "hello"}, "finish_reason": "stop"}
        raw = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=judge", "-addext", "subjectAltName=DNS:judge.invalid"]
    files = ["-keyout", str(path), "-out", str(path.with_name("cert.pem"))]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)
    return path


@pytest.fixture
def secure(certificate: Path) -> Iterator[int]:
    """Port of an https endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hello)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.with_name("cert.pem"), certificate)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *_: None  # type: ignore[method-assign,assignment]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_certificate_that_nobody_vouches_for_is_named(secure: int) -> None:
    url = f"https://127.0.0.1:{secure}/v1"
    with pytest.raises(ChatTransportError) as asked:
        ask(url, retries=3)
    with pytest.raises(ChatTransportError) as checked:
        OpenAIChat(url, "m").check_reachable()
    for caught in (asked, checked):
        message = str(caught.value)
        assert message.startswith("unreachable: the certificate of 127.0.0.1 is not trusted")
        assert "SSL_CERT_FILE" in message
    assert "1 attempt" in str(asked.value), "another attempt would meet the same certificate"


def test_https_to_a_server_that_speaks_http(endpoint: Any) -> None:
    with pytest.raises(ChatTransportError, match="no secure connection.*speaks https"):
        ask(endpoint.url.replace("http:", "https:"))


def test_ssl_cert_file_and_a_tunnel_lead_to_the_endpoint(secure: int, certificate: Path) -> None:
    script = (
        "import asyncio; from mpo.chat import ChatRequest, OpenAIChat\n"
        "chat = OpenAIChat('https://judge.invalid/v1', 'm', retries=0); chat.check_reachable()\n"
        "message = {'role': 'user', 'content': '?'}\n"
        "print(asyncio.run(chat.complete(ChatRequest((message,)))).text)"
    )
    with closing(Tunnel(port=secure)) as proxy:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "PYTHONPATH": str(Path(mpo.__file__).parents[1]),
                "SSL_CERT_FILE": str(certificate.with_name("cert.pem")),
                "HTTPS_PROXY": f"http://al:{PASSWORD}@127.0.0.1:{proxy.port}",
            },
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout.strip() == "hello", done.stderr
    check, call = proxy.heads
    for head in (check, call):
        assert head.startswith("CONNECT judge.invalid:443")
        assert "proxy-authorization: basic" in head.lower()


# ---------------------------------------------------------------------- keys


@pytest.mark.parametrize(
    ("query", "key", "header"),
    [
        ("", "k-12345678", "Authorization"),
        ("?api-version=2024-10-21", "k-12345678", "api-key"),
        ("?api-version=2024-10-21", "eyJhbGciOi.eyJzdWIiOi.c2ln", "Authorization"),
    ],
)
def test_azure_gets_its_key_in_its_own_header(
    endpoint: Any, monkeypatch: pytest.MonkeyPatch, query: str, key: str, header: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    assert ask(endpoint.url + query) == "hello"
    (headers,) = endpoint.headers
    assert headers[header].removeprefix("Bearer ") == key
    assert ("api-key" in headers) != ("Authorization" in headers)
