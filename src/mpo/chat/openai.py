"""OpenAIChat: any server that speaks OpenAI's `/chat/completions`, over aiohttp.

    chat = OpenAIChat("http://localhost:8000/v1", "qwen", concurrency=64)
    request = ChatRequest(({"role": "user", "content": "Hello"},), max_tokens=16)
    completion = await chat.complete(request)
    await chat.aclose()

What it promises:

- A call ends: every attempt has a timeout, and all attempts and waits together a deadline.
- Overload (408, 409, 429, 5xx), broken connections, stalls and unreadable bodies are tried again,
  with full jitter and as `Retry-After` asks (`retry.py`); what a repetition cannot mend (400, 401,
  403, 404, 422, redirects) is not.
- The API key is read from the environment for each request. It is in no attribute, log line,
  error or pickle of this package, and is blotted out where a server repeats it in an error.
- One object may be used from several event loops. Each has connections of its own; the limit on
  requests in flight holds for all of them together, and follows what the endpoint can bear.

The first word of an error's message is for statistics: `unreachable:`, `failed:`, `rejected:`,
`malformed:`, `refused:`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import time
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import urlsplit

from ..errors import ChatTransportError, ConfigError
from ..records import Usage
from .base import ChatRequest, Completion
from .limiter import Limiter
from .probe import NOT_TAKEN, TierFinder
from .replies import clip, error_message, read_reply
from .retry import OVERLOAD, Failure, Retry, retry_after, worth_retrying
from .sessions import Sessions
from .structured import Tier, ask_in_lines, read_lines, response_format, unwrap

__all__ = ["OpenAIChat"]

_log = logging.getLogger(__name__)

_UNSUPPORTED = re.compile(r"[Uu]nsupported (?:parameter|value): '(\w+)'")
"""OpenAI's words for a field that a model does not take."""

_ENCODER = json.JSONEncoder(default=dict)

_CONNECT_S = 10.0
"""Longest wait for a connection, in seconds: a host that is silent for so long is down."""


