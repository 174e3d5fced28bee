"""Metrics in the text format of Prometheus (`GET /metrics`)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from ..errors import MissingExtraError
from ..records import Judgement, Mode, Usage
from .health import PLACES
from .steps import StepDecisions
from .wire import Result

__all__ = ["CONTENT_TYPE", "Metrics", "ServiceStats"]

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180)


@dataclass(frozen=True)
class ServiceStats:
    """State of a service at one moment."""

    in_flight: int
    """Items that wait or are being judged."""
    unscored_ratio: float
    """Unscored share of the last 1,000 judgements, 0 to 1."""
    rubric_version: int
    """Version of the rubric in effect."""
    step: int
    """Latest trainer step that is known."""
    joined: int
    """Items that were already in flight when they arrived."""


class Metrics:
    """Counters and gauges of one service. No label holds text that a client chose.

    Raises:
        MissingExtraError: `prometheus-client` is not installed.
    """

    def __init__(self) -> None:
        if find_spec("prometheus_client") is None:
            raise MissingExtraError("prometheus_client", "serve")
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = registry = CollectorRegistry()
        self._items = Counter("mpo_items", "Answered items.", ["mode", "status"], registry=registry)
        self._judged = Counter(
            "mpo_judged", "New judgements by outcome.", ["outcome"], registry=registry
        )
        self._requests = Counter(
            "mpo_requests", "Requests by endpoint and status.", ["path", "code"], registry=registry
        )
        self._seconds = Histogram(
            "mpo_request_seconds", "Time from the whole body to the response.", ["path"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip
        self._meta_steps = Counter(
            "mpo_meta_steps", "Decided meta steps.", ["outcome"], registry=registry
        )
        self._stats = {
            name: Gauge(f"mpo_{name}", text, registry=registry)
            for name, text in (
                ("in_flight", "Items that wait or are being judged."),
                ("unscored_ratio", "Unscored share of the last 1000 judgements, 0 to 1."),
                ("rubric_version", "Version of the rubric in effect."),
                ("step", "Latest trainer step that is known."),
                ("joined", "Items that were already in flight when they arrived."),
            )
        }
        self._alarms = Gauge(
            "mpo_alarm", "1 while the store cannot be written, or a model cannot be reached.",
            ["place"], registry=registry,
        )  # fmt: skip
        self._spent = Gauge(
            "mpo_spent", "Usage and cost of the run's model calls.", ["role", "unit"],
            registry=registry,
        )  # fmt: skip

    def add_results(self, mode: Mode, results: Sequence[Result]) -> None:
        """Count the results of a request."""
        for result in results:
            self._items.labels(mode, result.status).inc()

    def add_judgement(self, judgement: Judgement) -> None:
        """Count a new judgement."""
        outcome = "unscored" if judgement.reward is None else "rule" if judgement.rule else "scored"
        self._judged.labels(outcome).inc()

    def add_decisions(self, step: StepDecisions) -> None:
        """Count the decisions of a meta step."""
        for decision in step.decisions:
            self._meta_steps.labels("accepted" if decision.accepted else "rejected").inc()

    def add_request(self, path: str, code: int, seconds: float) -> None:
        """Count a request that was answered."""
        self._requests.labels(path, str(code)).inc()
        self._seconds.labels(path).observe(seconds)

    def render(
        self, stats: ServiceStats, usage: Mapping[str, Usage], problems: Collection[str] = ()
    ) -> bytes:
        """All metrics as text.

        Args:
            stats: State of the service.
            usage: Usage of the run's model calls, by role.
            problems: Places with a fault: `store`, `rm`, `mrm`, `audit`.
        """
        from prometheus_client import generate_latest

        for name, gauge in self._stats.items():
            gauge.set(getattr(stats, name))
        for place in PLACES:
            self._alarms.labels(place).set(place in problems)
        for role, spent in usage.items():
            for unit, amount in spent.model_dump().items():
                self._spent.labels(role, unit).set(amount)
        return generate_latest(self._registry)
