"""The endpoints, as a FastAPI application.

    POST /v1/score      POST /v1/meta_step     POST /v1/snapshot    POST /v1/restore
    GET  /v1/state      GET  /v1/rubrics[/id]  GET  /v1/lineage
    GET  /healthz       GET  /metrics          GET  /docs
    POST /openrlhf/get_reward                  OpenRLHF's own dialect

Statuses: 401 no token, 402 budget spent, 404 not found, 408 body too slow, 409 conflict with the
run, 413 too large, 422 invalid, 424 unscored and the client takes no null, 429 too many at once,
503 the store cannot be written. Other 5xx are for faults of the service itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ..errors import BudgetError, MissingExtraError, MPOError, StoreFileError
from ..records import to_json
from .guard import App, Guard, ServerLimits
from .metrics import CONTENT_TYPE
from .openrlhf import Query, Rewards, score_query
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
    read_json,
)

if TYPE_CHECKING:
    from fastapi import FastAPI

__all__ = ["make_app"]

_LONGEST_MESSAGE = 2000
_RETRY_AFTER_S = {429: "1", 503: "5"}


def make_app(service: RewardService, limits: ServerLimits) -> App:
    """The application; its shutdown closes the service.

    Raises:
        MissingExtraError: FastAPI is not installed.
    """
    if find_spec("fastapi") is None:
        raise MissingExtraError("fastapi", "serve")
    from fastapi import FastAPI

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.aclose(limits.drain_s)

    app = FastAPI(
        title="mpo: the reward as a service",
        description="Rewards from an LLM judge whose rubric evolves. Schema `mpo.reward/1`.",
        version="1",
        lifespan=lifespan,
        redoc_url=None,
    )
    app.router.route_class = _tolerant_route()
    _add_errors(app)
    _add_scoring(app, service)
    _add_steps(app, service)
    _add_reading(app, service)
    return Guard(app, limits, service.metrics.add_request)


def _json(content: Any, status: int = 200) -> Any:
    """A JSON response."""
    from fastapi import Response

    plain = content.model_dump(by_alias=True) if isinstance(content, BaseModel) else content
    text = to_json(plain)
    headers = {"Retry-After": _RETRY_AFTER_S[status]} if status in _RETRY_AFTER_S else None
    return Response(text, status, headers=headers, media_type="application/json")


def _tolerant_route() -> Any:
    """FastAPI's route, with a reader of JSON that one item cannot break."""
    from fastapi import Request
    from fastapi.routing import APIRoute

    class JsonRequest(Request):
        async def json(self) -> Any:
            return read_json(await self.body())

    class Route(APIRoute):
        def get_route_handler(self) -> Any:
            handle = super().get_route_handler()

            async def handle_json(request: Request) -> Any:
                return await handle(JsonRequest(request.scope, request.receive))

            return handle_json

    return Route


def _error(status: int, kind: str, message: str) -> Any:
    return _json({"error": {"type": kind, "message": message[:_LONGEST_MESSAGE]}}, status)


