"""What to watch, in the form that Prometheus reads (`GET /metrics`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from ..errors import MissingExtraError
from ..records import Judgement, Mode, Rollout
from .steps import Held
from .wire import Result

if TYPE_CHECKING:
    from .service import RewardService

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180)


class Metrics:
    """Counters and gauges of one service. No label holds what a client chose.

    Raises:
        MissingExtraError: `prometheus-client` is not installed.
    """

    def __init__(self) -> None:
        if find_spec("prometheus_client") is None:
            raise MissingExtraError("prometheus_client", "serve")
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = registry = CollectorRegistry()
        self._items = Counter(
            "mpo_items", "Items that were answered.", ["mode", "status"], registry=registry
        )
        self._judged = Counter(
            "mpo_judged", "Judgements that came in, by what became of them.", ["outcome"],
            registry=registry,
        )  # fmt: skip
        self._requests = Counter(
            "mpo_requests", "Requests by endpoint and status.", ["path", "code"], registry=registry
        )
        self._seconds = Histogram(
            "mpo_request_seconds", "From the whole body to the answer.", ["path"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._meta = Counter(
            "mpo_meta_steps", "Meta steps that were held.", ["outcome"], registry=registry
        )
        self._gauges = {
            name: Gauge(name, text, registry=registry)
            for name, text in (
                ("mpo_in_flight", "Items that wait or are being judged."),
                ("mpo_unscored_ratio", "Unscored share of the last 1000 judgements, 0 to 1."),
                ("mpo_rubric_version", "Of the rubric in force."),
                ("mpo_step", "The latest trainer step that is known."),
                ("mpo_joined", "Items that were in flight already when they came."),
            )
        }
        self._spent = Gauge(
            "mpo_spent", "What the run's model calls have cost.", ["role", "unit"],
            registry=registry,
        )  # fmt: skip

    def answered(self, mode: Mode, results: Sequence[Result]) -> None:
        """A batch was answered."""
        for result in results:
            self._items.labels(mode, result.status).inc()

    def judged(self, rollout: Rollout, judgement: Judgement) -> None:
        """A judgement came in."""
        outcome = "unscored" if judgement.reward is None else "rule" if judgement.rule else "scored"
        self._judged.labels(outcome).inc()

    def held(self, held: Held) -> None:
        """A meta step was held."""
        for decision in held.decisions:
            self._meta.labels("accepted" if decision.accepted else "rejected").inc()

    def requested(self, path: str, code: int, seconds: float) -> None:
        """A request was answered."""
        self._requests.labels(path, str(code)).inc()
        self._seconds.labels(path).observe(seconds)

    def render(self, service: RewardService) -> bytes:
        """Everything, as text."""
        from prometheus_client import generate_latest

        version, _ = service.versions.head()
        values: dict[str, Callable[[], float]] = {
            "mpo_in_flight": lambda: service.in_flight,
            "mpo_unscored_ratio": lambda: service.unscored_share,
            "mpo_rubric_version": lambda: version,
            "mpo_step": lambda: service.step,
            "mpo_joined": lambda: service.joined,
        }
        for name, value in values.items():
            self._gauges[name].set(value())
        for role, usage in service.reward.store.usage().items():
            for unit, amount in usage.model_dump().items():
                self._spent.labels(role, unit).set(amount)
        return generate_latest(self.registry)
