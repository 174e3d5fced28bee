"""The simulated chat model over HTTP, OpenAI-compatible: `python -m mpo_sandbox`.

    POST /v1/chat/completions     model "sandbox-<seed>", response_format of type json_schema
    GET  /v1/models
    GET  /health

So that the real client, its retries and its limits run against it. It binds to loopback.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mpo.chat import ChatRequest
from mpo.errors import ChatReplyError, ConfigError

from .chat import SimulatedChat

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["make_app", "serve"]

MAX_BODY = 16 * 2**20
"""Largest request in bytes: a merge prompt with many proposals fits with room to spare."""


def make_app(latency: float = 0.0) -> web.Application:
    """The web application.

    Args:
        latency: Seconds that each answer takes.
    """
    from aiohttp import web

    app = web.Application(client_max_size=MAX_BODY)
    models: dict[str, SimulatedChat] = {}

    async def complete(request: web.Request) -> web.Response:
        try:
            body = await request.json()
            name = body["model"]
            if name not in models:
                models[name] = SimulatedChat(name, latency=latency)
            wanted = ChatRequest(tuple(body["messages"]), _schema(body), seed=body.get("seed"))
            completion = await models[name].complete(wanted)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            return _error(400, f"not a chat completion request: {error!r}")
        except ConfigError as error:
            return _error(404, str(error))
        except ChatReplyError as error:
            return _error(400, str(error))
        usage = completion.usage
        return web.json_response(
            {
                "object": "chat.completion",
                "model": name,
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": completion.finish_reason,
                        "message": {"role": "assistant", "content": completion.text},
                    }
                ],
                "usage": {
                    "prompt_tokens": usage.prompt_tokens,
                    "completion_tokens": usage.completion_tokens,
                    "total_tokens": usage.prompt_tokens + usage.completion_tokens,
                },
            }
        )

    async def list_models(request: web.Request) -> web.Response:
        names = sorted(models) or ["sandbox-0"]
        return web.json_response(
            {"object": "list", "data": [{"id": n, "object": "model"} for n in names]}
        )

    async def health(request: web.Request) -> web.Response:
        return web.json_response({"status": "ok"})

    app.router.add_post("/v1/chat/completions", complete)
    app.router.add_get("/v1/models", list_models)
    app.router.add_get("/health", health)
    return app


def _schema(body: dict[str, Any]) -> Any:
    wanted = body.get("response_format") or {}
    return wanted["json_schema"]["schema"] if wanted.get("type") == "json_schema" else None


def _error(status: int, message: str) -> web.Response:
    from aiohttp import web

    return web.json_response({"error": {"message": message, "type": "sandbox"}}, status=status)


def serve(
    host: str = "127.0.0.1",
    port: int = 8100,
    *,
    latency: float = 0.0,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve until interrupted.

    Args:
        host: Address to bind; loopback unless you mean otherwise.
        port: 0 picks a free one.
        latency: Seconds that each answer takes.
        ready: Called once with the base URL when requests are taken.

    Raises:
        ConfigError: The address cannot be bound.
    """
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(host, port, latency, ready))


async def _serve(host: str, port: int, latency: float, ready: Callable[[str], None] | None) -> None:
    from aiohttp import web

    runner = web.AppRunner(make_app(latency))
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(
                f"cannot listen on {host}:{port} ({error}); choose another with --port"
            ) from error
        bound = runner.addresses[0][1]
        if ready is not None:
            ready(f"http://{host}:{bound}/v1")
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()
