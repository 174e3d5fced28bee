"""The API fuzzed from its own schema: whatever comes, no answer is a 5xx."""

from __future__ import annotations

from typing import Any

import pytest

from service.conftest import Node

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = 25
"""Requests per endpoint."""


def operations(node: Node) -> list[Any]:
    schema = schemathesis.openapi.from_dict(node.get("/openapi.json")[1])
    return [result.ok() for result in schema.get_all_operations()]


def fuzz(node: Node, operation: Any) -> set[int]:
    """Statuses of the answers to what hypothesis makes of an endpoint's schema."""
    statuses: set[int] = set()

    @hypothesis.given(case=operation.as_strategy())
    @hypothesis.settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    def ask(case: Any) -> None:
        response = case.call(base_url=node.url, timeout=60)
        statuses.add(response.status_code)
        assert response.status_code < 500, (case.as_curl_command(), response.text)

    ask()
    return statuses


def test_no_request_breaks_the_service(node: Node) -> None:
    every = operations(node)
    assert len(every) >= 11
    statuses = {f"{o.method.upper()} {o.path}": fuzz(node, o) for o in every}
    # It did not only find the door closed.
    for path in ("POST /v1/score", "POST /v1/meta_step", "POST /v1/snapshot", "GET /v1/state"):
        assert 200 in statuses[path], statuses
    assert node.get("/healthz")[0] == 200
