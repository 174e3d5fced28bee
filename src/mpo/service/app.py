"""The endpoints, as a FastAPI application.

    POST /v1/score      POST /v1/meta_step     POST /v1/snapshot    POST /v1/restore
    GET  /v1/state      GET  /v1/rubrics[/id]  GET  /v1/lineage
    GET  /healthz       GET  /metrics          GET  /docs
    POST /openrlhf/get_reward                  OpenRLHF's own dialect

Statuses: 401 no token, 402 the budget is spent, 404 unknown, 408 the body came too slowly, 409 does
not fit the run, 413 too large, 422 not understood, 424 unscored where the client takes nothing
else, 429 too much at once. 5xx only where the service itself is broken.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..errors import BudgetError, MissingExtraError, MPOError
from . import views
from .guard import LOOPBACK, App, Guard
from .metrics import CONTENT_TYPE
from .openrlhf import MODES, OPTIONS, Query, Rewards, read, write
from .service import RewardService
from .wire import (
    MetaStepRequest,
    MetaStepResponse,
    Refusal,
    RestoreRequest,
    ScoreRequest,
    ScoreResponse,
    SnapshotRequest,
    SnapshotResponse,
    StateResponse,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["Door", "make_app"]


@dataclass(frozen=True)
class Door:
    """Who may come in, and with how much."""

    token: str | None = None
    """Demanded of every request but `/healthz`; None for none."""
    hosts: Sequence[str] | None = LOOPBACK
    """Names that the `Host` header may have; None for any."""
    max_body: int = 16 * 2**20
    """Bytes of one request."""
    max_bodies: int = 256 * 2**20
    """Bytes of all requests that are being read or worked on."""
    header_timeout_s: float = 15.0
    """Longest time until a request's header is whole, in seconds."""
    body_timeout_s: float = 30.0
    """Longest time until a body is whole, in seconds."""
    write_timeout_s: float = 30.0
    """Longest time that a client may leave an answer unread, in seconds."""
    drain_s: float = 30.0
    """Longest time for what is in flight when the service is stopped, in seconds."""


def make_app(service: RewardService, door: Door | None = None) -> App:
    """The application; it closes the service when it is shut down.

    Raises:
        MissingExtraError: FastAPI is not installed.
    """
    if find_spec("fastapi") is None:
        raise MissingExtraError("fastapi", "serve")
    from fastapi import FastAPI

    door = door if door is not None else Door()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.aclose(door.drain_s)

    app = FastAPI(
        title="mpo: the reward as a service",
        description="Rewards from an LLM judge whose rubric evolves. Schema `mpo.reward/1`.",
        version="1",
        lifespan=lifespan,
        redoc_url=None,
    )
    _errors(app)
    _score(app, service)
    _openrlhf(app, service)
    _steps(app, service)
    _reading(app, service)
    return Guard(
        app,
        token=door.token,
        hosts=door.hosts,
        max_body=door.max_body,
        max_bodies=door.max_bodies,
        body_timeout_s=door.body_timeout_s,
        on_answer=service.metrics.requested if service.metrics is not None else None,
    )


def _json(content: Any, status: int = 200) -> Any:
    """A JSON response. In ASCII: a policy's lone surrogate cannot be sent as UTF-8."""
    from fastapi import Response

    plain = content.model_dump(by_alias=True) if isinstance(content, BaseModel) else content
    text = json.dumps(plain, allow_nan=False, separators=(",", ":"))
    headers = {"Retry-After": "1"} if status == 429 else None
    return Response(text, status, headers=headers, media_type="application/json")


def _error(status: int, kind: str, message: str) -> Any:
    return _json({"error": {"type": kind, "message": message}}, status)


