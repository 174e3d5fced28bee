"""A client of the service, for adapters and for programs of your own.

    client = RewardClient("http://127.0.0.1:8000")
    results = await client.score([{"prompt": "Write about tea.", "completion": "Tea is …"}])
    client.meta_step_now(120)        # in a callback that is not async
    await client.aclose()

It is patient: a service that is being restarted, or has too much to do, is asked again with the
same body, which costs no second judgement. What a repetition cannot mend is raised at once.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any

from ..chat.sessions import Sessions
from ..errors import BudgetError, ChatReplyError, ChatTransportError, ConfigError, MPOError

__all__ = ["RewardClient"]

AGAIN = frozenset({408, 424, 425, 429, 500, 502, 503, 504})
"""Statuses that another attempt may mend."""
_LONGEST_WAIT_S = 10.0


class RewardClient:
    """Asks a reward service. May be pickled, and used from several event loops.

    Args:
        url: Of the service: `http://127.0.0.1:8000`.
        run_id: The run that is meant; a service of another run refuses. Empty takes any.
        token_env: Environment variable with the service's token; unset or empty sends none.
        deadline_s: The service answers within so many seconds.
        patience_s: How long a request is tried again before it is given up, in seconds. It should
            cover a restart of the service.
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
            raise ConfigError(f"{url!r} is no URL of a reward service: http://host:port")
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
        """Results of items in order; see `mpo.service.wire` for both.

        Raises:
            MPOError: The service refuses them, or could not be reached for `patience_s`.
        """
        answer = await self.post("/v1/score", self._scoring(items, mode, on_failure))
        results = answer.get("results")
        if not isinstance(results, list) or len(results) != len(items):
            raise ChatReplyError(f"malformed: {self.url} gave no result for each item")
        return results

    async def post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Post JSON, and again while that may help.

        Raises:
            MPOError: Refused, or not reached for `patience_s`.
        """
        import aiohttp

        tries = _Tries(self.url, self.patience_s)
        data = json.dumps(body).encode()
        timeout = aiohttp.ClientTimeout(total=self.deadline_s + 30, sock_connect=10)
        while True:
            try:
                session = self._sessions.get()
                async with session.post(
                    self.url + path, data=data, headers=self._headers(), timeout=timeout
                ) as response:
                    text = await response.text()
                    status = response.status
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                await asyncio.sleep(tries.failed(f"{type(error).__name__}: {error}"))
                continue
            if status not in AGAIN:
                return _read(self.url, status, text)
            await asyncio.sleep(tries.failed(f"{status}: {_message(text)}"))

    def post_now(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """The same without an event loop, for callbacks."""
        tries = _Tries(self.url, self.patience_s)
        data = json.dumps(body).encode()
        while True:
            request = urllib.request.Request(self.url + path, data, self._headers())
            try:
                with urllib.request.urlopen(request, timeout=self.patience_s) as response:
                    return _read(self.url, response.status, response.read().decode())
            except urllib.error.HTTPError as error:
                text = error.read().decode(errors="replace")
                if error.code not in AGAIN:
                    return _read(self.url, error.code, text)
                wait = tries.failed(f"{error.code}: {_message(text)}")
            except OSError as error:
                wait = tries.failed(str(error))
            time.sleep(wait)

    def meta_step_now(self, step: int) -> dict[str, Any]:
        """After the step-th update: the rubric may change now."""
        return self.post_now("/v1/meta_step", {"run_id": self.run_id, "step": step})

    def snapshot_now(self, tag: str, step: int) -> dict[str, Any]:
        """Note where the run stands, with a checkpoint."""
        return self.post_now("/v1/snapshot", {"run_id": self.run_id, "tag": tag, "step": step})

    def restore_now(self, *, tag: str | None = None, snapshot: Any = None) -> dict[str, Any]:
        """Go back to a checkpoint's snapshot."""
        body = {"run_id": self.run_id, "tag": tag, "snapshot": snapshot}
        return self.post_now("/v1/restore", body)

    async def aclose(self) -> None:
        """Close the connections that the running event loop holds."""
        await self._sessions.aclose()

    def _scoring(
        self, items: Sequence[Mapping[str, Any]], mode: str, on_failure: str
    ) -> dict[str, Any]:
        return {
            "schema": "mpo.reward/1",
            "run_id": self.run_id,
            "mode": mode,
            "items": [dict(item) for item in items],
            "options": {"deadline_s": self.deadline_s, "on_failure": on_failure},
        }

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        token = os.environ.get(self.token_env)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        return headers


class _Tries:
    """How often something was tried, and how long to wait."""

    def __init__(self, url: str, patience_s: float) -> None:
        self._url = url
        self._patience_s = patience_s
        self._until = time.monotonic() + patience_s
        self._count = 0

    def failed(self, why: str) -> float:
        """Seconds to wait before the next attempt.

        Raises:
            ChatTransportError: The patience is at its end.
        """
        if time.monotonic() > self._until:
            raise ChatTransportError(
                f"unreachable: the reward service at {self._url} gave no answer for "
                f"{self._patience_s:g} s ({why}); is `mpo serve` running there?"
            )
        self._count += 1
        longest = min(_LONGEST_WAIT_S, 0.25 * 2**self._count)
        return random.uniform(longest / 2, longest)  # apart: all workers were refused at once


def _read(url: str, status: int, text: str) -> dict[str, Any]:
    if status >= 400:
        message = f"the reward service at {url} refused ({status}): {_message(text)}"
        kinds: dict[int, type[MPOError]] = {402: BudgetError}
        raise kinds.get(status, ConfigError)(message)
    try:
        answer = json.loads(text)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise ChatReplyError(f"malformed: {url} is no reward service: it said {text[:100]!r}")
    return answer


def _message(text: str) -> str:
    """What an error's body says."""
    try:
        return str(json.loads(text)["error"]["message"])[:500]
    except (ValueError, KeyError, TypeError):
        return text[:200]