def _add_errors(app: FastAPI) -> None:
    from fastapi import Request
    from fastapi.exceptions import RequestValidationError
    from starlette.exceptions import HTTPException

    @app.exception_handler(MPOError)
    async def package_error(request: Request, error: MPOError) -> Any:
        if isinstance(error, Refusal):
            return _error(error.status, "refused", str(error))
        if isinstance(error, BudgetError):
            return _error(402, "budget", str(error))
        if isinstance(error, StoreFileError):
            return _error(503, "store", str(error))
        return _error(500, type(error).__name__, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid_request(request: Request, error: RequestValidationError) -> Any:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and kind != "application/json" and not kind.endswith("+json"):
            return _error(415, "invalid", "send JSON, as Content-Type: application/json")
        # Without the input: it may be long, and may not be valid text.
        faults = [
            f"{'.'.join(str(part)[:80] for part in fault['loc'])}: {fault['msg']}"
            for fault in error.errors()[:5]
        ]
        return _error(422, "invalid", "; ".join(faults))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Any:
        if error.status_code == 400:  # FastAPI's only one, in words that do not say so
            return _error(400, "http", "the body cannot be parsed: send JSON in UTF-8")
        return _error(error.status_code, "http", str(error.detail))


def _documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Error statuses of an endpoint, for its documentation."""
    reasons = {
        400: "The body is no JSON.",
        401: "The token is missing or wrong.",
        402: "The budget is spent: raise it, and start the service again.",
        404: "Not found.",
        408: "The body arrived too slowly.",
        409: "The request conflicts with the run that is served.",
        413: "The body is too large.",
        415: "The header does not say that the body is JSON.",
        421: "The request is for another host.",
        422: "The request is invalid.",
        424: "An item is unscored, and the client takes no null: send it again.",
        429: "Too many at once: send it again.",
        503: "The store cannot be written, so nothing is asked: repair it, and send it again.",
    }
    always = (400, 401, 408, 413, 415, 421, 422, 429, 503)
    return {status: {"description": reasons[status]} for status in sorted({*always, *statuses})}


def _add_scoring(app: FastAPI, service: RewardService) -> None:
    @app.post("/v1/score", response_model=ScoreResponse, responses=_documented(402, 404, 409, 424))
    async def score(request: ScoreRequest) -> Any:
        """Score a batch. A repeated request pays for nothing twice."""
        return _json(await service.score(request))

    @app.post("/openrlhf/get_reward", response_model=Rewards, responses=_documented(402, 409, 424))
    async def get_reward(query: Query) -> Any:
        """Score for OpenRLHF (`--reward.remote_url`)."""
        return _json(await score_query(query, service))


def _add_steps(app: FastAPI, service: RewardService) -> None:
    @app.post("/v1/meta_step", response_model=MetaStepResponse, responses=_documented(402, 409))
    async def meta_step(request: MetaStepRequest) -> Any:
        """Rewrite the rubric after an update if that is due. Idempotent per step."""
        return _json(await service.meta_step(request))

    @app.post("/v1/snapshot", response_model=SnapshotResponse, responses=_documented(409))
    async def snapshot(request: SnapshotRequest) -> Any:
        """Store the run's position, with a checkpoint of the trainer."""
        return _json(await service.snapshot(request))

    @app.post("/v1/restore", response_model=StateResponse, responses=_documented(404, 409))
    async def restore(request: RestoreRequest) -> Any:
        """Go back to a snapshot. Later records are set aside, not deleted."""
        return _json(await service.restore(request))


def _add_reading(app: FastAPI, service: RewardService) -> None:
    from fastapi import Response

    # Not `async`: they read much, and must not block the loop that scores.
    @app.get("/v1/state", response_model=StateResponse, responses=_documented(409))
    def state(run_id: str = "") -> Any:
        """State of the run."""
        return _json(service.state(run_id))

    @app.get("/v1/rubrics", responses=_documented())
    def rubrics() -> Any:
        """The rubrics that are or were in effect, oldest first."""
        return _json({"rubrics": service.rubrics.rubrics()})

    @app.get("/v1/rubrics/{name}", responses=_documented(404))
    def rubric(name: str, cohort: str = "") -> Any:
        """A rubric by `head`, version (`v3`) or id, with the decisions about it."""
        return _json(service.rubrics.rubric(name, cohort))

    @app.get("/v1/lineage", responses=_documented())
    def lineage(cohort: str | None = None) -> Any:
        """All decisions, oldest first."""
        return _json({"decisions": service.rubrics.lineage(cohort)})

    @app.get("/healthz")
    def healthz() -> Any:
        """Health check; it needs no token. A fault of the store or of a model is no reason to
        restart the service, so the status is 200 all the same."""
        problems = service.health.problems()
        status = "degraded" if problems else "ok"
        return _json({"status": status, "run_id": service.run_id, "problems": problems})

    @app.get("/metrics", responses=_documented())
    def metrics() -> Any:
        """Metrics for Prometheus."""
        return Response(service.render_metrics(), media_type=CONTENT_TYPE)