class OpenAIChat:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        base_url: Up to and including the version: `http://localhost:8000/v1`.
        model: Name that the endpoint knows the model by.
        api_key_env: Environment variable with the API key; unset or empty sends none.
        timeout_s: Longest time for one attempt, in seconds.
        deadline_s: Longest time for all attempts and waits of one call, in seconds, counted from
            the moment the call has its place among those in flight.
        retries: Attempts after the first.
        backoff_s: Mean order of the first wait, in seconds; see `Retry`.
        concurrency: Most requests in flight.
        extra_body: Fields added to each request, for what only one server knows
            (`{"chat_template_kwargs": {"enable_thinking": False}}`). None takes a field out:
            `{"temperature": None}` for models that refuse one.
        max_tokens_field: What the endpoint calls it; OpenAI's newer models want
            `max_completion_tokens`.
        tier: How a schema is asked for (`structured.py`). `auto` finds out with at most three
            small calls before the first call that has a schema; that call's usage includes them.
        tiers: What `auto` has found, by endpoint; give the same mapping to all chats of a process
            and each endpoint is probed once.
        limiter: The limit on requests in flight; give the same to all chats of one endpoint. Made
            from `concurrency` where there is none.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        timeout_s: float = 120.0,
        deadline_s: float = 600.0,
        retries: int = 5,
        backoff_s: float = 0.5,
        concurrency: int = 64,
        extra_body: Mapping[str, Any] | None = None,
        max_tokens_field: str = "max_tokens",
        tier: Tier | Literal["auto"] = "json_schema",
        tiers: MutableMapping[str, Tier] | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        self.url = _endpoint(base_url)
        """Where requests go."""
        self.model = model
        self.api_key_env = api_key_env
        self.timeout_s = timeout_s
        self.deadline_s = deadline_s
        self.retry = Retry(retries, base_s=backoff_s)
        self.extra_body = dict(extra_body or {})
        self.max_tokens_field = max_tokens_field
        if not api_key_env.isidentifier():
            raise ConfigError(  # most likely the key itself, so it is not repeated
                "api_key_env is the name of an environment variable, like OPENAI_API_KEY; what it "
                "was given is no such name. Put the key into the variable, not here"
            )
        if concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, not {concurrency!r}")
        self.limiter = limiter or Limiter(concurrency)
        self.tier = tier
        endpoint = f"{self.shown_url} {model}"
        self._finder = TierFinder(endpoint, tiers if tiers is not None else {})
        self._sessions = Sessions(self.url)

    def __repr__(self) -> str:
        return f"OpenAIChat({self.shown_url!r}, {self.model!r})"

    @property
    def name(self) -> str:
        return self.model

    @property
    def shown_url(self) -> str:
        """The URL for messages: without the query, where some hosts want a key."""
        return self.url.partition("?")[0].removesuffix("/chat/completions")

    async def complete(self, request: ChatRequest) -> Completion:
        schema = request.schema
        if schema is None:
            return await self._ask(request, None)
        tier, probing = self.tier, Usage()
        if tier == "auto":
            tier, probing = await self._finder.find(self._probe)
        if tier == "lines":
            request = replace(request, messages=ask_in_lines(request.messages, schema))
        completion = await self._ask(request, response_format(schema, tier))
        if probing.calls:
            completion = replace(completion, usage=probing + completion.usage)
        if completion.finish_reason != "stop" or tier not in ("json_object", "lines"):
            return completion
        text = completion.text
        return replace(
            completion, text=unwrap(read_lines(text, schema) if tier == "lines" else text)
        )

    async def aclose(self) -> None:
        await self._sessions.aclose()

    def _body(self, request: ChatRequest, format: str | None) -> bytes:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": request.messages,
            "temperature": request.temperature,
            self.max_tokens_field: request.max_tokens,
            "seed": request.seed,
        }
        body.update(self.extra_body)
        # ASCII escapes: a lone surrogate must not stop the call.
        text = _ENCODER.encode({field: v for field, v in body.items() if v is not None})
        if format is not None and "response_format" not in self.extra_body:
            text = f'{text[:-1]}, "response_format": {format}}}'
        return text.encode("ascii")

    async def _probe(self, request: ChatRequest, tier: Tier) -> Completion | Failure:
        format = response_format(request.schema or {}, tier)
        return await self._adapting(request, format, NOT_TAKEN)

    async def _ask(self, request: ChatRequest, format: str | None) -> Completion:
        outcome = await self._adapting(request, format, (400,))
        if isinstance(outcome, Failure):
            raise ChatTransportError(self._explain(outcome, 1, 0.0, 0.0))
        return outcome

    async def _adapting(
        self, request: ChatRequest, format: str | None, accept: Collection[int]
    ) -> Completion | Failure:
        """Ask, and again where the model only refused a field that can be written otherwise.

        Args:
            request: The call.
            format: The `response_format`, as JSON.
            accept: Statuses that come back as a failure.
        """
        payload = self._body(request, format)
        while True:
            outcome = await self._in_flight(payload, accept)
            if isinstance(outcome, Completion):
                return outcome
            self._adapt(outcome)
            # Compared, since another call may have been faster to find it out.
            again = self._body(request, format)
            if again == payload:
                return outcome
            payload = again

    def _adapt(self, failure: Failure) -> None:
        """Take out what the model says that it does not take: OpenAI's newer ones want
        `max_completion_tokens`, and no temperature."""
        found = _UNSUPPORTED.search(failure.what)
        if failure.status != 400 or found is None:
            return
        field = found[1]
        if field == "max_tokens" and "max_completion_tokens" in failure.what:
            self.max_tokens_field = "max_completion_tokens"
        elif field in ("temperature", "seed") and self.extra_body.get(field, 0) is not None:
            self.extra_body[field] = None
        else:
            return
        _log.info("%s, %s: requests go without %s from now on", self.shown_url, self.model, field)

    async def _in_flight(
        self, payload: bytes, accept: Collection[int] = ()
    ) -> Completion | Failure:
        await self.limiter.acquire()
        try:
            return await self._until_answered(payload, accept)
        finally:
            self.limiter.release()

    async def _until_answered(
        self, payload: bytes, accept: Collection[int]
    ) -> Completion | Failure:
        """Attempts until one is answered; a failure is returned only with an accepted status."""
        started = time.monotonic()
        attempt = 0
        while True:
            attempt += 1
            left = self.deadline_s - (time.monotonic() - started)
            outcome = await self._attempt(payload, min(self.timeout_s, left))
            if isinstance(outcome, Completion):
                self.limiter.succeeded()
                return outcome
            if outcome.status in accept:
                return outcome
            if outcome.overload:
                self.limiter.overloaded(outcome.wait_s or 0.0)
            wait = self.retry.wait(attempt, outcome.wait_s)
            elapsed = time.monotonic() - started
            tired = attempt > self.retry.retries or elapsed + wait >= self.deadline_s
            if tired or not outcome.again:
                raise ChatTransportError(self._explain(outcome, attempt, elapsed, wait))
            _log.debug("%s; attempt %d, next in %.2f s", outcome.what, attempt, wait)
            # The place in flight is kept while waiting: whoever failed does not make room for
            # another request that would fail too.
            await asyncio.sleep(wait)

    async def _attempt(self, payload: bytes, timeout_s: float) -> Completion | Failure:
        """One request. Exceptions of aiohttp end here: they carry the headers, and so the key."""
        import aiohttp  # late: `import mpo` must stay quick

        session = self._sessions.get()
        try:
            async with session.post(
                self.url,
                data=payload,
                headers=self._headers(),
                proxy=self._sessions.proxy,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S),
                allow_redirects=False,
            ) as response:
                status, headers = response.status, response.headers
                raw = await response.read()
        except aiohttp.ServerTimeoutError:
            return Failure(f"unreachable: no connection within {_CONNECT_S:.3g} s", True)
        except TimeoutError:
            return Failure(f"failed: no answer within {timeout_s:.3g} s", True, overload=True)
        except aiohttp.ClientConnectorCertificateError as error:
            return Failure(f"unreachable: {self._line(error)}", False)
        except aiohttp.ClientConnectorError as error:
            return Failure(f"unreachable: {self._line(error)}", True)
        except (aiohttp.ClientError, OSError) as error:
            what = f"failed: the connection broke ({type(error).__name__}: {self._line(error)})"
            return Failure(what, True)
        if status != 200 or b'"choices"' not in raw or b'"error"' in raw:
            raw = self._blot(raw)
        return self._read(status, raw, headers)

    def _read(self, status: int, raw: bytes, headers: Mapping[str, str]) -> Completion | Failure:
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):  # ValueError: bad JSON and bad UTF-8 both
            body = None
        if status == 200 and isinstance(body, Mapping) and "choices" not in body:
            status = _status_inside(body)  # some gateways answer 200 with an error inside
        if status == 200:
            if body is None:
                start = clip(raw[:80].decode("utf-8", "replace"))
                return Failure(f"malformed: the reply is no JSON: {start!r}", True)
            return read_reply(body)
        said = error_message(body) or clip(raw[:200].decode("utf-8", "replace"))
        again = worth_retrying(status)
        return Failure(
            f"{'failed' if again else 'rejected'}: status {status}: {said}",
            again,
            overload=status in OVERLOAD or status >= 500,
            wait_s=retry_after(headers) if again else None,
            status=status,
        )

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        key = self._key()
        if key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    def _key(self) -> str:
        key = os.environ.get(self.api_key_env, "").strip()
        if not (key.isascii() and key.isprintable()):
            # aiohttp would refuse the header with a message that quotes it.
            raise ConfigError(f"the key in {self.api_key_env} has characters no header may have")
        return key

    def _blot(self, raw: bytes) -> bytes:
        """What a server says of an error, without the key: some repeat it when they refuse it.

        Answers are left alone: `EMPTY` or `none` is a usual key for a server that wants none, and
        a usual word too.
        """
        key = self._key().encode()
        return raw.replace(key, b"[API key]") if len(key) >= 8 else raw

    def _line(self, error: Exception) -> str:
        said = self._blot(str(error).encode("utf-8", "replace")).decode()
        return clip(said) or type(error).__name__

    def _explain(self, failure: Failure, attempts: int, elapsed_s: float, wait_s: float) -> str:
        tried = "1 attempt" if attempts == 1 else f"{attempts} attempts in {elapsed_s:.1f} s"
        text = f"{failure.what} ({self.shown_url}, model {self.model!r}, {tried})"
        if failure.again and attempts <= self.retry.retries:
            text += f"; the next attempt, {wait_s:.1f} s later, would be past deadline_s"
        return text + self._advice(failure)

    def _advice(self, failure: Failure) -> str:
        if failure.what.startswith(("unreachable:", "malformed:")) or failure.status == 404:
            known = " and that it has this model" if failure.status == 404 else ""
            return (
                f". Check that the server is running{known}, "
                "and that base_url is right (it usually ends in /v1)"
            )
        if failure.status in (401, 403):
            state = "holds the right key" if self._key() else "is set: it is empty"
            return f". Check that the environment variable {self.api_key_env} {state}"
        if 300 <= failure.status < 400:
            return ". Put the final address into base_url"
        return ""


def _endpoint(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.username or parts.password:
        raise ConfigError(
            "base_url holds a user name or password; keys belong into an environment variable, "
            "named by api_key_env"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"base_url must be like 'http://localhost:8000/v1', not {base_url.partition('?')[0]!r}"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    return parts._replace(path=path, fragment="").geturl()


def _status_inside(body: Mapping[str, Any]) -> int:
    error = body.get("error")
    code = error.get("code") if isinstance(error, Mapping) else None
    return code if isinstance(code, int) and 400 <= code < 600 else 200
