"""OpenAIChat: any server that speaks OpenAI's `/chat/completions`, over aiohttp.

    chat = OpenAIChat("http://localhost:8000/v1", "qwen", concurrency=64)
    request = ChatRequest(({"role": "user", "content": "Hello"},), max_tokens=16)
    completion = await chat.complete(request)
    await chat.aclose()

Guarantees:

- A call ends: every attempt has a timeout, and all attempts and waits together a deadline. The
  timeout grows for an endpoint that is slow, at most to the deadline.
- Overload (408, 409, 429, 5xx), broken connections, stalls and unreadable bodies are retried, with
  full jitter and as `Retry-After` says (`replies.py`), also where a reply with status 200 tells of
  them. Failures that a repetition cannot fix (400, 401, 403, 404, 422, redirects) are not.
- A field that the endpoint refuses is left out from then on (`dialect.py`), and the log says so.
- Thinking in front of an answer is taken off (`thinking.py`).
- The API key is read from the environment for each request. It is in no attribute, log line,
  error or pickle of this package, and is redacted if a server repeats it in an error.
- One object may be used from several event loops. Each loop has its own connections; the limit on
  requests in flight holds for all loops together, and adapts to the endpoint's capacity.

The first word of an error's message is for statistics: `unreachable:`, `failed:`, `rejected:`,
`malformed:`, `refused:`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Collection, Mapping, MutableMapping
from dataclasses import replace
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

from ..errors import ChatError, ChatReplyError, ChatTransportError, ConfigError
from ..redaction import LEAST, find_secret, is_variable_name, read_secret, redact
from .base import ChatRequest, Completion
from .dialect import Dialect
from .identity import endpoint_identity
from .limiter import Limiter
from .probe import FORMAT_REFUSED, Detector
from .refusals import refused_fields
from .replies import (
    OVERLOAD,
    Failure,
    PaidReplies,
    Retry,
    all_thinking,
    clip,
    error_message,
    failure_inside,
    is_retryable,
    read_reply,
    retry_after,
)
from .sessions import Sessions
from .structured import (
    OUTPUTS,
    StructuredOutput,
    ask_in_lines,
    is_object,
    read_answer,
    response_format,
)

__all__ = ["OpenAIChat"]

_log = logging.getLogger(__name__)

_REFUSALS = frozenset({400, 422, 500, 501})
"""Statuses with which servers refuse a field. The last two have other causes, too: they are retried
as they are where no field is named."""

_ENCODER = json.JSONEncoder(default=dict)

_AZURE = (".azure.com", ".azure.us", ".azure.cn")

_CONNECT_S = 10.0
"""Longest wait for a connection, in seconds; a host that is silent for longer is down."""


class OpenAIChat:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        base_url: URL up to and including the version: `http://localhost:8000/v1`.
        model: The endpoint's name for the model.
        api_key_env: Environment variable with the API key; unset or empty sends none.
        timeout_s: Longest time for one attempt, in seconds.
        deadline_s: Longest time for all attempts and waits of one call, in seconds. It starts when
            the call gets its place among those in flight.
        retries: Attempts after the first.
        backoff_s: Upper bound of the first wait, in seconds; see `Retry`.
        concurrency: Maximum number of requests in flight.
        extra_body: Fields added to each request, for options of one server
            (`{"chat_template_kwargs": {"enable_thinking": False}}`). None removes a field:
            `{"temperature": None}`.
        max_tokens_field: The endpoint's name for this field. OpenAI's newer models want
            `max_completion_tokens`; where one name is refused, the other is used.
        structured_output: How an answer is held to a schema (`structured.py`). `auto` detects it
            with at most three small calls before the first call that has a schema; that call's
            usage includes them. Where the endpoint refuses one, the next weaker one is used.
        dialects: Findings by endpoint. Pass the same mapping to all chats of a process, and each
            endpoint is probed once, and refuses a field once.
        limiter: The limit on requests in flight. Pass the same one to all chats of an endpoint; by
            default one is made from `concurrency`.

    Raises:
        ConfigError: An argument is invalid.
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
        structured_output: StructuredOutput | Literal["auto"] = "json_schema",
        dialects: MutableMapping[str, Dialect] | None = None,
        limiter: Limiter | None = None,
    ) -> None:
        self.url = _endpoint(base_url)
        """URL of the requests."""
        self.model = model
        # What `auto` detects is `json_schema` on most servers: the two are one setting.
        form = None if structured_output in ("auto", "json_schema") else structured_output
        self.identity = endpoint_identity(
            self.url, model, {"extra_body": extra_body, "structured_output": form}
        )
        """The model that answers, as `mpo.chat.identity` writes it: part of every key."""
        self.api_key_env = api_key_env
        self.timeout_s = timeout_s
        self.deadline_s = deadline_s
        self.retry = Retry(retries, base_s=backoff_s)
        self.extra_body = dict(extra_body or {})
        self.max_tokens_field = max_tokens_field
        if not is_variable_name(api_key_env):
            raise ConfigError(  # most likely the key itself, so it is not repeated
                "api_key_env must be the name of an environment variable, like OPENAI_API_KEY, and "
                "the value is no such name. Put the key into the variable, not here"
            )
        if concurrency < 1:
            raise ConfigError(f"concurrency must be at least 1, not {concurrency!r}")
        self.limiter = limiter or Limiter(concurrency)
        self.structured_output = structured_output
        self._paid = PaidReplies()
        for name in ("model", "messages", "stream"):
            if name in self.extra_body:
                raise ConfigError(f"extra_body holds {name!r}, which is not an extra: take it out")
        dialects = dialects if dialects is not None else {}
        self.dialect = dialects.setdefault(self.identity, Dialect(self.identity))
        self._detector = Detector(self.dialect)
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
        try:
            completion = await self._complete(request)
        except ChatError as error:
            error.usage = self._paid.take()
            raise
        paid = self._paid.take()
        return completion if paid is None else replace(completion, usage=paid + completion.usage)

    async def _complete(self, request: ChatRequest) -> Completion:
        output = OUTPUTS[-1]
        if request.schema is not None:
            output = await self._output(request)
        outcome = await self._ask(request, output)
        while isinstance(outcome, Failure):  # nothing but a refused `response_format`
            self.dialect.refuse_output(output, outcome.message)
            output = self.dialect.output(output)
            outcome = await self._ask(request, output)
        self.dialect.check_prompt(request, outcome)
        whole = outcome.finish_reason == "stop"
        if output == "json_object" and whole and not is_object(outcome.text):
            # Its only promise is broken: the caller's next attempt is asked for in lines.
            self.dialect.refuse_output(output, "an answer was no JSON object")
        return outcome

    async def _output(self, request: ChatRequest) -> StructuredOutput:
        """The way to request a shape."""
        output = self.structured_output
        if output == "auto":
            output = await self._detector.find(self._probe, request)
        return self.dialect.output(output)

    async def aclose(self) -> None:
        await self._sessions.aclose()

    def check_reachable(self, timeout_s: float = 5.0) -> None:
        """Open and close a connection. Makes no call, so it costs nothing.

        Raises:
            ChatTransportError: No server listens at the endpoint.
        """
        try:
            self._sessions.check(timeout_s)
        except OSError as error:
            text = self._error_text(error)
            if self._sessions.proxy is None:
                text = f"nobody answers at {self.shown_url} ({text})"
            failure = self._sessions.failure(error, text)
            raise ChatTransportError(
                f"{failure.message} ({self._place()}){self._advice(failure)}"
            ) from None

    # ---------------------------------------------------------------------- one call

    async def _ask(
        self, request: ChatRequest, output: StructuredOutput, accept: Collection[int] = ()
    ) -> Completion | Failure:
        """One call with the given output, and its answer without the thinking."""
        schema, format = request.schema, None
        if schema is not None and output == "lines":
            request = replace(request, messages=ask_in_lines(request.messages, schema))
        elif output != "lines":
            format = response_format(schema or {}, output)
        outcome = await self._send(request, format, accept)
        if isinstance(outcome, Failure):
            return outcome
        thinking, text = read_answer(outcome.text, schema, output)
        if not text and text != outcome.text:
            return all_thinking(outcome)
        whole = outcome.finish_reason == "stop"
        return replace(outcome, text=text) if whole or thinking else outcome

    async def _probe(self, request: ChatRequest, output: StructuredOutput) -> Completion | Failure:
        outcome = await self._ask(request, output, FORMAT_REFUSED)
        if isinstance(outcome, Completion):
            self._paid.add(outcome.usage)
        return outcome

    async def _send(
        self, request: ChatRequest, format: str | None, accept: Collection[int]
    ) -> Completion | Failure:
        """Make attempts until one is answered or another attempt would be useless.

        Args:
            request: The call.
            format: The `response_format`, as JSON; None sends none.
            accept: Statuses of failures that are returned and not raised.

        Returns:
            The completion; or a failure of `accept`, or one that refuses the `response_format`.

        Raises:
            ChatTransportError: The model could not be reached, or kept failing.
            ChatReplyError: The reply is not a chat completion.
        """
        changes, refusals = self.dialect.changes, dict[str, str]()
        fields = self._fields(request)
        await self.limiter.acquire()
        try:
            started, attempt = time.monotonic(), 1
            while True:
                time_left = self.deadline_s - (time.monotonic() - started)
                limit = max(self.timeout_s, self.dialect.timeout_s)
                sent = changes.apply(fields)
                outcome = await self._attempt(self._encode(sent, format), min(limit, time_left))
                if isinstance(outcome, Completion):
                    self.dialect.learn(changes, refusals)
                    self.limiter.succeeded()
                    return outcome
                refused = self._refused(outcome, sent, format)
                if refused is not None and refused not in refusals:
                    if not refused_fields(outcome.body, list(refusals), self.model):
                        self.dialect.learn(changes, refusals)  # they helped: another is refused
                    if refused == "response_format" and format is not None:
                        return outcome
                    refusals[refused] = outcome.message
                    # Another call may have found more in the meantime.
                    changes = (self.dialect.changes | changes).without(refused)
                    started = time.monotonic()
                    continue
                if outcome.status in accept:
                    return outcome
                if outcome.timed_out:
                    self.dialect.slow(limit, self.deadline_s)
                if outcome.overload:
                    self.limiter.overloaded(outcome.wait_s or 0.0)
                wait = self.retry.wait(attempt, outcome.wait_s)
                elapsed = time.monotonic() - started
                give_up = attempt > self.retry.retries or elapsed + wait >= self.deadline_s
                if give_up or not outcome.retryable:
                    raise ChatTransportError(self._explain(outcome, attempt, elapsed, wait))
                _log.debug("%s; attempt %d, next in %.2f s", outcome.message, attempt, wait)
                # The call keeps its place while it waits: a failed call must not make room for
                # another that would fail too.
                await asyncio.sleep(wait)
                attempt += 1
        finally:
            self.limiter.release()

    def _fields(self, request: ChatRequest) -> dict[str, Any]:
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": request.messages,
            "stream": False,  # some servers stream where nothing is said
            "temperature": request.temperature,
            self.max_tokens_field: request.max_tokens,
            "seed": request.seed,
            **self.extra_body,
        }
        return {name: value for name, value in fields.items() if value is not None}

    def _encode(self, fields: Mapping[str, Any], format: str | None) -> bytes:
        # ASCII escapes: a lone surrogate must not stop the call.
        text = _ENCODER.encode(fields)
        if format is not None and "response_format" not in fields:
            text = f'{text[:-1]}, "response_format": {format}}}'
        return text.encode("ascii")

    def _refused(
        self, failure: Failure, fields: Mapping[str, Any], format: str | None
    ) -> str | None:
        """The field of a request that the endpoint refuses; None if it is something else."""
        if failure.status not in _REFUSALS:
            return None
        names = [*fields, *(["response_format"] if format is not None else [])]
        refused = refused_fields(failure.body, names, self.model)
        return refused[0] if refused else None

    async def _attempt(self, payload: bytes, timeout_s: float) -> Completion | Failure:
        """One request. Exceptions of aiohttp carry the headers, and so the key: they end here."""
        import aiohttp  # late: `import mpo` must stay quick

        session, proxy = self._sessions.get(), self._sessions.proxy
        proxy_headers = proxy.headers() if proxy is not None else {}
        secure = self.url.startswith("https:")  # then the proxy makes a tunnel, and sees no request
        try:
            async with session.post(
                self.url,
                data=payload,
                headers=self._headers() | ({} if secure else proxy_headers),
                proxy=proxy.url if proxy is not None else None,
                proxy_headers=proxy_headers if secure else None,
                timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_S),
                allow_redirects=False,
            ) as response:
                status, headers = response.status, response.headers
                raw = await response.read()
        except aiohttp.ServerTimeoutError:
            return Failure(f"unreachable: no connection within {_CONNECT_S:.3g} s", True)
        except TimeoutError:
            return Failure(
                f"failed: no answer within {timeout_s:.3g} s",
                True,
                overload=True,
                timed_out=True,
                advice="The server may be slow: raise chat.timeout_s and chat.deadline_s",
            )
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError) as error:
            return self._sessions.failure(error, self._error_text(error))
        except (aiohttp.ClientError, OSError) as error:
            cause = f"{type(error).__name__}: {self._error_text(error)}"
            return Failure(f"failed: the connection broke ({cause})", True)
        # Some servers repeat the key.
        if status != 200 or b'"choices"' not in raw or b'"error"' in raw or self._holds_key(raw):
            raw = redact(raw.decode("utf-8", "replace")).encode("utf-8", "replace")
        return self._read(status, raw, headers)

    def _read(self, status: int, raw: bytes, headers: Mapping[str, str]) -> Completion | Failure:
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):  # ValueError: bad JSON and bad UTF-8 both
            body = None
        if status == 200:
            status = failure_inside(body) or 200
            if status != 200:
                self._paid.note(body, calls=0)
        if status == 200:
            if body is None:
                start = clip(raw[:80].decode("utf-8", "replace"))
                return Failure(f"malformed: the reply is no JSON: {start!r}", True)
            try:
                return read_reply(body)
            except ChatReplyError:
                self._paid.note(body, calls=1)
                raise
        error = error_message(body) or clip(raw[:200].decode("utf-8", "replace"))
        retryable = is_retryable(status)
        return Failure(
            f"{'failed' if retryable else 'rejected'}: status {status}: {error}",
            retryable,
            overload=status in OVERLOAD or status >= 500,
            wait_s=retry_after(headers) if retryable else None,
            status=status,
            body=body if body is not None else raw.decode("utf-8", "replace"),
        )

    def _headers(self) -> dict[str, str]:
        headers = {"Content-Type": "application/json"}
        key = self._key()
        if key and self._wants_api_key and not key.startswith("eyJ"):
            headers["api-key"] = key
        elif key:
            headers["Authorization"] = f"Bearer {key}"
        return headers

    @property
    def _wants_api_key(self) -> bool:
        """True for Azure, which takes a key in a header of its own; tokens of Entra ID, which are
        JSON in base64, it takes as others do."""
        url = urlsplit(self.url)
        return (url.hostname or "").endswith(_AZURE) or "api-version" in parse_qs(url.query)

    def _key(self) -> str:
        key = read_secret(self.api_key_env)
        if not (key.isascii() and key.isprintable()):
            # aiohttp would refuse the header with a message that quotes it.
            raise ConfigError(f"the key in {self.api_key_env} has characters no header may have")
        return key

    def _holds_key(self, raw: bytes) -> bool:
        """True for an answer with the key in it. A key that is a word, as those for servers that
        need none often are, may be a word of the answer."""
        key = self._key()
        return len(key) >= LEAST and key.encode() in raw and any(map(str.isdigit, key))

    def _error_text(self, error: Exception) -> str:
        return clip(redact(str(error))) or type(error).__name__

    def _explain(self, failure: Failure, attempts: int, elapsed_s: float, wait_s: float) -> str:
        tried = "1 attempt" if attempts == 1 else f"{attempts} attempts in {elapsed_s:.1f} s"
        text = f"{failure.message} ({self._place()}, {tried})"
        if failure.retryable and attempts <= self.retry.retries:
            text += f"; the next attempt, {wait_s:.1f} s later, would be past deadline_s"
        return text + self._advice(failure)

    def _place(self) -> str:
        proxy = self._sessions.proxy
        through = f", through the proxy {proxy.url} of {proxy.variable}" if proxy else ""
        return f"{self.shown_url}, model {self.model!r}{through}"

    def _advice(self, failure: Failure) -> str:
        if failure.advice:
            return f". {failure.advice}"
        if failure.message.startswith(("unreachable:", "malformed:")) or failure.status == 404:
            known = " and that it has this model" if failure.status == 404 else ""
            return (
                f". Check that the server is running{known}, "
                "and that base_url is right (it usually ends in /v1)"
            )
        if failure.status in (401, 403):
            state = "holds the right key" if self._key() else "is set: it is empty"
            return f". Check that the environment variable {self.api_key_env} {state}"
        if self._sessions.proxy is not None and failure.status in (407, 502, 503, 504):
            return f". {self._sessions.proxy.advice(urlsplit(self.url).hostname)}"
        if 300 <= failure.status < 400:
            return ". Put the final address into base_url"
        return ""


def _endpoint(base_url: str) -> str:
    parts = urlsplit(base_url)
    if parts.username or parts.password:
        raise ConfigError(
            "base_url holds a user name or password. Put the key into the environment variable "
            "that api_key_env names"
        )
    if find_secret(base_url) is not None:
        raise ConfigError(
            "base_url holds a key in its query. Put the key into the environment variable that "
            "api_key_env names: it is sent as `Authorization: Bearer`"
        )
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(
            f"base_url must be like 'http://localhost:8000/v1', not {base_url.partition('?')[0]!r}"
        )
    path = parts.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
    return parts._replace(path=path, fragment="").geturl()
