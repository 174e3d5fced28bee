"""Client of the reward service, for adapters and for your own programs.

    client = RewardClient("http://127.0.0.1:8000")
    results = await client.score([{"prompt": "Write about tea.", "completion": "Tea is …"}])
    client.meta_step_now(120)        # in a callback that is not async
    await client.aclose()

It is patient: when a service restarts or is overloaded, the client sends the same body again, which
costs no second judgement. Errors that a retry cannot fix are raised at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ..chat.event_loop import run_in_loop
from ..chat.sessions import Sessions
from ..errors import BudgetError, ChatReplyError, ChatTransportError, ConfigError, MPOError
from ..records import to_json

__all__ = ["RewardClient"]

RETRYABLE = frozenset({408, 424, 425, 429, 500, 502, 503, 504})
"""Statuses that a retry may fix."""
_LONGEST_WAIT_S = 10.0


class RewardClient:
    """Sends requests to a reward service. It can be pickled, and used from several event loops.

    Args:
        url: URL of the service, for example `http://127.0.0.1:8000`.
        run_id: Run that is meant; a service of another run refuses. Empty means any.
        token_env: Environment variable with the service's token; unset or empty sends none.
        deadline_s: Longest time until a response to `score`, in seconds.
        patience_s: Time in which a failed request is retried, in seconds. It should cover a
            restart of the service.

    Raises:
        ConfigError: `url` is no HTTP URL.
    """

    def __init__(
        self,
        url: str,
        *,
        run_id: str = "",
        token_env: str = "MPO_TOKEN",
        deadline_s: float = 120.0,
        patience_s: float = 600.0,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"{url!r} is no URL of a reward service: use http://host:port")
        self.url = url.rstrip("/")
        self.run_id = run_id
        self.token_env = token_env
        self.deadline_s = deadline_s
        self.patience_s = patience_s
        self._sessions = Sessions(self.url)

    async def score(
        self,
        items: Sequence[Mapping[str, Any]],
        *,
        mode: str = "train",
        on_failure: str = "null",
    ) -> list[dict[str, Any]]:
        """Results of items, in order; `mpo.service.wire` defines both.

        Raises:
            MPOError: The service refuses them, or cannot be reached for `patience_s`.
        """
        body = {
            "schema": "mpo.reward/1",
            "run_id": self.run_id,
            "mode": mode,
            "items": [dict(item) for item in items],
            "options": {"deadline_s": self.deadline_s, "on_failure": on_failure},
        }
        response = await self.post("/v1/score", body)
        results = response.get("results")
        if not isinstance(results, list) or len(results) != len(items):
            raise ChatReplyError(f"malformed: {self.url} returned no result for each item")
        return results

    async def post(
        self, path: str, body: Mapping[str, Any], timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Post JSON, and retry while that may help.

        Args:
            path: Path of the endpoint.
            body: The request.
            timeout_s: Longest time for one attempt, in seconds; `deadline_s` and 30 s if None.

        Raises:
            MPOError: The service refuses, or cannot be reached for `patience_s`.
        """
        import aiohttp

        data = to_json(body).encode()
        timeout = aiohttp.ClientTimeout(total=timeout_s or self.deadline_s + 30, sock_connect=10)
        deadline = time.monotonic() + self.patience_s
        longest_wait = 0.5
        while True:
            try:
                async with self._sessions.get().post(
                    self.url + path, data=data, headers=self._headers(), timeout=timeout
                ) as response:
                    text = await response.text()
                if response.status not in RETRYABLE:
                    return self._read(response.status, text)
                reason = f"{response.status}: {_message(text)}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                reason = f"{type(error).__name__}: {error}"
            if time.monotonic() > deadline:
                raise ChatTransportError(
                    f"unreachable: the reward service at {self.url} gave no response for "
                    f"{self.patience_s:g} s ({reason}); check that `mpo serve` is running there"
                )
            # At random: the service refused all workers at once.
            await asyncio.sleep(random.uniform(longest_wait / 2, longest_wait))
            longest_wait = min(_LONGEST_WAIT_S, 2 * longest_wait)

    def meta_step_now(self, step: int) -> dict[str, Any]:
        """Let the rubric change after the `step`-th update, and wait. Not from an event loop.

        Raises:
            MPOError: The service refuses, or cannot be reached for `patience_s`.
        """
        return self._post_now("/v1/meta_step", {"step": step})

    def snapshot_now(self, tag: str, step: int) -> dict[str, Any]:
        """Store the run's position under a tag, with a checkpoint. Raises like `meta_step_now`."""
        return self._post_now("/v1/snapshot", {"tag": tag, "step": step})

    def restore_now(self, *, tag: str | None = None, snapshot: Any = None) -> dict[str, Any]:
        """Go back to a tag or a snapshot. Raises like `meta_step_now`."""
        return self._post_now("/v1/restore", {"tag": tag, "snapshot": snapshot})

    async def aclose(self) -> None:
        """Close the connections of the running event loop."""
        await self._sessions.aclose()

    def _post_now(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return run_in_loop(self.post(path, {"run_id": self.run_id, **body}, self.patience_s))

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        token = os.environ.get(self.token_env)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers

    def _read(self, status: int, text: str) -> dict[str, Any]:
        if status >= 400:
            kind: type[MPOError] = BudgetError if status == 402 else ConfigError
            raise kind(f"the reward service at {self.url} refused ({status}): {_message(text)}")
        try:
            response = json.loads(text)
        except ValueError:
            response = None
        if not isinstance(response, dict):
            raise ChatReplyError(
                f"malformed: {self.url} is no reward service: its response was {text[:100]!r}"
            )
        return response


def _message(text: str) -> str:
    """Message in an error's body."""
    try:
        return str(json.loads(text)["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return text[:200]