def _errors(app: FastAPI) -> None:
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    @app.exception_handler(MPOError)
    async def ours(request: Request, error: MPOError) -> Any:
        if isinstance(error, Refusal):
            return _error(error.status, "refused", str(error))
        if isinstance(error, BudgetError):
            return _error(402, "budget", str(error))
        return _error(500, type(error).__name__, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Any:
        # Without the input: it may be long, and need not be text that can be sent back.
        faults = [
            f"{'.'.join(str(part)[:80] for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()[:5]
        ]
        return _error(422, "invalid", "; ".join(faults))

    @app.exception_handler(HTTPException)
    async def other(request: Request, error: HTTPException) -> Any:
        return _error(error.status_code, "http", str(error.detail))


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Further statuses of an endpoint, for its documentation."""
    reasons = {
        400: "Not JSON.",
        401: "No token, or a wrong one.",
        402: "The budget is spent: raise it, and start the service again.",
        404: "There is no such thing.",
        408: "The body came too slowly.",
        409: "It does not fit the run that is served here.",
        413: "Too large.",
        415: "Not JSON.",
        421: "Another host's request.",
        422: "Not understood.",
        424: "Unscored, and the client takes nothing else. Send it again.",
        429: "Too much at once. Send it again.",
    }
    always = (401, 408, 413, 421, 422, 429, 400)
    return {status: {"description": reasons[status]} for status in sorted({*always, *statuses})}


def _score(app: FastAPI, service: RewardService) -> None:
    @app.post("/v1/score", response_model=ScoreResponse, responses=_documented(402, 404, 409, 424))
    async def score(request: ScoreRequest) -> Any:
        """Score a batch. Idempotent: what was scored, or is being scored, is not paid for twice."""
        return _json(await service.score(request))


def _openrlhf(app: FastAPI, service: RewardService) -> None:
    @app.post("/openrlhf/get_reward", response_model=Rewards, responses=_documented(402, 409, 424))
    async def get_reward(query: Query) -> Any:
        """`--reward.remote_url` of OpenRLHF."""
        placed = read(query, service.reward.task)
        requests = [
            ScoreRequest(mode=mode, items=[i for i, own in placed if own == mode], options=OPTIONS)
            for mode in MODES
        ]
        # Together: one after the other they would have twice the time that the client has.
        answers = await asyncio.gather(*(service.score(request) for request in requests))
        found = {mode: iter(a.results) for mode, a in zip(MODES, answers, strict=True)}
        return _json(write([next(found[mode]) for _, mode in placed]))


def _steps(app: FastAPI, service: RewardService) -> None:
    @app.post("/v1/meta_step", response_model=MetaStepResponse, responses=_documented(402, 409))
    async def meta_step(request: MetaStepRequest) -> Any:
        """After the step-th update: rewrite the rubric if that is due. Idempotent per step."""
        return _json(await service.meta_step(request))

    @app.post("/v1/snapshot", response_model=SnapshotResponse, responses=_documented(409))
    async def snapshot(request: SnapshotRequest) -> Any:
        """Note where the run stands, with a checkpoint of the trainer."""
        return _json(await service.snapshot(request))

    @app.post("/v1/restore", response_model=StateResponse, responses=_documented(404, 409))
    async def restore(request: RestoreRequest) -> Any:
        """Go back to a snapshot, with the trainer. What came after is set aside, not deleted."""
        return _json(await service.restore(request))


def _reading(app: FastAPI, service: RewardService) -> None:
    from fastapi import Response

    store, versions = service.reward.store, service.versions

    # Not `async`: they read much, and shall not stop the loop that scores.
    @app.get("/v1/state", response_model=StateResponse, responses=_documented(409))
    def state(run_id: str = "") -> Any:
        """How the run stands."""
        return _json(service.state(run_id))

    @app.get("/v1/rubrics", responses=_documented())
    def rubrics() -> Any:
        """The rubrics that are or were in force, oldest first."""
        return _json({"rubrics": views.rubrics(store, versions)})

    @app.get("/v1/rubrics/{name}", responses=_documented(404))
    def rubric(name: str, cohort: str = "") -> Any:
        """A rubric by `head`, version (`v3`) or id, with the decisions about it."""
        return _json(views.rubric(store, versions, name, cohort))

    @app.get("/v1/lineage", responses=_documented())
    def lineage(cohort: str | None = None) -> Any:
        """All decisions, oldest first."""
        return _json({"decisions": views.lineage(store, cohort)})

    @app.get("/healthz")
    async def healthz() -> Any:
        """Whether the service answers."""
        return _json({"status": "ok", "run_id": service.run_id})

    @app.get("/metrics", responses=_documented())
    def metrics() -> Any:
        """For Prometheus."""
        text = service.metrics.render(service) if service.metrics is not None else b""
        return Response(text, media_type=CONTENT_TYPE)
